//! Maps in our address space: what programs count is read like any other memory.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::fence;

use super::layout::Field;

/// An array map of BPF_F_MMAPABLE, mapped for reading. The kernel writes to it at any time;
/// every 64-bit word is read whole.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is mapped until drop and read only through atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `bytes` of an array map. The mapping outlives the descriptor.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice; fd is open.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, words: bytes / size_of::<u64>() })
    }

    /// The words of the map.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` words are mapped from `start`, which mmap aligned to a page, for as
        // long as self lives; the kernel's writes are those of atomics.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// Adds the row that begins at word `at` to `sums`; `copy` is memory to reuse.
    ///
    /// A row begins with what its program changes first at every event. Where that changed
    /// during the copy, the copy is made again, a few times: so all words of a row are of one
    /// moment, but for the event that the CPU is just recording.
    pub fn add_to(&self, at: usize, sums: &mut [u64], copy: &mut Vec<u64>) {
        const HEAD: usize = 8;
        const TRIES: usize = 4;
        let row = self.words().get(at..at + sums.len()).unwrap_or_default();
        for _ in 0..TRIES {
            copy.clear();
            copy.extend(row.iter().map(|word| word.load(Relaxed)));
            fence(Acquire);
            if row.iter().zip(copy.iter()).take(HEAD).all(|(word, copied)| word.load(Relaxed) == *copied) {
                break;
            }
        }
        for (sum, word) in sums.iter_mut().zip(copy.iter()) {
            *sum = sum.wrapping_add(*word);
        }
    }

    /// One word, 0 beyond the end.
    #[must_use]
    pub fn word(&self, at: usize) -> u64 {
        self.words().get(at).map_or(0, |word| word.load(Relaxed))
    }

    /// A 32-bit field of the structure that begins at word `start`, 0 beyond the end.
    #[must_use]
    pub fn half(&self, start: usize, field: Field) -> u32 {
        let at = start + field.offset / size_of::<u64>();
        let word = self.words().get(at).map_or(0, |word| word.load(Acquire)).to_ne_bytes();
        let half = word.get(field.offset % size_of::<u64>()..).and_then(|rest| rest.first_chunk()).copied();
        u32::from_ne_bytes(half.unwrap_or_default())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped in map() with this size.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * size_of::<u64>()) };
    }
}
