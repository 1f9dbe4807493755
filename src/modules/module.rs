//! The plugin about its own modules.

use crate::catalog::Fact;
use crate::catalog::From;
use crate::catalog::Kind;
use crate::catalog::Metric;
use crate::catalog::Module;
use crate::catalog::Opt;
use crate::catalog::Plain;
use crate::catalog::Shape;
use crate::pmda::Semantics;
use crate::pmda::Semantics::Counter;
use crate::pmda::Semantics::Discrete;
use crate::pmda::Semantics::Instant;
use crate::pmda::Type;
use crate::pmda::Units;

const STATS: &str = "Present only while the sysctl kernel.bpf_stats_enabled is 1; the kernel then measures \
    every program, which costs some 75 ns per run.";
const ASKED: &str = "The kernel is asked about its programs once a second.";

#[allow(clippy::too_many_arguments, reason = "a row of the table below")]
const fn fact(
    item: u16,
    name: &'static str,
    ty: Type,
    semantics: Semantics,
    units: Units,
    fact: Fact,
    oneline: &'static str,
    help: &'static [&'static str],
) -> Metric {
    Metric::Plain(Plain { item, name, ty, semantics, units, from: From::Status(fact), oneline, help, protected: false })
}

/// The table.
pub static MODULE: Module = Module {
    name: "module",
    summary: "What the plugin knows about its own modules",
    default: true,
    options: &[
        Opt {
            name: "privileges",
            kind: Kind::Choice { default: 0, among: &["keep", "drop"] },
            help: "Whether one thread keeps CAP_BPF and CAP_PERFMON when pmcd leaves root, so that modules can be \
                   loaded later",
        },
        Opt {
            name: "start_wait",
            kind: Kind::Number { default: Some(100), min: 0, max: 60_000 },
            help: "Milliseconds that pmcd's start may wait for modules; what takes longer goes on in a worker",
        },
        Opt {
            name: "readers",
            kind: Kind::Readers,
            help: "Who may see arguments, paths and typed lines, beside root. user:pcp means pmlogger and pmproxy, and \
                   so whoever reads their archives or asks them",
        },
    ],
    metrics: &[
        fact(
            0,
            "module.state",
            Type::U32,
            Discrete,
            Units::None,
            Fact::State,
            "Whether each module runs",
            &["0: disabled; 1: running; 2: being loaded; 3: cannot run here; 4: running, but the worker that reads \
             it is stuck or has given up, so that values are old. bpf.module.reason says why."],
        ),
        fact(
            1,
            "module.reason",
            Type::String,
            Discrete,
            Units::None,
            Fact::Reason,
            "Why a module does not run",
            &["One line that says what is missing or who decided; ok where the module runs."],
        ),
        fact(
            2,
            "module.hooks",
            Type::String,
            Discrete,
            Units::None,
            Fact::Hooks,
            "What each module is attached to",
            &["The attach points in use, in the form of libbpf's section names, and what of the module's design \
             depends on this host. No value while nothing is attached."],
        ),
        fact(
            3,
            "module.load_time",
            Type::U64,
            Discrete,
            Units::Microsecond,
            Fact::LoadTime,
            "Time that loading each module took",
            &["From opening its object to its last hook."],
        ),
        fact(
            4,
            "module.map_bytes",
            Type::U64,
            Discrete,
            Units::Byte,
            Fact::MapBytes,
            "Kernel memory of each module's maps",
            &["As the kernel accounts it (memlock in the map's fdinfo) when the module was loaded."],
        ),
        fact(
            5,
            "module.run_time",
            Type::U64,
            Counter,
            Units::Nanosecond,
            Fact::RunTime,
            "Time that each module's programs took in the kernel",
            &[STATS, ASKED],
        ),
        fact(
            6,
            "module.run_count",
            Type::U64,
            Counter,
            Units::Count,
            Fact::RunCount,
            "How often each module's programs ran",
            &[STATS, ASKED],
        ),
        fact(
            7,
            "module.lost",
            Type::U64,
            Counter,
            Units::Count,
            Fact::Lost,
            "Events that each module could not record",
            &[
                "What the programs themselves had to give up, and the runs that the kernel left out because the \
             program was already running on that CPU.",
                ASKED,
            ],
        ),
        fact(
            8,
            "module.age",
            Type::U64,
            Instant,
            Units::Microsecond,
            Fact::Age,
            "Age of each module's values when they are fetched",
            &[
                "0 where values are read from the kernel's own memory at that moment; the time since the last look where a \
             worker looks through a table; how long the worker has been busy where it passes events on.",
            ],
        ),
    ],
    shape: Shape::Status,
};
