//! Counters in mapped memory, read without a system call.
//!
//! Programs count into rows, one per CPU (and per key where there are keys). A reader copies
//! them once per request, adding up the CPUs, so that all values of one answer are of one
//! moment; what it then hands out is arithmetic on that copy.

use std::sync::Arc;

use crate::catalog::CUMULATIVE_INFINITY;
use crate::catalog::IndomKind;
use crate::catalog::Origin;
use crate::catalog::Over;
use crate::ebpf::Field;
use crate::ebpf::Loaded;
use crate::ebpf::Memory;
use crate::pmda::Atom;
use crate::pmda::Instances;
use crate::pmda::ValueSet;

const WORD: usize = size_of::<u64>();

/// The mapped memory of a loaded module, shared by all readers.
#[derive(Debug)]
pub struct Mapped {
    loaded: Loaded,
}

/// Something that rows belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its number for ever; the agent gives it out by name.
    pub slot: i32,
    /// As the program found it.
    pub name: String,
    /// Its events are also counted under another key.
    pub stacked: bool,
}

impl Mapped {
    /// Takes over a loaded module.
    #[must_use]
    pub const fn new(loaded: Loaded) -> Self {
        Self { loaded }
    }

    /// The module as it was loaded.
    #[must_use]
    pub const fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// What the programs could not record, over all rows.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let (memory, layout) = &self.loaded.rows;
        let Some(field) = layout.field("lost") else { return 0 };
        let stride = layout.size / WORD;
        let rows = memory.words().len() / stride.max(1);
        (0..rows).map(|row| memory.word(row * stride + field.offset / WORD)).sum()
    }
}

/// One reader's copy of the rows.
#[derive(Debug)]
pub struct Reader {
    source: Arc<Mapped>,
    /// In ascending order of their slots; none where the module has no keys.
    keys: Vec<Key>,
    /// Position in `keys` of every used entry of the keys' map, by its index.
    rank: Vec<Option<usize>>,
    /// How many entries were used when `keys` was read; they never become fewer.
    used: usize,
    /// Grows whenever `keys` changes.
    generation: u64,
    /// One row per key.
    by_key: Vec<u64>,
    /// All rows that are not stacked, in one.
    host: Vec<u64>,
    /// Memory for the copy of one row.
    copy: Vec<u64>,
    /// Memory for cumulative histograms.
    cumulative: Vec<u64>,
}

impl Reader {
    /// A reader that has read nothing yet.
    #[must_use]
    pub fn new(source: Arc<Mapped>) -> Self {
        let host = vec![0; source.loaded.rows.1.size / WORD];
        Self {
            source,
            keys: Vec::new(),
            rank: Vec::new(),
            used: 0,
            generation: 0,
            by_key: Vec::new(),
            host,
            copy: Vec::new(),
            cumulative: Vec::new(),
        }
    }

    /// What it reads.
    #[must_use]
    pub const fn source(&self) -> &Arc<Mapped> {
        &self.source
    }

    /// The keys found so far. `slot` gives out numbers by name.
    pub fn find_keys(&mut self, slot: &mut dyn FnMut(&str) -> Option<i32>) -> &[Key] {
        let Some((memory, layout)) = &self.source.loaded.keys else { return &self.keys };
        let (Some(name), Some(used), Some(stacked)) =
            (layout.field("name"), layout.field("used"), layout.field("stacked"))
        else {
            return &self.keys;
        };
        let entry = Entry { memory, stride: layout.size / WORD, name, used, stacked };
        let count = (0..entry.count()).filter(|&index| entry.is_used(index)).count();
        if count == self.used {
            return &self.keys;
        }
        let mut found: Vec<(usize, Key)> = (0..entry.count())
            .filter(|&index| entry.is_used(index))
            .filter_map(|index| {
                let name = entry.name(index);
                Some((index, Key { slot: slot(&name)?, stacked: entry.is_stacked(index), name }))
            })
            .collect();
        found.sort_by_key(|(_, key)| key.slot);
        self.rank = vec![None; entry.count()];
        self.keys.clear();
        for (index, key) in found {
            // two entries of one name: two CPUs met the key at once
            if self.keys.last().is_none_or(|last| last.slot != key.slot) {
                self.keys.push(key);
            }
            if let Some(rank) = self.rank.get_mut(index) {
                *rank = Some(self.keys.len() - 1);
            }
        }
        self.used = count;
        self.generation += 1;
        &self.keys
    }

    /// The keys as last found.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Changes whenever [`Reader::keys`] does.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Copies the rows.
    pub fn refresh(&mut self, slot: &mut dyn FnMut(&str) -> Option<i32>) {
        self.find_keys(slot);
        let words = self.host.len();
        let per_key = self.source.loaded.rows_per_key;
        let memory = &self.source.loaded.rows.0;
        self.host.fill(0);
        if self.source.loaded.keys.is_none() {
            for row in 0..per_key {
                memory.add_to(row * words, &mut self.host, &mut self.copy);
            }
            return;
        }
        self.by_key.clear();
        self.by_key.resize(self.keys.len() * words, 0);
        for (index, rank) in self.rank.iter().enumerate() {
            let Some(sums) = rank.and_then(|rank| self.by_key.get_mut(rank * words..(rank + 1) * words)) else {
                continue;
            };
            for row in index * per_key..(index + 1) * per_key {
                memory.add_to(row * words, sums, &mut self.copy);
            }
        }
        for (key, row) in self.keys.iter().zip(self.by_key.chunks_exact(words.max(1))) {
            if !key.stacked {
                for (sum, word) in self.host.iter_mut().zip(row) {
                    *sum = sum.wrapping_add(*word);
                }
            }
        }
    }

    /// Puts the values of one metric into `out`, out of the last copy. `instances` are those
    /// of its domain for the keys of that copy.
    pub fn values(&mut self, origin: Origin, domain: Option<(IndomKind, &Instances)>, out: &mut ValueSet<'_>) {
        let layout = &self.source.loaded.rows.1;
        let words = self.host.len();
        let (over, field) = match origin {
            Origin::Status(_) | Origin::Column(_) | Origin::Lost | Origin::Process(_) => return,
            Origin::Field(field, over) => (over, layout.field(field)),
            Origin::Buckets(field, over) | Origin::Count(field, over) | Origin::Cumulative(field, over, _) => {
                (over, layout.field(field))
            }
            Origin::Sum(field, over, _) => (over, layout.field(&format!("{field}_sum"))),
        };
        let Some(Field { offset, size }) = field else { return };
        let (first, len) = (offset / WORD, size / WORD);
        let rows = if over == Over::Host { &self.host } else { &self.by_key };
        let cell = |rank: usize, at: usize| {
            if at < len { rows.get(rank * words + first + at).copied().unwrap_or(0) } else { 0 }
        };
        let count = |rank: usize| (0..len).map(|at| cell(rank, at)).fold(0, u64::wrapping_add);
        let single = |rank: usize| match origin {
            Origin::Count(..) => count(rank),
            Origin::Sum(_, _, unit) => cell(rank, 0) / unit.nanoseconds(),
            _ => cell(rank, 0),
        };
        let Some((kind, instances)) = domain else {
            return out.singular(Atom::U64(single(0)));
        };
        let ranks = if over == Over::Host { 1 } else { self.keys.len() };
        match origin {
            Origin::Buckets(..) => {
                let mut rank = Rank::new(instances, ranks);
                out.numbers(instances, |position, id| {
                    cell(rank.at(position), usize::try_from(kind.split(id).1).unwrap_or(usize::MAX))
                });
            }
            Origin::Cumulative(..) => {
                let infinity = usize::try_from(CUMULATIVE_INFINITY).unwrap_or(0);
                self.cumulative.clear();
                for rank in 0..ranks {
                    let mut sum = 0u64;
                    for at in 0..=infinity {
                        sum = sum.wrapping_add(cell(rank, at));
                        self.cumulative.push(sum);
                    }
                }
                let sums = &self.cumulative;
                let mut rank = Rank::new(instances, ranks);
                out.numbers(instances, |position, id| {
                    let bucket = usize::try_from(kind.split(id).1).unwrap_or(infinity);
                    sums.get(rank.at(position) * (infinity + 1) + bucket).copied().unwrap_or(0)
                });
            }
            _ => out.numbers(instances, |position, _| single(position)),
        }
    }
}

/// To which key an instance belongs, by its position: all keys have as many instances, one
/// after the other. Positions come in ascending order; a division for each would cost more
/// than all else about a value.
struct Rank {
    per_key: usize,
    rank: usize,
    end: usize,
}

impl Rank {
    fn new(instances: &Instances, ranks: usize) -> Self {
        let per_key = (instances.ids().len() / ranks.max(1)).max(1);
        Self { per_key, rank: 0, end: per_key }
    }

    fn at(&mut self, position: usize) -> usize {
        while position >= self.end {
            self.rank += 1;
            self.end += self.per_key;
        }
        self.rank
    }
}

/// The entries of the keys' map.
struct Entry<'a> {
    memory: &'a Memory,
    stride: usize,
    name: Field,
    used: Field,
    stacked: Field,
}

impl Entry<'_> {
    fn count(&self) -> usize {
        self.memory.words().len() / self.stride.max(1)
    }

    fn half(&self, index: usize, field: Field) -> u32 {
        self.memory.half(index * self.stride, field)
    }

    fn is_used(&self, index: usize) -> bool {
        // the name is written first; a reader that sees it late on a weakly ordered CPU waits
        self.half(index, self.used) != 0 && self.memory.word(index * self.stride + self.name.offset / WORD) != 0
    }

    fn is_stacked(&self, index: usize) -> bool {
        self.half(index, self.stacked) != 0
    }

    fn name(&self, index: usize) -> String {
        let first = index * self.stride + self.name.offset / WORD;
        let words = (first..first + self.name.size / WORD).map(|at| self.memory.word(at));
        let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
