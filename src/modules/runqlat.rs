//! Run queue latency of the whole host.

use crate::catalog::BucketUnit::Nanosecond;
use crate::catalog::Buckets;
use crate::catalog::Histogram;
use crate::catalog::Metric;
use crate::catalog::Module;
use crate::catalog::Over;
use crate::catalog::Programs;
use crate::catalog::Rows;
use crate::catalog::Shape;

static BUCKETS: Buckets = Buckets { serial: 0, unit: Nanosecond, over: Over::Host };

/// The table.
pub static MODULE: Module = Module {
    name: "runqlat",
    summary: "Run queue latency: how long tasks that could run waited for a CPU",
    default: true,
    options: &[],
    metrics: &[Metric::Histogram(Histogram {
        item: 0,
        name: "runq.latency",
        field: "latency",
        buckets: &BUCKETS,
        oneline: "Waits of tasks for a CPU, by duration",
        help: &[
            "A sample is the time from the moment a task becomes runnable (tracepoints sched_wakeup and \
             sched_wakeup_new, or sched_switch when it is preempted) until sched_switch puts it on a CPU.",
            "Every thread of the host counts, kernel threads too, the idle tasks do not; a task that moves between \
             run queues while it waits is one sample, and one that is woken while it waits after a preemption is \
             timed from the wake-up, as in pmdabpf.",
            "The number of samples is that of field 3 of /proc/PID/task/TID/schedstat.",
            "Waits that cannot be told, because two waiting tasks have process ids that are equal modulo 65536 or \
             because a task was queued before the module was loaded, are counted in bpf.module.lost.",
        ],
    })],
    shape: Shape::Mapped(Programs {
        object: crate::object!("runqlat"),
        hooks: &[&["on_wakeup"], &["on_wakeup_new"], &["on_switch"]],
        optional: &[],
        rows: Rows { map: "rows", layout: "runqlat_row", keys: None },
    }),
};
