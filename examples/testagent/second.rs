//! Two refusals and then a program that runs.

use pmda_bpf::catalog::From;
use pmda_bpf::catalog::Mapped;
use pmda_bpf::catalog::Metric;
use pmda_bpf::catalog::Module;
use pmda_bpf::catalog::Over;
use pmda_bpf::catalog::Plain;
use pmda_bpf::catalog::Rows;
use pmda_bpf::catalog::Shape;
use pmda_bpf::pmda::Semantics;
use pmda_bpf::pmda::Type;
use pmda_bpf::pmda::Units;

/// The table.
pub static MODULE: Module = Module {
    name: "second",
    summary: "Two refusals and then a program that runs",
    default: true,
    options: &[],
    metrics: &[Metric::Plain(Plain {
        item: 0,
        name: "test.second",
        ty: Type::U64,
        semantics: Semantics::Counter,
        units: Units::Count,
        from: From::Field("events", Over::Host),
        oneline: "Context switches",
        help: &["For the tests."],
    })],
    shape: Shape::Mapped(Mapped {
        object: pmda_bpf::object!("failures"),
        hooks: &[&["on_nothing", "on_refused", "on_switch"]],
        rows: Rows { map: "rows", layout: "failures_row", keys: None },
    }),
};
