//! From module tables to the flat tables of metrics and instance domains that are registered.

use std::collections::BTreeMap;

use super::BucketUnit;
use super::Buckets;
use super::CUMULATIVE_INFINITY;
use super::Events;
use super::Fact;
use super::From;
use super::Histogram;
use super::IndomEntry;
use super::IndomKind;
use super::Keys;
use super::Metric;
use super::Module;
use super::Over;
use super::Plain;
use super::Polled;
use super::Shape;
use crate::pmda;
use crate::pmda::Semantics;
use crate::pmda::Type;
use crate::pmda::Units;

/// Serial number of the instance domain of modules.
const MODULES_SERIAL: u32 = 3;
/// Serial numbers that one cluster owns.
const SERIALS_PER_CLUSTER: u32 = 64;
/// Serial within a cluster of the domain of an event module's rows.
const ROWS_SERIAL: u32 = 0;

/// All modules, metrics and instance domains.
#[derive(Debug)]
pub struct Catalog {
    /// With their cluster numbers.
    pub modules: &'static [(u16, &'static Module)],
    /// In the order of the tables.
    pub metrics: Vec<Entry>,
    /// By serial number.
    pub indoms: BTreeMap<u32, IndomEntry>,
}

/// One metric and where its values live.
#[derive(Debug)]
pub struct Entry {
    /// Position of its module.
    pub module: usize,
    /// What is registered.
    pub metric: pmda::Metric,
    /// Where its values live.
    pub origin: Origin,
}

/// Where values live, for the source to read.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    /// A fact about each module.
    Status(Fact),
    /// A 64-bit field.
    Field(&'static str, Over),
    /// The buckets of a histogram's field.
    Buckets(&'static str, Over),
    /// The sum of its buckets.
    Count(&'static str, Over),
    /// Its sum in this unit.
    Sum(&'static str, Over, BucketUnit),
    /// Its buckets, each with all below it.
    Cumulative(&'static str, Over, BucketUnit),
    /// A cell of an event's row.
    Column(Column),
    /// What the module could not record.
    Lost,
    /// A 64-bit field of a process's row.
    Process(&'static str),
}

/// What an event's row shows in a cell, for the source to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The number of the event.
    Sequence,
    /// When it happened.
    Time,
    /// A number in this field.
    Number(&'static str, Type),
    /// Text in this field.
    Text(&'static str),
    /// Words in the first field, cut off where the second is not 0.
    Words(&'static str, &'static str),
}

impl Catalog {
    /// Expands the tables of these modules.
    #[must_use]
    pub fn new(modules: &'static [(u16, &'static Module)]) -> Self {
        let mut catalog = Self { modules, metrics: Vec::new(), indoms: BTreeMap::new() };
        for (module, (cluster, own)) in modules.iter().enumerate() {
            for metric in own.metrics {
                match metric {
                    Metric::Plain(plain) => catalog.add_plain(module, *cluster, plain),
                    Metric::Histogram(histogram) => catalog.add_histogram(module, *cluster, histogram),
                }
            }
            if let Shape::Events(events) = &own.shape {
                catalog.add_events(module, *cluster, own.name, events);
            }
        }
        catalog
    }

    /// The metrics as they are registered.
    #[must_use]
    pub fn registered(&self) -> Vec<pmda::Metric> {
        self.metrics.iter().map(|entry| entry.metric.clone()).collect()
    }

    /// The instance domains as they are registered.
    #[must_use]
    pub fn registered_indoms(&self) -> Vec<pmda::Indom> {
        self.indoms.values().map(|entry| entry.indom.clone()).collect()
    }

    /// The keys of a module's rows.
    #[must_use]
    pub fn keys(&self, module: usize) -> Option<&'static Keys> {
        self.modules.get(module)?.1.shape.programs()?.rows.keys
    }

    /// The columns of an event module's rows: what its metrics show, in their order.
    #[must_use]
    pub fn columns(&self, module: usize) -> Vec<Column> {
        let mut columns = Vec::new();
        for entry in self.metrics.iter().filter(|entry| entry.module == module) {
            match entry.origin {
                Origin::Column(column) if !columns.contains(&column) => columns.push(column),
                _ => {}
            }
        }
        columns
    }

    fn add_plain(&mut self, module: usize, cluster: u16, plain: &'static Plain) {
        let rows = || (u32::from(cluster) * SERIALS_PER_CLUSTER) + ROWS_SERIAL;
        let (origin, indom) = match plain.from {
            From::Status(fact) => (Origin::Status(fact), Some(self.modules_indom(module))),
            From::Field(field, over) => (Origin::Field(field, over), self.key_indom(module, over)),
            From::Column(field) => {
                let column =
                    if plain.ty == Type::String { Column::Text(field) } else { Column::Number(field, plain.ty) };
                (Origin::Column(column), Some(self.rows_indom(module, rows())))
            }
            From::Words(field, cut) => {
                (Origin::Column(Column::Words(field, cut)), Some(self.rows_indom(module, rows())))
            }
            From::Process(field) => (Origin::Process(field), self.processes_indom(module)),
        };
        self.metrics.push(Entry {
            module,
            metric: pmda::Metric {
                cluster,
                item: plain.item,
                name: format!("bpf.{}", plain.name),
                ty: plain.ty,
                semantics: plain.semantics,
                units: plain.units,
                indom,
                oneline: plain.oneline.to_owned(),
                help: paragraphs(plain.oneline, &help_of(plain)),
                protected: plain.protected,
            },
            origin,
        });
    }

    /// What every event module has beside its columns.
    fn add_events(&mut self, module: usize, cluster: u16, name: &'static str, events: &'static Events) {
        let items = events.items;
        let mut add = |item, suffix: &str, ty, semantics, units, origin, oneline: &str, help: &str| {
            let serial = u32::from(cluster) * SERIALS_PER_CLUSTER + ROWS_SERIAL;
            let indom = matches!(origin, Origin::Column(_)).then(|| self.rows_indom(module, serial));
            self.metrics.push(Entry {
                module,
                metric: pmda::Metric {
                    cluster,
                    item,
                    name: format!("bpf.{name}.{suffix}"),
                    ty,
                    semantics,
                    units,
                    indom,
                    oneline: oneline.to_owned(),
                    help: paragraphs(oneline, help),
                    protected: false,
                },
                origin,
            });
        };
        add(
            items.lost,
            "lost",
            Type::U32,
            Semantics::Counter,
            Units::Count,
            Origin::Lost,
            "Events that have no row because they could not be recorded",
            "Those that found the ring buffer full, and runs of the programs that the kernel left out.              Equal to bpf.module.lost.",
        );
        add(
            items.count,
            "count",
            Type::U64,
            Semantics::Counter,
            Units::Count,
            Origin::Field("count", Over::Host),
            "Events since the module was loaded",
            "Counted in the kernel, behind the filters of the configuration; those that were lost are among them.",
        );
        add(
            items.seq,
            "seq",
            Type::U64,
            Semantics::Discrete,
            Units::None,
            Origin::Column(Column::Sequence),
            "Number of the event in each row",
            "From 1 on, never reset while the process lives. An event keeps its instance, which is its number \
             less one modulo the number of rows, until a later one takes it.",
        );
        add(
            items.time,
            "time",
            Type::U64,
            Semantics::Discrete,
            Units::Nanosecond,
            Origin::Column(Column::Time),
            "When the event in each row happened",
            "Nanoseconds since the epoch: the kernel's monotonic clock at the event, converted when it was read.",
        );
    }

    fn rows_indom(&mut self, module: usize, serial: u32) -> u32 {
        self.indom(
            module,
            serial,
            IndomKind::Rows,
            "The last events",
            "As many rows as option process_count says. An event stays in its row until a later one takes it; \
             seq says which is which."
                .to_owned(),
        )
    }

    fn processes_indom(&mut self, module: usize) -> Option<u32> {
        let Shape::Polled(Polled { serial, option, linger, .. }) = &self.modules.get(module)?.1.shape else {
            return None;
        };
        Some(self.indom(
            module,
            *serial,
            IndomKind::Processes,
            "Processes",
            format!(
                "The number is the process id, in the first process id name space, and so is the name. At most as \
                 many as option {option} says. A process that ended stays for as long as option {linger} says, unless \
                 its number or its row is taken by another first."
            ),
        ))
    }

    fn add_histogram(&mut self, module: usize, cluster: u16, own: &'static Histogram) {
        let Buckets { unit, over, .. } = *own.buckets;
        let (buckets, cumulative) = self.bucket_indoms(module, cluster, own.buckets);
        let singles = self.key_indom(module, over);
        let name = format!("bpf.{}", own.name);
        let mut add = |item, suffix: &str, units, indom, oneline: String, help: String, origin| {
            self.metrics.push(Entry {
                module,
                metric: pmda::Metric {
                    cluster,
                    item: own.item + item,
                    name: format!("{name}{suffix}"),
                    ty: Type::U64,
                    semantics: Semantics::Counter,
                    units,
                    indom,
                    help: paragraphs(&oneline, &help),
                    oneline,
                    protected: false,
                },
                origin,
            });
        };
        add(
            0,
            "",
            Units::Count,
            Some(buckets),
            own.oneline.to_owned(),
            format!(
                "{} Each instance is a power of two and counts the samples from its lower to its upper bound, \
             both included, in {}seconds; labels repeat the bounds. All instances are always present.",
                own.help.join(" "),
                if unit == BucketUnit::Nanosecond { "nano" } else { "micro" },
            ),
            Origin::Buckets(own.field, over),
        );
        add(
            1,
            "_count",
            Units::Count,
            singles,
            format!("Samples counted in {name}"),
            format!("The sum of all instances of {name} at the same moment."),
            Origin::Count(own.field, over),
        );
        add(
            2,
            "_sum",
            unit.units(),
            singles,
            format!("Sum of the samples counted in {name}"),
            format!(
                "Exact, not estimated from buckets. May lead {name}_count by the sample that each CPU is \
                     recording at that moment."
            ),
            Origin::Sum(own.field, over, unit),
        );
        add(
            3,
            "_bucket",
            Units::Count,
            Some(cumulative),
            format!("{name} in Prometheus' cumulative form"),
            format!(
                "Each instance counts the samples of {name} up to the bound in its label le, which is \
                     included; +Inf counts all."
            ),
            Origin::Cumulative(own.field, over, unit),
        );
    }

    fn modules_indom(&mut self, module: usize) -> u32 {
        self.indom(
            module,
            MODULES_SERIAL,
            IndomKind::Modules,
            "The modules of this agent",
            "One instance per module known, running or not. The number is the module's cluster.".to_owned(),
        )
    }

    fn key_indom(&mut self, module: usize, over: Over) -> Option<u32> {
        let keys = self.keys(module).filter(|_| over == Over::Keys)?;
        Some(self.indom(
            module,
            keys.serial,
            IndomKind::Keys(keys),
            &format!("The {}s seen", keys.noun),
            format!(
                "Every {noun} that completed a request since the module was loaded, up to the number in option \
             {option}; those beyond it are added up in the instance other (other-stacked where their requests \
             reach another {noun} too). A {noun} that goes keeps its instance, and gets it back when it returns \
             under the same name.",
                noun = keys.noun,
                option = keys.option
            ),
        ))
    }

    fn bucket_indoms(&mut self, module: usize, cluster: u16, own: &'static Buckets) -> (u32, u32) {
        let keys = self.keys(module).filter(|_| own.over == Over::Keys);
        let serial = u32::from(cluster) * SERIALS_PER_CLUSTER + own.serial;
        let (plain, cumulative) = match keys {
            None => (IndomKind::Buckets(own.unit), IndomKind::Cumulative(own.unit)),
            Some(keys) => (IndomKind::KeyBuckets(keys, own.unit), IndomKind::KeyCumulative(keys, own.unit)),
        };
        let prefix = keys.map_or(String::new(), |keys| {
            format!(
                " per {noun}: the name is the {noun}'s, two colons and the bucket's, the number is slot * 64 + \
                     bucket",
                noun = keys.noun
            )
        });
        (
            self.indom(
                module,
                serial,
                plain,
                "Power-of-two buckets",
                format!("Buckets in {}{prefix}.", own.unit.label()),
            ),
            self.indom(
                module,
                serial + 1,
                cumulative,
                "Cumulative power-of-two buckets",
                format!(
                    "Buckets in {}{prefix}, named by their upper bounds; +Inf is number \
                         {CUMULATIVE_INFINITY}.",
                    own.unit.label()
                ),
            ),
        )
    }

    fn indom(&mut self, module: usize, serial: u32, kind: IndomKind, oneline: &str, help: String) -> u32 {
        self.indoms.entry(serial).or_insert_with(|| IndomEntry {
            module,
            indom: pmda::Indom { serial, help: paragraphs(oneline, &help), oneline: oneline.to_owned() },
            kind,
        });
        serial
    }
}

/// The sentences of a metric's help, and that it is protected.
fn help_of(plain: &Plain) -> String {
    let mut help = plain.help.join(" ");
    if plain.protected {
        help.push_str(
            " Shown to root, in a local context, and to those whom option readers in section [pmda] names; to others \
             PM_ERR_PERMISSION.",
        );
    }
    help
}

fn paragraphs(oneline: &str, help: &str) -> String {
    if help.is_empty() { oneline.to_owned() } else { format!("{oneline}.\n{help}") }
}
