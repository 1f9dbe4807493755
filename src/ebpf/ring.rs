//! Ring buffers (Documentation/bpf/ringbuf.rst): what programs pass on, read without a system
//! call.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::ptr;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

/// BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT, BPF_RINGBUF_HDR_SZ in include/uapi/linux/bpf.h.
const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const HEADER: usize = 8;

/// One ring with its only reader.
#[derive(Debug)]
pub struct Ring {
    fd: OwnedFd,
    /// A page that holds how far the reader is.
    consumer: Mapping,
    /// A page that holds how far the programs are, then the data, twice in a row, so that every
    /// record lies in one piece.
    producer: Mapping,
    page: usize,
    size: usize,
}

#[derive(Debug)]
struct Mapping(NonNull<u8>, usize);

// SAFETY: the memory is mapped until drop; what is shared in it is read through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, len: usize, protection: libc::c_int, offset: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a new mapping at an address of the kernel's choice; fd is open.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Self(start, len)).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// The counter at the start of the mapping.
    fn position(&self) -> &AtomicU64 {
        // SAFETY: a page at least is mapped, and aligned as one; the kernel accesses the word as
        // an atomic too.
        unsafe { self.0.cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in new() with this size.
        unsafe { libc::munmap(self.0.as_ptr().cast(), self.1) };
    }
}

impl Ring {
    /// Maps a ring of `size` bytes.
    ///
    /// # Errors
    /// As mmap(2).
    pub(super) fn map(fd: OwnedFd, size: usize) -> io::Result<Self> {
        // SAFETY: sysconf has no requirements.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let consumer = Mapping::new(fd.as_fd(), page, libc::PROT_READ | libc::PROT_WRITE, 0)?;
        let producer = Mapping::new(fd.as_fd(), page + 2 * size, libc::PROT_READ, page)?;
        Ok(Self { fd, consumer, producer, page, size })
    }

    /// Hands at most `most` records to `each`, the oldest first, and returns how many there
    /// were; fewer where the ring is empty.
    pub fn drain(&mut self, most: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut at = self.consumer.position().load(Relaxed);
        let mut found = 0;
        while found < most && at < self.producer.position().load(Acquire) {
            // what the kernel says is checked: a record is never read past the mapping
            let offset = usize::try_from(at).unwrap_or(0) & (self.size - 1) & !(HEADER - 1);
            // SAFETY: offset is below size and a multiple of the header's size, and the data is
            // mapped twice, so that a header and size bytes behind it lie in the mapping.
            let record = unsafe { self.producer.0.add(self.page + offset) };
            // SAFETY: as above; the kernel accesses the word as an atomic too.
            let head = unsafe { record.cast::<AtomicU32>().as_ref() }.load(Acquire);
            if head & BUSY != 0 {
                break;
            }
            let len = ((head & !DISCARD) as usize).min(self.size - HEADER);
            at += u64::try_from((HEADER + len).next_multiple_of(HEADER)).unwrap_or(0);
            // also if `each` panics: the record that did it must not come again
            let _passed = Passed { position: self.consumer.position(), at };
            if head & DISCARD == 0 {
                // SAFETY: len bytes behind the header lie in the mapping, and programs leave
                // them alone until the position below has passed them.
                each(unsafe { slice::from_raw_parts(record.add(HEADER).as_ptr(), len) });
                found += 1;
            }
        }
        found
    }
}

/// Tells programs, when dropped, that a record is done with.
struct Passed<'a> {
    position: &'a AtomicU64,
    at: u64,
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        self.position.store(self.at, Release);
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
