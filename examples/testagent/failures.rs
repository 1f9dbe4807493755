//! Modules with one counter each, which differ in what they hook: nothing there is, what the
//! verifier refuses, both before one that runs, and a program that does nothing.

use pmda_bpf::catalog::From;
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

macro_rules! counter {
    ($table:ident, $name:literal, $summary:literal, $object:literal, $hook:expr) => {
        #[doc = $summary]
        pub static $table: Module = Module {
            name: $name,
            summary: $summary,
            default: true,
            options: &[],
            metrics: &[Metric::Plain(Plain {
                item: 0,
                name: concat!("test.", $name),
                ty: Type::U64,
                semantics: Semantics::Counter,
                units: Units::Count,
                from: From::Field("events", Over::Host),
                oneline: "Context switches",
                help: &["For the tests."],
                protected: false,
            })],
            shape: Shape::Mapped(Programs {
                object: pmda_bpf::object!($object),
                hooks: &[$hook],
                optional: &[],
                rows: Rows { map: "rows", layout: concat!($object, "_row"), keys: None },
            }),
        };
    };
}

counter!(ABSENT, "absent", "A hook that no kernel has", "failures", &["on_nothing"]);
counter!(REFUSED, "refused", "A program that the verifier refuses", "failures", &["on_refused"]);
counter!(
    SECOND,
    "second",
    "Two refusals and then a program that runs",
    "failures",
    &["on_nothing", "on_refused", "on_switch"]
);
counter!(EMPTY, "empty", "A program that does nothing", "empty", &["on_io_empty"]);
