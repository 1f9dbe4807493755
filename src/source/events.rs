//! Events out of ring buffers: the last ones of a module are its rows.
//!
//! A worker reads the rings all the time, whether anybody asks or not, so that what is not lost
//! in the kernel is not lost here. It decodes each record into cells, puts it into the row that
//! its number says, and publishes all rows as a snapshot.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::time::ClockId;
use nix::time::clock_gettime;

use super::Published;
use super::Publisher;
use crate::catalog::Column;
use crate::ebpf::Field;
use crate::ebpf::Layout;
use crate::ebpf::Ring;
use crate::pmda::Atom;
use crate::pmda::Instances;
use crate::pmda::Type;
use crate::pmda::ValueSet;
use crate::workers::Duty;

/// Rings are left alone so long after they were read: a program wakes the worker only for a
/// record that comes when all before were read, so that a flood costs 100 wake-ups a second.
const PAUSE: Duration = Duration::from_millis(10);
/// Records read from a ring before the others have their turn.
const BATCH: usize = 4096;

/// A value of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// See [`Atom`].
    I32(i32),
    /// See [`Atom`].
    U32(u32),
    /// See [`Atom`].
    I64(i64),
    /// See [`Atom`].
    U64(u64),
    /// See [`Atom`].
    F64(f64),
    /// Printable.
    Text(Box<str>),
    /// The record has no such field.
    None,
}

impl Cell {
    fn atom(&self) -> Option<Atom<'_>> {
        match self {
            Self::I32(number) => Some(Atom::I32(*number)),
            Self::U32(number) => Some(Atom::U32(*number)),
            Self::I64(number) => Some(Atom::I64(*number)),
            Self::U64(number) => Some(Atom::U64(*number)),
            Self::F64(number) => Some(Atom::F64(*number)),
            Self::Text(text) => Some(Atom::Str(text)),
            Self::None => None,
        }
    }
}

/// The rows of a module, by instance number; `None` where there was no event yet.
#[derive(Debug, Default)]
pub struct EventRows {
    instances: Arc<Instances>,
    rows: Vec<Option<Arc<[Cell]>>>,
}

impl EventRows {
    /// So many rows without an event.
    #[must_use]
    pub fn new(rows: u32) -> Self {
        let count = i32::try_from(rows).unwrap_or(i32::MAX);
        let instances = Arc::new(Instances::new((0..count).map(|id| (id, id.to_string()))));
        Self { rows: vec![None; rows as usize], instances }
    }

    /// The domain of rows, which never changes.
    #[must_use]
    pub const fn instances(&self) -> &Arc<Instances> {
        &self.instances
    }

    /// Puts the values of a column into `out`.
    pub fn values(&self, column: usize, out: &mut ValueSet<'_>) {
        out.atoms(&self.instances, |position, _| self.rows.get(position)?.as_ref()?.get(column)?.atom());
    }
}

/// The events of a module, for as long as the process lives: their numbers go on when the module
/// is loaded again.
#[derive(Debug)]
pub struct EventLog {
    columns: Vec<Column>,
    rows: u32,
    /// Events so far.
    sequence: u64,
    last: Vec<Option<Arc<[Cell]>>>,
    publisher: Publisher<EventRows>,
}

impl EventLog {
    /// A log of no events, which publishes its last `rows` ones in `place`.
    #[must_use]
    pub fn new(columns: Vec<Column>, rows: u32, place: Arc<Published<EventRows>>) -> Self {
        Self { columns, rows, sequence: 0, last: vec![None; rows as usize], publisher: Publisher::new(place) }
    }

    /// Takes one record. `epoch` is what the monotonic clock began at, in nanoseconds since
    /// 1970.
    fn take(&mut self, layout: &Layout, record: &[u8], epoch: u64) {
        let record = Record { layout, bytes: record };
        let row = u64::from(self.rows.max(1));
        let at = usize::try_from(self.sequence % row).unwrap_or(0);
        self.sequence += 1;
        let cell = |column: &Column| match *column {
            Column::Sequence => Cell::U64(self.sequence),
            Column::Time => record.unsigned("ktime").map_or(Cell::None, |ktime| Cell::U64(epoch.saturating_add(ktime))),
            Column::Number(field, ty) => record.number(field, ty),
            Column::Text(field) => {
                record.field(field).map_or(Cell::None, |bytes| Cell::Text(printable(until_nul(bytes))))
            }
            Column::Words(field, cut) => record.words(field, cut),
        };
        let cells: Arc<[Cell]> = self.columns.iter().map(cell).collect();
        if let Some(place) = self.last.get_mut(at) {
            *place = Some(cells);
        }
    }

    fn publish(&mut self) {
        let (rows, last) = (self.rows, &self.last);
        self.publisher.publish(|| EventRows::new(rows), |snapshot| snapshot.rows.clone_from(last));
    }
}

/// A record as a program wrote it, perhaps cut behind its last field in use.
struct Record<'a> {
    layout: &'a Layout,
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    fn field(&self, name: &str) -> Option<&'a [u8]> {
        let Field { offset, size } = self.layout.field(name)?;
        let rest = self.bytes.get(offset..)?;
        Some(rest.get(..size).unwrap_or(rest))
    }

    fn unsigned(&self, name: &str) -> Option<u64> {
        let bytes = self.field(name)?;
        match bytes.len() {
            1 => bytes.first().map(|byte| u64::from(*byte)),
            2 => bytes.first_chunk().map(|bytes| u64::from(u16::from_ne_bytes(*bytes))),
            4 => bytes.first_chunk().map(|bytes| u64::from(u32::from_ne_bytes(*bytes))),
            8 => bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)),
            _ => None,
        }
    }

    fn number(&self, name: &str, ty: Type) -> Cell {
        let Some(number) = self.unsigned(name) else { return Cell::None };
        let word = u32::try_from(number).ok();
        match ty {
            Type::I32 => word.map_or(Cell::None, |word| Cell::I32(word as i32)),
            Type::U32 => word.map_or(Cell::None, Cell::U32),
            Type::I64 => Cell::I64(number as i64),
            Type::U64 => Cell::U64(number),
            #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
            Type::F64 => Cell::F64(number as f64),
            Type::String => Cell::None,
        }
    }

    fn words(&self, name: &str, cut: &str) -> Cell {
        let Some(bytes) = self.field(name) else { return Cell::None };
        let is_cut = self.unsigned(cut).is_some_and(|cut| cut != 0);
        let bytes = bytes.strip_suffix(b"\0").filter(|_| !is_cut).unwrap_or(bytes);
        let mut text = bytes.split(|&byte| byte == 0).map(printable).collect::<Vec<_>>().join(" ");
        if is_cut {
            text.push_str("...");
        }
        Cell::Text(text.into_boxed_str())
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Text from outside: what is not UTF-8 becomes U+FFFD, and `?` what moves the cursor or the
/// order of a terminal's text.
fn printable(bytes: &[u8]) -> Box<str> {
    let moves = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    String::from_utf8_lossy(bytes).chars().map(|c| if moves(c) { '?' } else { c }).collect()
}

/// The duty of the worker that reads the rings.
#[derive(Debug, Default)]
pub struct Drain {
    logs: BTreeMap<usize, EventLog>,
    rings: BTreeMap<usize, (Ring, Layout)>,
}

impl Drain {
    /// The log of the module at this position of the list.
    pub fn keep_log(&mut self, module: usize, log: EventLog) {
        self.logs.insert(module, log);
    }

    /// Reads a module's ring from now on.
    pub fn open(&mut self, module: usize, ring: Ring, layout: Layout) {
        self.rings.insert(module, (ring, layout));
    }

    /// Reads what is left in a module's ring and closes it.
    pub fn close(&mut self, module: usize) {
        while self.read().1 {}
        self.rings.remove(&module);
    }

    /// Reads every ring once; says whether anything was read, and whether more may be left.
    fn read(&mut self) -> (bool, bool) {
        let epoch = monotonic_epoch();
        let (mut any, mut more) = (false, false);
        for (module, (ring, layout)) in &mut self.rings {
            let Some(log) = self.logs.get_mut(module) else { continue };
            let found = ring.drain(BATCH, |record| log.take(layout, record, epoch));
            if found > 0 {
                log.publish();
            }
            any |= found > 0;
            more |= found == BATCH;
        }
        (any, more)
    }
}

impl Duty for Drain {
    fn turn(&mut self) -> Option<Instant> {
        let (any, more) = self.read();
        if any && !more {
            thread::sleep(PAUSE);
        }
        more.then(Instant::now)
    }

    fn waits_for(&self) -> Vec<BorrowedFd<'_>> {
        self.rings.values().map(|(ring, _)| ring.as_fd()).collect()
    }
}

/// When the monotonic clock began, in nanoseconds since 1970.
fn monotonic_epoch() -> u64 {
    let nanoseconds = |clock| {
        let time = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
        u64::try_from(time.as_nanos()).unwrap_or(0)
    };
    nanoseconds(ClockId::CLOCK_REALTIME).saturating_sub(nanoseconds(ClockId::CLOCK_MONOTONIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 6] = [
        Column::Number("pid", Type::U32),
        Column::Number("ret", Type::I32),
        Column::Text("comm"),
        Column::Words("args", "cut"),
        Column::Sequence,
        Column::Time,
    ];

    fn layout() -> Layout {
        let fields =
            [("ktime", 0, 8), ("pid", 8, 4), ("ret", 12, 4), ("cut", 16, 4), ("comm", 20, 8), ("args", 28, 19)];
        Layout::new(47, fields.map(|(name, offset, size)| (name, Field { offset, size })))
    }

    fn record(pid: u32, ret: i32, cut: u32, comm: &[u8; 8], args: &[u8]) -> Vec<u8> {
        [&7u64.to_ne_bytes()[..], &pid.to_ne_bytes(), &ret.to_ne_bytes(), &cut.to_ne_bytes(), comm, args].concat()
    }

    fn taken(rows: u32, records: &[Vec<u8>]) -> Vec<Option<Vec<Cell>>> {
        let place = Arc::new(Published::new(Arc::new(EventRows::new(rows))));
        let mut log = EventLog::new(COLUMNS.to_vec(), rows, Arc::clone(&place));
        records.iter().for_each(|record| log.take(&layout(), record, 1000));
        log.publish();
        place.reader().get().rows.iter().map(|row| row.as_ref().map(|row| row.to_vec())).collect()
    }

    #[test]
    fn cells_of_every_kind() {
        let rows = taken(2, &[record(9, -2, 0, b"sh\0xxxxx", b"sh\0-c\0\0a\xffb\n\xe2\x80\xae\0")]);
        assert_eq!(
            rows[0].as_deref().unwrap(),
            [
                Cell::U32(9),
                Cell::I32(-2),
                Cell::Text("sh".into()),
                Cell::Text("sh -c  a\u{fffd}b??".into()),
                Cell::U64(1),
                Cell::U64(1007)
            ]
        );
        assert_eq!(rows[1], None);
        let cut = taken(1, &[record(9, 0, 1, b"12345678", b"sh\0-")]);
        let row = cut[0].as_deref().unwrap();
        assert_eq!((&row[2], &row[3]), (&Cell::Text("12345678".into()), &Cell::Text("sh -...".into())));
    }

    #[test]
    fn events_keep_their_rows() {
        let all: Vec<Vec<u8>> = (1..=7).map(|pid| record(pid, 0, 0, b"abcdefgh", b"")).collect();
        let rows = taken(3, &all);
        let pids: Vec<&Cell> = rows.iter().map(|row| &row.as_deref().unwrap()[0]).collect();
        assert_eq!(pids, [&Cell::U32(7), &Cell::U32(5), &Cell::U32(6)]);
    }

    #[test]
    fn records_cut_anywhere_are_survived() {
        let whole = record(9, 0, 0, b"abcdefgh", b"a\0b\0");
        for len in 0..whole.len() {
            let rows = taken(1, &[whole[..len].to_vec()]);
            assert_eq!(rows[0].as_deref().unwrap()[4], Cell::U64(1));
        }
    }
}
