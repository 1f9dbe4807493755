//! Soft interrupts of the whole host.

use pmda_bpf::catalog::BucketUnit::Nanosecond;
use pmda_bpf::catalog::Buckets;
use pmda_bpf::catalog::From;
use pmda_bpf::catalog::Histogram;
use pmda_bpf::catalog::Metric;
use pmda_bpf::catalog::Module;
use pmda_bpf::catalog::Over;
use pmda_bpf::catalog::Plain;
use pmda_bpf::catalog::Programs;
use pmda_bpf::catalog::Rows;
use pmda_bpf::catalog::Shape;
use pmda_bpf::pmda::Semantics;
use pmda_bpf::pmda::Type;
use pmda_bpf::pmda::Units;

static BUCKETS: Buckets = Buckets { serial: 0, unit: Nanosecond, over: Over::Host };

/// The table.
pub static MODULE: Module = Module {
    name: "softirqs",
    summary: "Soft interrupts and their latency",
    default: true,
    options: &[],
    metrics: &[
        Metric::Plain(Plain {
            item: 0,
            name: "softirq.count",
            ty: Type::U64,
            semantics: Semantics::Counter,
            units: Units::Count,
            from: From::Field("runs", Over::Host),
            oneline: "Runs of soft interrupt handlers",
            help: &["Counted at the tracepoint softirq_entry, once per run of a handler, whatever its vector."],
            protected: false,
        }),
        Metric::Histogram(Histogram {
            item: 1,
            name: "softirq.latency",
            field: "latency",
            buckets: &BUCKETS,
            oneline: "Runs of soft interrupt handlers, by duration",
            help: &["A sample is the time from the tracepoint softirq_entry to softirq_exit on the same CPU, hard \
                   interrupts in between included. Runs whose begin was not seen, because they were in progress \
                   when the module was loaded, are counted in bpf.module.lost."],
        }),
    ],
    shape: Shape::Mapped(Programs {
        object: pmda_bpf::object!("softirqs"),
        hooks: &[&["on_entry"], &["on_exit"]],
        optional: &[],
        rows: Rows { map: "rows", layout: "softirqs_row", keys: None },
    }),
};
