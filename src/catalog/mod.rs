//! The vocabulary in which a module describes itself, and what follows from a description.
//!
//! A module is one static table ([`Module`]). Names, PMIDs, help, instance domains, the
//! configuration file and the documentation are functions of it (see [`expand`] and
//! [`render`]); code is written only where a value needs code.

mod buckets;
mod expand;
mod indoms;
mod options;
pub mod render;

pub use buckets::BucketUnit;
pub use buckets::CUMULATIVE_INFINITY;
pub use expand::Catalog;
pub use expand::Column;
pub use expand::Entry;
pub use expand::Origin;
pub use indoms::IndomEntry;
pub use indoms::IndomKind;
pub use options::Automaton;
pub use options::Kind;
pub use options::Opt;
pub use options::Setting;
pub use options::UNSET;
pub use options::Values;
pub use options::number;

use crate::pmda::Semantics;
use crate::pmda::Type;
use crate::pmda::Units;

/// The compiled object of `bpf/<name>.bpf.c`, embedded.
#[macro_export]
macro_rules! object {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".bpf.o"))
    };
}

/// Writes the list of modules: `cluster => name,` for each file of that name. The cluster
/// number becomes part of every PMID of the module and is never used again for another.
/// Another agent may take over modules from here with `use cluster => path::MODULE;` first.
#[macro_export]
macro_rules! modules {
    ($(use $known:literal => $at:path;)* $($cluster:literal => $name:ident,)*) => {
        $(pub mod $name;)*

        /// Every module with its cluster number, in the order in which they were added.
        pub static MODULES: &[(u16, &$crate::catalog::Module)] = &[$(($known, &$at),)* $(($cluster, &$name::MODULE)),*];
    };
}

/// One tool: one cluster of metrics and one section of the configuration.
#[derive(Debug)]
pub struct Module {
    /// As in the configuration and in `bpf.module.*`.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Whether it is on where the configuration does not mention it.
    pub default: bool,
    /// Its options beside `enabled`.
    pub options: &'static [Opt],
    /// Its metrics. Item numbers are for ever: a metric may go, its number does not return.
    pub metrics: &'static [Metric],
    /// Where its values come from.
    pub shape: Shape,
}

impl Module {
    /// Its section of the configuration. That of the plugin itself is named as in pmdabcc.
    #[must_use]
    pub const fn section(&self) -> &'static str {
        match self.shape {
            Shape::Status => "pmda",
            _ => self.name,
        }
    }
}

/// Where a module's values come from.
#[derive(Debug)]
pub enum Shape {
    /// The plugin's knowledge of its own modules.
    Status,
    /// Counters that programs keep in mapped memory.
    Mapped(Programs),
    /// Events, of which the last ones are rows.
    Events(Events),
    /// A table whose rows come and go, looked through once a second.
    Polled(Polled),
}

impl Shape {
    /// The BPF object, where there is one.
    #[must_use]
    pub const fn programs(&self) -> Option<&Programs> {
        match self {
            Self::Status => None,
            Self::Mapped(programs) => Some(programs),
            Self::Events(events) => Some(&events.programs),
            Self::Polled(polled) => Some(&polled.programs),
        }
    }
}

/// A BPF object whose counters are read from mapped memory.
#[derive(Debug)]
pub struct Programs {
    /// The compiled object, from [`object!`](crate::object).
    pub object: &'static [u8],
    /// All of these are attached.
    pub hooks: &'static [Hook],
    /// These are attached too where an option is on.
    pub optional: &'static [(&'static str, &'static [Hook])],
    /// The map that holds the counters.
    pub rows: Rows,
}

/// Ways to hook the same thing, the best first: the first one that this kernel has is taken. A
/// way is one or more programs, separated by blanks, that are attached together; a program's
/// section names its attach point.
pub type Hook = &'static [&'static str];

/// Events that programs pass on in a ring buffer: every record is one C structure, which begins
/// with `ktime`, the nanoseconds of CLOCK_MONOTONIC. The last `process_count` of them are rows,
/// and keep their instance: it is the sequence number less one, modulo the number of rows.
#[derive(Debug)]
pub struct Events {
    /// The programs. Their rows count in `count` what happened, and in `lost` what found no
    /// room in the ring.
    pub programs: Programs,
    /// Name of the map that is the ring.
    pub ring: &'static str,
    /// Name of the C structure of a record.
    pub layout: &'static str,
    /// Item numbers of the metrics that every event module has.
    pub items: EventItems,
}

/// The option of every event module that sizes its ring.
pub const RING_KILOBYTES: &str = "ring_kilobytes";

/// The option of every event module that says how many of the last events are rows.
pub const EVENT_ROWS: Opt = Opt {
    name: "process_count",
    kind: Kind::Number { default: Some(20), min: 1, max: 10_000 },
    help: "Rows: the last so many events are shown",
};

/// [`RING_KILOBYTES`] as most event modules have it.
pub const RING: Opt = Opt {
    name: RING_KILOBYTES,
    kind: Kind::Number { default: Some(256), min: 4, max: 65_536 },
    help: "Kernel memory for events that have not been read yet, rounded up to a power of two; they are read within \
           some 10 ms",
};

/// Item numbers of `count`, `lost`, `seq` and `time`.
#[derive(Debug, Clone, Copy)]
pub struct EventItems {
    /// Events since the module was loaded.
    pub count: u16,
    /// Those that could not be recorded.
    pub lost: u16,
    /// Number of the event in a row.
    pub seq: u16,
    /// When it happened.
    pub time: u16,
}

/// Rows of processes: an array that programs fill and user space maps. The C structure has
/// `pid` and `state` (32 bits, 0 where the row is empty) and `ended` (64 bits, CLOCK_MONOTONIC,
/// 0 while the process lives).
#[derive(Debug)]
pub struct Polled {
    /// The programs. What has no row in the table is counted in theirs.
    pub programs: Programs,
    /// Name of the map.
    pub map: &'static str,
    /// Further maps with an entry per row.
    pub sized: &'static [&'static str],
    /// The map, a queue, of rows that no living process has. The loader fills it.
    pub unused: &'static str,
    /// Name of the C structure of an entry.
    pub layout: &'static str,
    /// The option that says how many rows there are.
    pub option: &'static str,
    /// The option that says for how many seconds the row of a process that ended is shown.
    pub linger: &'static str,
    /// Serial number of the instance domain, below 64: the agent's own.
    pub serial: u32,
}

/// A map of rows, one per possible CPU, and per key where there are keys. Fields are named as
/// in the C structure; a field `lost` counts what could not be recorded.
#[derive(Debug)]
pub struct Rows {
    /// Name of the map.
    pub map: &'static str,
    /// Name of the C structure of a row.
    pub layout: &'static str,
    /// What rows belong to, `None` where to the whole host.
    pub keys: Option<&'static Keys>,
}

/// What rows belong to: a map with one entry per key, found by the program itself. The C
/// structure has `name` (text), `used` and `stacked` (32 bits): a stacked key's events are
/// also counted under another key, so it is left out of sums over all keys.
#[derive(Debug)]
pub struct Keys {
    /// Name of the map.
    pub map: &'static str,
    /// Name of the C structure of an entry.
    pub layout: &'static str,
    /// Serial number of the instance domain of keys, below 64: the agent's own.
    pub serial: u32,
    /// What a key is, for help and labels: `disk`.
    pub noun: &'static str,
    /// The option that bounds their number. Two further entries take what exceeds it.
    pub option: &'static str,
    /// Further maps with an entry per key.
    pub sized: &'static [&'static str],
    /// The constant of the program that says how many rows a key has: one per CPU, or one for
    /// all where those would take more than [`Keys::PER_CPU_BYTES`].
    pub cpus: &'static str,
}

impl Keys {
    /// Rows are per CPU while they fit into this.
    pub const PER_CPU_BYTES: usize = 4 << 20;
}

/// Which rows a value is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// All of them: one value for the host.
    Host,
    /// Those of one key: a value per key.
    Keys,
}

/// A power-of-two histogram's instance domains, shared by histograms of the same kind.
#[derive(Debug)]
pub struct Buckets {
    /// Serial within the cluster of the domain of buckets; the next one is that of the
    /// cumulative form.
    pub serial: u32,
    /// What is counted in powers of two.
    pub unit: BucketUnit,
    /// Which rows a histogram is made of.
    pub over: Over,
}

/// One line of a module's table.
#[derive(Debug)]
pub enum Metric {
    /// One metric.
    Plain(Plain),
    /// Four metrics: `X`, `X_count`, `X_sum` and `X_bucket`, with consecutive item numbers.
    Histogram(Histogram),
}

/// One metric.
#[derive(Debug)]
pub struct Plain {
    /// Item number.
    pub item: u16,
    /// Name without the root.
    pub name: &'static str,
    /// Type of its values.
    pub ty: Type,
    /// Semantics of its values.
    pub semantics: Semantics,
    /// Units of its values.
    pub units: Units,
    /// Where a value lives.
    pub from: From,
    /// One line of help.
    pub oneline: &'static str,
    /// More help: sentences.
    pub help: &'static [&'static str],
    /// Shown only to those whom the option `readers` names: arguments, paths, typed lines.
    pub protected: bool,
}

/// Where the value of a plain metric lives.
#[derive(Debug, Clone, Copy)]
pub enum From {
    /// A 64-bit field of the rows.
    Field(&'static str, Over),
    /// What the plugin knows about each module.
    Status(Fact),
    /// A field of the event in a row: a number, or text that ends at its first NUL.
    Column(&'static str),
    /// A field of the event in a row that holds words, each ended by NUL. Where the second
    /// field is not 0, the last word is followed by `...`.
    Words(&'static str, &'static str),
    /// A 64-bit field of a process's row.
    Process(&'static str),
}

/// A fact about a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Whether it runs.
    State,
    /// Why it does not.
    Reason,
    /// What it is attached to.
    Hooks,
    /// How long loading took.
    LoadTime,
    /// Kernel memory of its maps.
    MapBytes,
    /// Time its programs took.
    RunTime,
    /// How often they ran.
    RunCount,
    /// What could not be recorded.
    Lost,
    /// How old its values are when fetched.
    Age,
}

/// A power-of-two histogram.
#[derive(Debug)]
pub struct Histogram {
    /// The first of four item numbers.
    pub item: u16,
    /// Name without the root.
    pub name: &'static str,
    /// The field of the rows with its buckets; the field `<field>_sum` is their sum in
    /// nanoseconds.
    pub field: &'static str,
    /// Its instance domains.
    pub buckets: &'static Buckets,
    /// One line of help.
    pub oneline: &'static str,
    /// More help: sentences that say exactly what is counted.
    pub help: &'static [&'static str],
}
