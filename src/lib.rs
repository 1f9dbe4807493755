//! pmda_bpf.so: the agent that pmcd loads in-process to answer what the kernel is doing.
//!
//! See `docs/architecture.md` for the picture. Layers point one way: `ffi`, `pmda`, `catalog`,
//! `ebpf`, `source`, `modules`, and this file.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod agent;
pub mod catalog;
pub mod config;
pub mod ebpf;
mod ffi;
pub mod host;
mod loader;
pub mod modules;
pub mod pmda;
mod privileges;
mod readers;
pub mod source;
pub mod status;
pub mod workers;

use std::path::Path;

use host::Host;

/// The modules of this process.
static HOST: Host = Host::new(modules::MODULES);

/// What pmcd calls after it has opened the DSO, and a client with a local context too.
///
/// # Safety
/// `dispatch` points to an interface that lives as long as the process, as in PMDA(3).
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub unsafe extern "C" fn bpf_init(dispatch: *mut pmda::Dispatch) {
    // SAFETY: the caller's promise.
    unsafe { HOST.init(dispatch) }
}

/// The same agent as a daemon that pmcd talks to: reads the command line and answers until pmcd
/// closes the connection. `check` is what `--check FILE` does. Returns the exit status.
#[allow(unsafe_code)]
#[must_use]
pub fn daemon(arguments: &[String], check: impl FnOnce(&str) -> i32) -> i32 {
    pmda::program(arguments.first().map_or("pmdabpf", String::as_str));
    let init = |dispatch: *mut pmda::Dispatch| {
        // SAFETY: the interface is that of pmda::daemon, which never frees it.
        unsafe { HOST.init_daemon(dispatch) }
    };
    pmda::daemon("bpf", catalog::render::DOMAIN, arguments, check, init).unwrap_or(1)
}

/// Tries a configuration: the lines of a report, and whether all is well.
#[must_use]
pub fn check(path: &Path) -> (Vec<String>, bool) {
    HOST.check(path)
}
