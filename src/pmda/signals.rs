//! Signals belong to the host: threads of ours take none.

use nix::sys::signal::SigSet;
use nix::sys::signal::SigmaskHow;

/// Runs `body`; threads that it starts inherit a mask that blocks all signals.
pub fn with_signals_blocked<T>(body: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let result = body();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    result
}
