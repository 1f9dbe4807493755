//! Attaching to tracepoints by the numbers that tracefs gives them.
//!
//! libbpf looks a number up when it attaches, in files that only root reads; we read them while
//! the process is root and attach at any time.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use libbpf_rs::libbpf_sys;
use memchr::memmem;

/// Where tracefs may be.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The tracepoints that some program names, with their numbers on this kernel.
#[derive(Debug, Clone, Default)]
pub struct Tracepoints(BTreeMap<String, u64>);

impl Tracepoints {
    /// Looks up every section `tp/<category>/<name>` of these compiled objects.
    #[must_use]
    pub fn read<'a>(objects: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut found = BTreeMap::new();
        for section in objects.flat_map(sections) {
            if let Some(id) = TRACEFS.iter().find_map(|root| id(root, section)) {
                found.insert(section.to_owned(), id);
            }
        }
        Self(found)
    }

    /// The number of `<category>/<name>`.
    pub(super) fn id(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }
}

fn id(root: &str, name: &str) -> Option<u64> {
    fs::read_to_string(format!("{root}/events/{name}/id")).ok()?.trim().parse().ok()
}

/// The names behind `tp/` in an object's table of strings.
fn sections(object: &[u8]) -> impl Iterator<Item = &str> {
    memmem::find_iter(object, b"\0tp/").filter_map(|at| {
        let rest = object.get(at + 4..)?;
        let name = rest.get(..rest.iter().position(|&byte| byte == 0)?)?;
        let name = std::str::from_utf8(name).ok()?;
        let is_word =
            |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let (category, event) = name.split_once('/')?;
        (is_word(category) && is_word(event)).then_some(name)
    })
}

/// Attaches a program. What is returned keeps it attached for as long as it is open.
pub(super) fn attach(program: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    // SAFETY: a plain C structure of integers, for which zeroes are valid.
    let mut attr: libbpf_sys::perf_event_attr = unsafe { mem::zeroed() };
    attr.type_ = libbpf_sys::PERF_TYPE_TRACEPOINT;
    attr.size = u32::try_from(size_of_val(&attr)).unwrap_or(0);
    attr.config = id;
    // any process on one CPU: a tracepoint's programs run on all of them whichever it is
    let (pid, cpu, group) = (-1 as libc::pid_t, 0 as libc::c_int, -1 as libc::c_int);
    // SAFETY: the structure has the size that it says.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attr, pid, cpu, group, libbpf_sys::PERF_FLAG_FD_CLOEXEC)
    };
    let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(refusal)?;
    // SAFETY: perf_event_open made the descriptor, nobody else owns it.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: both descriptors are open; no options are passed.
    let link = unsafe {
        libbpf_sys::bpf_link_create(
            program.as_raw_fd(),
            event.as_raw_fd(),
            libbpf_sys::BPF_PERF_EVENT,
            std::ptr::null(),
        )
    };
    if link >= 0 {
        // SAFETY: bpf_link_create made the descriptor, nobody else owns it; it holds the event.
        return Ok(unsafe { OwnedFd::from_raw_fd(link) });
    }
    // before 5.15 the event itself holds the program
    const SET_BPF: libc::Ioctl = 0x4004_2408;
    const ENABLE: libc::Ioctl = 0x2400;
    for (request, argument) in [(SET_BPF, program.as_raw_fd()), (ENABLE, 0)] {
        // SAFETY: the descriptor is open; both requests take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}

/// Why perf_event_open(2) failed.
fn refusal() -> io::Error {
    let error = io::Error::last_os_error();
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    // Debian's addition: above 2 it asks for CAP_SYS_ADMIN
    if error.kind() == io::ErrorKind::PermissionDenied && paranoid.trim().parse::<i32>().is_ok_and(|level| level > 2) {
        let why = format!("kernel.perf_event_paranoid is {} and asks for root: restart pmcd", paranoid.trim());
        return io::Error::new(error.kind(), why);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_among_the_strings() {
        let object = b"\x7fELF\0tp/syscalls/sys_exit_execve\0.rel\0tp/x\0tp/a/b c\0tp/oom/mark_victim\0tp/cut/off";
        assert_eq!(sections(object).collect::<Vec<_>>(), ["syscalls/sys_exit_execve", "oom/mark_victim"]);
    }
}
