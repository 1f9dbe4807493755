//! Tables whose rows come and go: a worker looks through them once a second and publishes what
//! it found as a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::fence;
use std::time::Duration;
use std::time::Instant;

use nix::time::ClockId;
use nix::time::clock_gettime;

use super::Mapped;
use super::Published;
use super::Publisher;
use crate::ebpf::Field;
use crate::ebpf::Layout;
use crate::ebpf::Memory;
use crate::pmda::Instances;
use crate::pmda::ValueSet;
use crate::workers::Duty;
use crate::workers::Timetable;

const WORD: usize = size_of::<u64>();
/// How often tables are looked through.
const PERIOD: Duration = Duration::from_secs(1);

/// The processes of a table at one moment.
#[derive(Debug, Default)]
pub struct TableRows {
    instances: Arc<Instances>,
    /// Words of a row.
    width: usize,
    /// The rows, in the order of the instances.
    words: Vec<u64>,
    /// When: nanoseconds of the monotonic clock, 0 for never.
    taken: u64,
}

impl TableRows {
    /// The processes.
    #[must_use]
    pub const fn instances(&self) -> &Arc<Instances> {
        &self.instances
    }

    /// How old this is, `None` before the first look.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        (self.taken != 0).then(|| Duration::from_nanos(monotonic().saturating_sub(self.taken)))
    }

    /// Puts the values of a 64-bit field into `out`.
    pub fn values(&self, field: Field, out: &mut ValueSet<'_>) {
        let at = field.offset / WORD;
        out.numbers(&self.instances, |position, _| self.words.get(position * self.width + at).copied().unwrap_or(0));
    }
}

/// A table of processes in mapped memory.
#[derive(Debug)]
pub struct Table {
    mapped: Arc<Mapped>,
    /// How long the row of a process that ended is shown.
    linger: Duration,
    publisher: Publisher<TableRows>,
    /// Memory to sort rows in: process id, position.
    found: Vec<(i32, usize)>,
    /// Memory to copy rows into.
    words: Vec<u64>,
    instances: Arc<Instances>,
}

impl Table {
    /// The table of this module, published in `place`.
    #[must_use]
    pub fn new(mapped: Arc<Mapped>, linger: Duration, place: Arc<Published<TableRows>>) -> Self {
        Self {
            mapped,
            linger,
            publisher: Publisher::new(place),
            found: Vec::new(),
            words: Vec::new(),
            instances: Arc::default(),
        }
    }

    /// Looks through it.
    fn poll(&mut self) {
        let Some((memory, layout)) = &self.mapped.loaded().processes else { return };
        let Some(rows) = Rows::new(memory, layout) else { return };
        let now = monotonic();
        let linger = u64::try_from(self.linger.as_nanos()).unwrap_or(u64::MAX);
        self.found.clear();
        // of two processes with one number the one that lives is shown: the other's row comes
        // second and is left out
        for is_ended in [false, true] {
            for row in 0..rows.count {
                let (state, pid, ended) = rows.head(row);
                let shown = state != 0 && (ended != 0) == is_ended && (!is_ended || now.saturating_sub(ended) < linger);
                if shown {
                    self.found.extend(i32::try_from(pid).ok().map(|pid| (pid, row)));
                }
            }
        }
        self.found.sort_by_key(|(pid, _)| *pid);
        self.found.dedup_by_key(|(pid, _)| *pid);
        let (words, width) = (&mut self.words, rows.stride);
        words.clear();
        self.found.retain(|(pid, row)| {
            let start = words.len();
            words.extend((0..width).map(|at| memory.word(row * width + at)));
            // the copy before the second look at whose it is
            fence(Acquire);
            // taken by another process meanwhile: seen at the next look
            let (state, now_pid, _) = rows.head(*row);
            let same = state != 0 && now_pid == pid.unsigned_abs();
            if !same {
                words.truncate(start);
            }
            same
        });
        if !self.found.iter().map(|(pid, _)| pid).eq(self.instances.ids()) {
            self.instances = Arc::new(Instances::new(self.found.iter().map(|(pid, _)| (*pid, pid.to_string()))));
        }
        let instances = &self.instances;
        self.publisher.publish(TableRows::default, |snapshot| {
            snapshot.instances = Arc::clone(instances);
            snapshot.width = width;
            snapshot.taken = now;
            std::mem::swap(&mut snapshot.words, words);
        });
    }
}

/// Where the fields of a process's row lie.
struct Rows<'a> {
    memory: &'a Memory,
    /// Words of a row.
    stride: usize,
    count: usize,
    pid: Field,
    state: Field,
    ended: Field,
}

impl<'a> Rows<'a> {
    fn new(memory: &'a Memory, layout: &Layout) -> Option<Self> {
        let stride = layout.size / WORD;
        Some(Self {
            memory,
            stride,
            count: memory.words().len().checked_div(stride)?,
            pid: layout.field("pid")?,
            state: layout.field("state")?,
            ended: layout.field("ended")?,
        })
    }

    /// State, process id, and when it ended.
    fn head(&self, row: usize) -> (u32, u32, u64) {
        let half = |field| self.memory.half(row * self.stride, field);
        (half(self.state), half(self.pid), self.memory.word(row * self.stride + self.ended.offset / WORD))
    }
}

/// The duty of the worker that looks through tables.
#[derive(Debug, Default)]
pub struct Poller {
    tables: BTreeMap<usize, Table>,
    timetable: Timetable<usize>,
}

impl Poller {
    /// Looks through a module's table from now on.
    pub fn open(&mut self, module: usize, table: Table) {
        self.tables.insert(module, table);
        self.timetable.enter(module, PERIOD, Instant::now());
    }

    /// Leaves a module's table, as empty.
    pub fn close(&mut self, module: usize) {
        self.timetable.remove(&module);
        if let Some(mut table) = self.tables.remove(&module) {
            table.publisher.publish(TableRows::default, |snapshot| *snapshot = TableRows::default());
        }
    }
}

impl Duty for Poller {
    fn turn(&mut self) -> Option<Instant> {
        while let Some(module) = self.timetable.due(Instant::now()) {
            if let Some(table) = self.tables.get_mut(&module) {
                table.poll();
            }
        }
        self.timetable.next()
    }
}

/// The clock of bpf_ktime_get_ns().
fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(0)
}
