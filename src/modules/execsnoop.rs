//! New programs, one by one.

use crate::catalog::EVENT_ROWS;
use crate::catalog::EventItems;
use crate::catalog::Events;
use crate::catalog::From;
use crate::catalog::Kind;
use crate::catalog::Metric;
use crate::catalog::Module;
use crate::catalog::Opt;
use crate::catalog::Plain;
use crate::catalog::Programs;
use crate::catalog::RING;
use crate::catalog::Rows;
use crate::catalog::Shape;
use crate::pmda::Semantics;
use crate::pmda::Semantics::Discrete;
use crate::pmda::Semantics::Instant;
use crate::pmda::Type;
use crate::pmda::Units;

const fn column(
    item: u16,
    name: &'static str,
    ty: Type,
    semantics: Semantics,
    from: From,
    oneline: &'static str,
    help: &'static [&'static str],
) -> Plain {
    Plain { item, name, ty, semantics, units: Units::None, from, oneline, help, protected: false }
}

const ARGS: Plain = column(
    4,
    "execsnoop.args",
    Type::String,
    Instant,
    From::Words("args", "cut"),
    "Command line of each new program",
    &[
        "Its arguments, the name it was called by first, with blanks between them. Cut after option args_bytes and \
         option max_args, which ... marks. Control characters are shown as ?.",
        "Option args says whether all of it leaves the kernel (full), the name alone (name), or nothing (off).",
    ],
);

/// The table.
pub static MODULE: Module = Module {
    name: "execsnoop",
    summary: "New programs: every execve and execveat",
    default: false,
    options: &[
        EVENT_ROWS,
        Opt { name: "uid", kind: Kind::Number { default: None, min: 0, max: u32::MAX - 1 }, help: "Only this user's" },
        Opt { name: "command", kind: Kind::Text, help: "Only programs whose short name (16 bytes) contains this" },
        Opt { name: "line", kind: Kind::Text, help: "Only command lines that contain this, within args_bytes" },
        Opt { name: "include_failed", kind: Kind::Switch, help: "Calls that failed too" },
        Opt {
            name: "args",
            kind: Kind::Choice { default: 0, among: &["full", "name", "off"] },
            help: "What of a command line leaves the kernel",
        },
        Opt {
            name: "args_bytes",
            kind: Kind::Number { default: Some(4096), min: 16, max: 4096 },
            help: "Bytes of a command line that are shown",
        },
        Opt {
            name: "max_args",
            kind: Kind::Number { default: None, min: 1, max: 4096 },
            help: "Arguments that are shown",
        },
        RING,
    ],
    metrics: &[
        Metric::Plain(column(
            0,
            "execsnoop.comm",
            Type::String,
            Instant,
            From::Column("comm"),
            "Short name of each new program",
            &["The first 15 bytes of its file's name; of a call that failed, that of the caller."],
        )),
        Metric::Plain(column(
            1,
            "execsnoop.pid",
            Type::U32,
            Discrete,
            From::Column("pid"),
            "Process that each new program runs in",
            &["In the first process id name space."],
        )),
        Metric::Plain(column(
            2,
            "execsnoop.ppid",
            Type::U32,
            Discrete,
            From::Column("ppid"),
            "Parent of the process that each new program runs in",
            &["In the first process id name space, when the program began."],
        )),
        Metric::Plain(column(
            3,
            "execsnoop.ret",
            Type::I32,
            Instant,
            From::Column("ret"),
            "What each call returned",
            &["0, or of a call that failed (option include_failed) the error as a negative number, such as -2 for \
               ENOENT."],
        )),
        Metric::Plain(Plain { protected: true, ..ARGS }),
        Metric::Plain(column(
            5,
            "execsnoop.uid",
            Type::U32,
            Instant,
            From::Column("uid"),
            "User of each new program",
            &["The real user, in the first user name space."],
        )),
    ],
    shape: Shape::Events(Events {
        programs: Programs {
            object: crate::object!("execsnoop"),
            hooks: &[&["on_exec"]],
            optional: &[("include_failed", &[&["on_execve on_execve_returned on_execveat on_execveat_returned"]])],
            rows: Rows { map: "rows", layout: "event_row", keys: None },
        },
        ring: "events",
        layout: "execsnoop_event",
        items: EventItems { count: 7, lost: 6, seq: 8, time: 9 },
    }),
};
