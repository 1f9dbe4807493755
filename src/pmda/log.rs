//! Messages to the host's log through pmNotifyErr(3), and two facts about the host.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use once_cell::sync::OnceCell;

use super::signals::with_signals_blocked;
use crate::ffi;

/// How serious a message is (syslog(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the record.
    Info,
    /// Something was not as asked for; the rest goes on.
    Warning,
    /// Something does not work.
    Error,
}

/// Lines let through in one window; a flood must neither fill a disk nor hide other agents.
const LINES: u64 = 100;
/// Seconds.
const WINDOW: u64 = 60;

/// Lines that may wait for a slow disk; what exceeds them is counted.
const WAITING: usize = 256;

/// Where lines go once [`defer`] was called.
static QUEUE: OnceCell<SyncSender<(Level, String)>> = OnceCell::new();
/// Lines that found the queue full.
static UNQUEUED: AtomicU64 = AtomicU64::new(0);

/// From now on lines are written by a thread of their own: the host's thread must not wait for
/// a disk.
pub fn defer() {
    let (sender, receiver) = mpsc::sync_channel::<(Level, String)>(WAITING);
    let writer = move || {
        for (level, line) in receiver {
            let unqueued = UNQUEUED.swap(0, Relaxed);
            if unqueued > 0 {
                write(Level::Warning, &format!("{unqueued} messages left out: the log is slow"));
            }
            write(level, &line);
        }
    };
    // where no thread is to be had lines are written as before
    let thread = with_signals_blocked(|| thread::Builder::new().name("bpf-log".to_owned()).spawn(writer));
    if thread.is_ok() {
        let _ = QUEUE.set(sender);
    }
}

/// Writes one line to the log, unless too many were written in the last minute.
pub fn log(level: Level, message: &str) {
    static LIMIT: Limit = Limit::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    match LIMIT.admit(now / WINDOW) {
        Admit::Yes => pass_on(level, message),
        Admit::After(0) => pass_on(level, message),
        Admit::After(suppressed) => {
            pass_on(Level::Warning, &format!("{suppressed} messages of the last minutes left out"));
            pass_on(level, message);
        }
        Admit::No => {}
    }
}

fn pass_on(level: Level, message: &str) {
    match QUEUE.get() {
        Some(queue) => {
            if queue.try_send((level, message.to_owned())).is_err() {
                UNQUEUED.fetch_add(1, Relaxed);
            }
        }
        None => write(level, message),
    }
}

fn write(level: Level, message: &str) {
    let priority = match level {
        Level::Info => ffi::LOG_INFO,
        Level::Warning => ffi::LOG_WARNING,
        Level::Error => ffi::LOG_ERR,
    };
    let line: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let Ok(line) = CString::new(line) else { return };
    // SAFETY: the format takes one string, which is NUL-terminated and outlives the call.
    unsafe { ffi::pmNotifyErr(priority as c_int, c"%s".as_ptr(), line.as_ptr()) };
}

struct Limit {
    window: AtomicU64,
    lines: AtomicU64,
}

#[derive(Debug, PartialEq, Eq)]
enum Admit {
    Yes,
    /// The first of a window, and how many were left out before.
    After(u64),
    No,
}

impl Limit {
    const fn new() -> Self {
        Self { window: AtomicU64::new(0), lines: AtomicU64::new(0) }
    }

    fn admit(&self, window: u64) -> Admit {
        if self.window.swap(window, Relaxed) != window {
            return Admit::After(self.lines.swap(1, Relaxed).saturating_sub(LINES));
        }
        if self.lines.fetch_add(1, Relaxed) < LINES { Admit::Yes } else { Admit::No }
    }
}

/// A variable of /etc/pcp.conf or the environment (pmGetConfig(3)).
#[must_use]
pub fn config(variable: &CStr) -> Option<PathBuf> {
    // SAFETY: the argument is NUL-terminated; the result is null or a string that lives on.
    let value = unsafe { ffi::pmGetOptionalConfig(variable.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: not null, see above.
    let value = unsafe { CStr::from_ptr(value) };
    value.to_str().ok().map(PathBuf::from)
}

/// Whether this process answers clients that are not itself.
static SERVES: AtomicBool = AtomicBool::new(false);
/// Whether it does so as a daemon.
static IS_DAEMON: AtomicBool = AtomicBool::new(false);

/// This process is known to answer others.
pub(super) fn serves() {
    SERVES.store(true, Relaxed);
}

/// This process is the daemon.
pub(super) fn daemon() {
    serves();
    IS_DAEMON.store(true, Relaxed);
}

/// Whether the process is pmcd, or a daemon that answers pmcd. Any other is a client that has
/// loaded us into itself.
#[must_use]
pub fn is_server() -> bool {
    static IS_PMCD: OnceCell<bool> = OnceCell::new();
    SERVES.load(Relaxed) || *IS_PMCD.get_or_init(is_pmcd)
}

/// Whether the process is pmcd, whose start waits for us.
#[must_use]
pub fn inside_pmcd() -> bool {
    is_server() && !IS_DAEMON.load(Relaxed)
}

fn is_pmcd() -> bool {
    let file = std::fs::read_link("/proc/self/exe").ok().and_then(|path| path.file_name().map(|name| name == "pmcd"));
    program_name() == "pmcd" || file.unwrap_or(false)
}

/// The name of the program we are in.
fn program_name() -> String {
    // SAFETY: returns a string that lives on, or null before pmSetProgname.
    let name = unsafe { ffi::pmGetProgname() };
    if name.is_null() {
        return String::new();
    }
    // SAFETY: not null, see above.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let limit = Limit::new();
        assert_eq!(limit.admit(5), Admit::After(0));
        for _ in 1..LINES {
            assert_eq!(limit.admit(5), Admit::Yes);
        }
        for _ in 0..7 {
            assert_eq!(limit.admit(5), Admit::No);
        }
        assert_eq!(limit.admit(6), Admit::After(7));
        assert_eq!(limit.admit(6), Admit::Yes);
    }
}
