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
pub mod modules;
pub mod pmda;
pub mod source;
pub mod status;

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
