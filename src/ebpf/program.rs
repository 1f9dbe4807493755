//! What the kernel counts about a program.

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use libbpf_rs::libbpf_sys;

/// Counters of one or more programs (bpf_prog_info in include/uapi/linux/bpf.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Nanoseconds, counted while kernel.bpf_stats_enabled is 1.
    pub run_time: u64,
    /// Runs, counted while kernel.bpf_stats_enabled is 1.
    pub run_count: u64,
    /// Runs left out because the program was already running on that CPU. Always counted, by
    /// kernels from 5.12 on.
    pub missed: u64,
}

impl RunStats {
    /// Asks the kernel.
    pub(super) fn read(program: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a plain C structure of integers, for which zeroes are valid.
        let mut info: libbpf_sys::bpf_prog_info = unsafe { mem::zeroed() };
        let mut size = size_of_val(&info) as u32;
        // SAFETY: the descriptor is open, the structure has the size that is passed.
        let status =
            unsafe { libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &mut size) };
        if status < 0 {
            return Err(io::Error::from_raw_os_error(-status));
        }
        Ok(Self { run_time: info.run_time_ns, run_count: info.run_cnt, missed: info.recursion_misses })
    }

    pub(super) fn add(&mut self, other: Self) {
        self.run_time += other.run_time;
        self.run_count += other.run_count;
        self.missed += other.missed;
    }
}
