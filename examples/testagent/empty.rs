//! A program that does nothing.

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
    name: "empty",
    summary: "A program that does nothing",
    default: true,
    options: &[],
    metrics: &[Metric::Plain(Plain {
        item: 0,
        name: "test.empty",
        ty: Type::U64,
        semantics: Semantics::Counter,
        units: Units::Count,
        from: From::Field("events", Over::Host),
        oneline: "Context switches",
        help: &["For the tests."],
    })],
    shape: Shape::Mapped(Mapped {
        object: pmda_bpf::object!("empty"),
        hooks: &[&["on_io_empty"]],
        rows: Rows { map: "rows", layout: "empty_row", keys: None },
    }),
};
