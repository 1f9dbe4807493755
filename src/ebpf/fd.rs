//! Descriptors out of pmcd's way.
//!
//! pmcd waits with select(2), whose sets end at 1024: a descriptor of a client must stay below
//! that, so ours go above. fcntl(2) duplicates only below the soft limit, which is therefore
//! raised while we load and put back at once: left up, it would let clients overflow the sets.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

/// The first descriptor that select(2) cannot hold.
const FD_SETSIZE: libc::c_int = 1024;
/// Room above it for the descriptors of every module.
const ROOM: libc::rlim_t = 8192;

/// While it lives, [`keep`] finds room above [`FD_SETSIZE`].
#[derive(Debug)]
pub struct HighDescriptors {
    before: libc::rlimit,
}

impl HighDescriptors {
    /// Raises the soft limit on descriptors as far as needed and allowed, and has the kernel
    /// grow its table of them now: once threads share the table, that waits for RCU, 6 to 12 ms
    /// (expand_fdtable() in fs/file.c).
    #[must_use]
    pub fn raise() -> Self {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the structure is a place for the answer.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut before) } == 0 {
            let wanted = libc::rlimit { rlim_cur: before.rlim_cur.max(ROOM).min(before.rlim_max), ..before };
            // SAFETY: the structure is initialised. Failure leaves descriptors where they are.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) };
        }
        let raised = Self { before };
        if let Ok(any) = File::open("/dev/null") {
            drop(keep(any.as_fd()));
        }
        raised
    }
}

/// A duplicate of `fd` that pmcd's sets never see and its children do not inherit, at its usual
/// place where the soft limit leaves no room above.
///
/// # Errors
/// When the process has no descriptor left.
pub fn keep(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let duplicate = |from: libc::c_int| {
        // SAFETY: fd is open for as long as it is borrowed.
        let fd = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    };
    let fd = duplicate(FD_SETSIZE).or_else(|_| duplicate(0))?;
    // SAFETY: fcntl made the descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A file without a name that holds `bytes`.
///
/// # Errors
/// As memfd_create(2) and write(2).
pub(super) fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let create = |flags| {
        // SAFETY: the name is a string.
        let fd = unsafe { libc::memfd_create(c"btf".as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    };
    // kernels before 6.3 do not know the flag, later ones may demand it
    let fd = create(libc::MFD_NOEXEC_SEAL).or_else(|_| create(0))?;
    // SAFETY: memfd_create made the descriptor, nobody else owns it.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(bytes)?;
    Ok(file)
}

impl Drop for HighDescriptors {
    fn drop(&mut self) {
        if self.before.rlim_max > 0 {
            // SAFETY: the structure is what getrlimit answered.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &self.before) };
        }
    }
}
