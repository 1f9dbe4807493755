//! The values of one metric in one answer: a pmValueSet in a single allocation.
//!
//! A pmValueSet, its list of instances and the value blocks that the list points to lie in
//! one chunk from malloc. `PM_VAL_SPTR` tells libpcp to free the set and nothing else, which
//! frees all of it, in pmcd and in a local context alike (libpcp's `__pmFreeResultValues`).

#![allow(unsafe_code)]

use std::mem::offset_of;
use std::ptr;

use super::error::PmErr;
use super::instances::IN_NULL;
use super::instances::Instances;
use super::metric::Metric;
use super::metric::Type;
use super::profile::Pick;
use super::profile::Positions;
use super::profile::Scratch;
use crate::ffi;

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Atom<'a> {
    /// For [`Type::I32`].
    I32(i32),
    /// For [`Type::U32`].
    U32(u32),
    /// For [`Type::I64`].
    I64(i64),
    /// For [`Type::U64`].
    U64(u64),
    /// For [`Type::F64`].
    F64(f64),
    /// For [`Type::String`]; ends at its first NUL.
    Str(&'a str),
}

impl Atom<'_> {
    const fn ty(&self) -> Type {
        match self {
            Self::I32(_) => Type::I32,
            Self::U32(_) => Type::U32,
            Self::I64(_) => Type::I64,
            Self::U64(_) => Type::U64,
            Self::F64(_) => Type::F64,
            Self::Str(_) => Type::String,
        }
    }
}

/// Bytes of a pmValueBlock before its value.
const BLOCK_HEADER: usize = ffi::PM_VAL_HDR_SIZE as usize;
/// Bytes of a pmValueBlock that holds a 64-bit number.
const NUMBER_BLOCK: usize = BLOCK_HEADER + size_of::<u64>();
/// Bytes of a pmValueSet before its list.
const SET_HEADER: usize = offset_of!(ffi::pmValueSet, vlist);

/// Where an agent puts the values of one metric. Values of another type than the metric's are
/// refused and leave it without values.
pub struct ValueSet<'a> {
    pmid: ffi::pmID,
    ty: Type,
    pick: Pick<'a>,
    scratch: &'a mut Scratch,
    set: *mut ffi::pmValueSet,
}

impl<'a> ValueSet<'a> {
    pub(super) fn new(pmid: ffi::pmID, metric: &Metric, pick: Pick<'a>, scratch: &'a mut Scratch) -> Self {
        Self { pmid, ty: metric.ty, pick, scratch, set: ptr::null_mut() }
    }

    /// The answer about a metric that is not in the table.
    pub(super) fn unknown(pmid: ffi::pmID, scratch: &'a mut Scratch) -> Self {
        let mut out = Self { pmid, ty: Type::U64, pick: Pick::All, scratch, set: ptr::null_mut() };
        out.error(PmErr::Pmid);
        out
    }

    /// No value, and why.
    pub fn error(&mut self, error: PmErr) {
        self.header_only(error.code());
    }

    /// The value of a metric without instances.
    pub fn singular(&mut self, atom: Atom<'_>) {
        self.blocks(&[(IN_NULL, atom)]);
    }

    /// A 64-bit number for every instance. `value` is called with an instance's position and
    /// number, for those that the client asked for.
    pub fn numbers(&mut self, instances: &Instances, mut value: impl FnMut(usize, i32) -> u64) {
        if self.ty != Type::U64 {
            return self.error(PmErr::Generic);
        }
        let ids = instances.ids();
        let positions = self.pick.positions(ids, self.scratch);
        let len = positions.len();
        let Some(mut chunk) = Chunk::new(self.pmid, len, NUMBER_BLOCK * len) else {
            return;
        };
        let mut put = |position: usize| {
            if let Some(&id) = ids.get(position) {
                chunk.word(id, Type::U64, value(position, id));
            }
        };
        match positions {
            Positions::All(len) => (0..len).for_each(&mut put),
            Positions::Listed(list) => list.iter().copied().for_each(&mut put),
        }
        self.replace(chunk.finish(ffi::PM_VAL_SPTR));
    }

    /// A value of any type for those instances that have one now.
    pub fn atoms<'v>(&mut self, instances: &Instances, mut value: impl FnMut(usize, i32) -> Option<Atom<'v>>) {
        let ids = instances.ids();
        let mut list = Vec::new();
        let mut put = |position: usize| {
            if let Some(&id) = ids.get(position) {
                list.extend(value(position, id).map(|atom| (id, atom)));
            }
        };
        match self.pick.positions(ids, self.scratch) {
            Positions::All(len) => (0..len).for_each(&mut put),
            Positions::Listed(list) => list.iter().copied().for_each(&mut put),
        }
        self.blocks(&list);
    }

    fn blocks(&mut self, list: &[(i32, Atom<'_>)]) {
        if list.iter().any(|(_, atom)| atom.ty() != self.ty) {
            return self.error(PmErr::Generic);
        }
        let bytes = list.iter().map(|(_, atom)| atom_block(atom)).sum();
        let Some(mut chunk) = Chunk::new(self.pmid, list.len(), bytes) else {
            return;
        };
        let mut format = ffi::PM_VAL_SPTR;
        for (id, atom) in list {
            match atom {
                Atom::I32(number) => {
                    format = ffi::PM_VAL_INSITU;
                    chunk.in_place(*id, *number);
                }
                Atom::U32(number) => {
                    format = ffi::PM_VAL_INSITU;
                    chunk.in_place(*id, *number as i32);
                }
                Atom::I64(number) => chunk.word(*id, Type::I64, *number as u64),
                Atom::U64(number) => chunk.word(*id, Type::U64, *number),
                Atom::F64(number) => chunk.word(*id, Type::F64, number.to_bits()),
                Atom::Str(text) => chunk.text(*id, until_nul(text)),
            }
        }
        self.replace(chunk.finish(format));
    }

    fn header_only(&mut self, numval: i32) {
        if let Some(chunk) = Chunk::new(self.pmid, 0, 0) {
            let set = chunk.finish(ffi::PM_VAL_INSITU);
            // SAFETY: Chunk::finish returns a set that is allocated and initialised.
            unsafe { (*set).numval = numval };
            self.replace(set);
        }
    }

    fn replace(&mut self, set: *mut ffi::pmValueSet) {
        // SAFETY: self.set is null or came from malloc in Chunk::new and was given to nobody.
        unsafe { libc::free(self.set.cast()) };
        self.set = set;
    }

    /// The set, to be freed with free(3); one without values where nothing was put in, null
    /// where memory ran out.
    pub(super) fn finish(mut self) -> *mut ffi::pmValueSet {
        if self.set.is_null() {
            self.header_only(0);
        }
        std::mem::replace(&mut self.set, ptr::null_mut())
    }
}

impl Drop for ValueSet<'_> {
    fn drop(&mut self) {
        self.replace(ptr::null_mut());
    }
}

/// The header of a pmValueBlock: its bit fields vtype and vlen, 8 and 24 bits, as pmapi.h
/// orders them for either byte order. bindgen's setters go bit by bit, 50 ns each.
const fn block_header(ty: Type, used: usize) -> u32 {
    (ty.code() as u32) << 24 | used as u32
}

fn until_nul(text: &str) -> &[u8] {
    text.as_bytes().split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Bytes that an atom's block takes. Blocks stay aligned to their 4-byte header.
fn atom_block(atom: &Atom<'_>) -> usize {
    match atom {
        Atom::I32(_) | Atom::U32(_) => 0,
        Atom::I64(_) | Atom::U64(_) | Atom::F64(_) => NUMBER_BLOCK,
        Atom::Str(text) => (BLOCK_HEADER + until_nul(text).len() + 1).next_multiple_of(BLOCK_HEADER),
    }
}

/// A pmValueSet being filled: the list grows from its start, the blocks behind the list.
struct Chunk {
    set: *mut ffi::pmValueSet,
    capacity: usize,
    len: usize,
    next_block: usize,
    end: usize,
}

impl Chunk {
    fn new(pmid: ffi::pmID, capacity: usize, block_bytes: usize) -> Option<Self> {
        // at least one entry, as the structure declares
        let next_block = SET_HEADER + capacity.max(1) * size_of::<ffi::pmValue>();
        let end = next_block + block_bytes;
        // SAFETY: malloc has no requirements.
        let set: *mut ffi::pmValueSet = unsafe { libc::malloc(end) }.cast();
        if set.is_null() {
            return None;
        }
        // SAFETY: the chunk is at least SET_HEADER bytes and malloc aligns for any type.
        unsafe {
            (*set).pmid = pmid;
            (*set).numval = 0;
            (*set).valfmt = 0;
        }
        Some(Self { set, capacity, len: 0, next_block, end })
    }

    fn entry(&mut self, id: i32) -> Option<*mut ffi::pmValue> {
        if self.len == self.capacity {
            return None;
        }
        // SAFETY: len < capacity entries were allocated behind the header.
        let entry = unsafe { self.set.cast::<u8>().add(SET_HEADER).cast::<ffi::pmValue>().add(self.len) };
        // SAFETY: as above; the field is written, not read.
        unsafe { (*entry).inst = id };
        self.len += 1;
        Some(entry)
    }

    fn in_place(&mut self, id: i32, number: i32) {
        if let Some(entry) = self.entry(id) {
            // SAFETY: entry is inside the chunk; a union field is written.
            unsafe { (*entry).value.lval = number };
        }
    }

    #[inline]
    fn word(&mut self, id: i32, ty: Type, number: u64) {
        if let Some(block) = self.next_block(id, NUMBER_BLOCK) {
            // SAFETY: next_block found NUMBER_BLOCK bytes, enough for a header and a number.
            unsafe {
                block.cast::<u32>().write(block_header(ty, NUMBER_BLOCK));
                block.add(BLOCK_HEADER).cast::<u64>().write_unaligned(number);
            }
        }
    }

    /// Gets a NUL behind it.
    fn text(&mut self, id: i32, text: &[u8]) {
        let used = BLOCK_HEADER + text.len() + 1;
        if let Some(block) = self.next_block(id, used) {
            // SAFETY: next_block found as many bytes as the header, the text and a NUL take.
            unsafe {
                block.cast::<u32>().write(block_header(Type::String, used));
                ptr::copy_nonoverlapping(text.as_ptr(), block.add(BLOCK_HEADER), text.len());
                block.add(BLOCK_HEADER + text.len()).write(0);
            }
        }
    }

    /// An entry for this instance that points to a block of `used` bytes, aligned to its
    /// 4-byte header. `None`, and no entry, where the chunk was made too small for it.
    #[inline]
    fn next_block(&mut self, id: i32, used: usize) -> Option<*mut u8> {
        if self.next_block + used > self.end || used > ffi::PM_VAL_VLEN_MAX as usize {
            return None;
        }
        let entry = self.entry(id)?;
        // SAFETY: next_block + used lies within the chunk; entry too, and a union field is
        // written.
        let block = unsafe {
            let block = self.set.cast::<u8>().add(self.next_block);
            (*entry).value.pval = block.cast();
            block
        };
        self.next_block += used.next_multiple_of(BLOCK_HEADER);
        Some(block)
    }

    fn finish(self, format: u32) -> *mut ffi::pmValueSet {
        // SAFETY: the set was allocated and its header initialised in new; ownership passes on.
        unsafe {
            (*self.set).numval = i32::try_from(self.len).unwrap_or(i32::MAX);
            (*self.set).valfmt = format as i32;
        }
        self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_the_bit_fields() {
        for (ty, used) in [(Type::U64, 12), (Type::String, 4 + 70_000), (Type::U32, 8)] {
            let word = block_header(ty, used);
            // SAFETY: a pmValueBlock is at least as large as its header, and plain data.
            let block = unsafe {
                let mut block: ffi::pmValueBlock = std::mem::zeroed();
                (&raw mut block).cast::<u32>().write(word);
                block
            };
            assert_eq!((block.vtype(), block.vlen() as usize), (ty.code() as u32, used));
        }
    }
}
