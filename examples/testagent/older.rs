//! biolatency without the tracepoint that kernels have from 6.5 on.

use pmda_bpf::catalog::Module;
use pmda_bpf::catalog::Programs;
use pmda_bpf::catalog::Rows;
use pmda_bpf::catalog::Shape;
use pmda_bpf::modules::biolatency;
use pmda_bpf::modules::module;

static BIOLATENCY: Module = Module {
    shape: Shape::Mapped(Programs {
        object: pmda_bpf::object!("biolatency"),
        hooks: &[&["on_rq_complete"]],
        optional: &[],
        rows: Rows { map: "rows", layout: "biolatency_row", keys: Some(&biolatency::DISKS) },
    }),
    name: "biolatency",
    summary: "biolatency on older kernels",
    default: true,
    options: biolatency::OPTIONS,
    metrics: biolatency::METRICS,
};

/// The modules of this agent.
pub static MODULES: &[(u16, &Module)] = &[(0, &module::MODULE), (2, &BIOLATENCY)];
