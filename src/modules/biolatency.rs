//! Latency of block requests, of the whole host and per disk, by stage.

use crate::catalog::BucketUnit::Microsecond;
use crate::catalog::Buckets;
use crate::catalog::From;
use crate::catalog::Histogram;
use crate::catalog::Keys;
use crate::catalog::Kind;
use crate::catalog::Metric;
use crate::catalog::Module;
use crate::catalog::Opt;
use crate::catalog::Over;
use crate::catalog::Plain;
use crate::catalog::Programs;
use crate::catalog::Rows;
use crate::catalog::Shape;
use crate::pmda::Semantics;
use crate::pmda::Type;
use crate::pmda::Units;

/// What its rows belong to.
pub static DISKS: Keys = Keys {
    map: "keys",
    layout: "biolatency_key",
    serial: 5,
    noun: "disk",
    option: "disks",
    sized: &["claims", "indices"],
    cpus: "cpus",
};

static HOST: Buckets = Buckets { serial: 0, unit: Microsecond, over: Over::Host };
static DISK: Buckets = Buckets { serial: 2, unit: Microsecond, over: Over::Keys };

const POPULATION: &str = "Counted are the requests that /proc/diskstats counts as read, write or discard, once \
    each; flushes are not. Times are the request's own, taken by the kernel.";
const HOST_DISKS: &str = "All disks are added up but loop and request-based device mapper (label stacked), whose \
    requests the disks below count.";
const DISK_NAMES: &str = "Disks whose driver takes no requests (device mapper but multipath, md, zram) have no \
    row; the disks below them have.";
const LATENCY: &str = "From the moment a request was given to the driver until it completed.";
const QUEUE: &str = "From the moment a request was allocated until it was given to the driver.";
const TOTAL: &str = "From the moment a request was allocated until it completed.";
const STAMP: &str = "Requests of disks whose queue keeps no time of issue (wbt_lat_usec 0 and no other use of \
    queue statistics) are counted in bpf.disk.dev.unstamped instead.";

const fn stage(
    item: u16,
    name: &'static str,
    field: &'static str,
    buckets: &'static Buckets,
    oneline: &'static str,
    help: &'static [&'static str],
) -> Metric {
    Metric::Histogram(Histogram { item, name, field, buckets, oneline, help })
}

/// Its options.
pub const OPTIONS: &[Opt] = &[Opt {
    name: "disks",
    kind: Kind::Number { default: Some(64), min: 1, max: 1024 },
    help: "Disks with instances of their own; the rest is added up in the instance other",
}];

/// Its metrics.
pub const METRICS: &[Metric] = &[
    stage(
        0,
        "disk.all.latency",
        "latency",
        &HOST,
        "Block requests of the host by time in the device",
        &[LATENCY, POPULATION, STAMP, HOST_DISKS],
    ),
    stage(
        4,
        "disk.all.queue",
        "queue",
        &HOST,
        "Block requests of the host by time in the queue",
        &[QUEUE, POPULATION, STAMP, HOST_DISKS],
    ),
    stage(
        8,
        "disk.all.total",
        "total",
        &HOST,
        "Block requests of the host by time in queue and device",
        &[TOTAL, POPULATION, HOST_DISKS],
    ),
    stage(
        12,
        "disk.dev.latency",
        "latency",
        &DISK,
        "Block requests of each disk by time in the device",
        &[LATENCY, POPULATION, STAMP, DISK_NAMES],
    ),
    stage(
        16,
        "disk.dev.queue",
        "queue",
        &DISK,
        "Block requests of each disk by time in the queue",
        &[QUEUE, POPULATION, STAMP, DISK_NAMES],
    ),
    stage(
        20,
        "disk.dev.total",
        "total",
        &DISK,
        "Block requests of each disk by time in queue and device",
        &[TOTAL, POPULATION, DISK_NAMES],
    ),
    Metric::Plain(Plain {
        item: 24,
        name: "disk.dev.unstamped",
        ty: Type::U64,
        semantics: Semantics::Counter,
        units: Units::Count,
        from: From::Field("unstamped", Over::Keys),
        oneline: "Block requests of each disk without a time of issue",
        help: &["They are in bpf.disk.dev.total but in neither bpf.disk.dev.latency nor bpf.disk.dev.queue."],
        protected: false,
    }),
];

/// The table.
pub static MODULE: Module = Module {
    name: "biolatency",
    summary: "Block I/O latency: host and per disk, in the queue, in the device, and both",
    default: true,
    options: OPTIONS,
    metrics: METRICS,
    shape: Shape::Mapped(Programs {
        object: crate::object!("biolatency"),
        hooks: &[&["on_io_done", "on_rq_complete"]],
        optional: &[],
        rows: Rows { map: "rows", layout: "biolatency_row", keys: Some(&DISKS) },
    }),
};
