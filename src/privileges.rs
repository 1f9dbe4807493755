//! What each thread may do (capabilities(7)): credentials are a thread's own in Linux.
//!
//! pmcd loads its agents as root and then becomes another user with setuid(2), which glibc
//! carries out in every thread. A thread that has set the flags below keeps its capabilities
//! across it; one that lacks CAP_SETUID then would make glibc end the process, so that one and
//! CAP_SETGID stay until the user has changed.

#![allow(unsafe_code)]

use caps::CapSet;
use caps::Capability;
use caps::CapsHashSet;

/// Flags of PR_SET_SECUREBITS (include/uapi/linux/securebits.h).
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
const SECBIT_KEEP_CAPS: libc::c_ulong = 1 << 4;

const LOADING: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_PERFMON];
const CHANGING_USER: [Capability; 2] = [Capability::CAP_SETUID, Capability::CAP_SETGID];

/// Whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::getuid().is_root()
}

/// Has this thread, and those it starts, keep its capabilities when the process changes its
/// user.
pub fn keep() {
    // SAFETY: prctl with integer arguments reads and changes flags of this thread only.
    unsafe {
        let flags = libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0);
        let flags = libc::c_ulong::try_from(flags).unwrap_or(0) | SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS;
        // needs CAP_SETPCAP, and flags that are not locked
        if libc::prctl(libc::PR_SET_SECUREBITS, flags, 0, 0, 0) < 0 {
            libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0);
        }
    }
}

/// Takes into use again what the thread still holds: without CAP_SETPCAP a change of the user
/// takes it out of use. Says whether there was anything to take.
pub fn raise() -> bool {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let used = caps::read(None, CapSet::Effective).unwrap_or_default();
    held != used && caps::set(None, CapSet::Effective, &held).is_ok()
}

/// Gives up all but what loading programs and changing the user need.
pub fn only_loading_and_changing_user() {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    reduce_to(&with(&loading(&held), &held, &CHANGING_USER));
}

/// Gives up what was needed only to change the user.
pub fn only_loading() {
    reduce_to(&loading(&caps::read(None, CapSet::Permitted).unwrap_or_default()));
}

/// Has this thread lose all but what changing the user needs, which it loses with that.
pub fn only_changing_user() {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    reduce_to(&with(&CapsHashSet::new(), &held, &CHANGING_USER));
}

/// What loading needs. Before Linux 5.8, and where a container was given nothing else, that is
/// CAP_SYS_ADMIN.
fn loading(held: &CapsHashSet) -> CapsHashSet {
    if LOADING.iter().all(|one| held.contains(one)) {
        LOADING.into()
    } else {
        with(&CapsHashSet::new(), held, &[Capability::CAP_SYS_ADMIN, Capability::CAP_BPF, Capability::CAP_PERFMON])
    }
}

/// `set` and those of `more` that are held.
fn with(set: &CapsHashSet, held: &CapsHashSet, more: &[Capability]) -> CapsHashSet {
    set.iter().chain(more.iter().filter(|one| held.contains(*one))).copied().collect()
}

/// A failure leaves more than wanted, never less, and is no reason to stop.
fn reduce_to(set: &CapsHashSet) {
    for kind in [CapSet::Inheritable, CapSet::Ambient] {
        let _ = caps::clear(None, kind);
    }
    let _ = caps::set(None, CapSet::Effective, set);
    let _ = caps::set(None, CapSet::Permitted, set);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_admin_stands_for_what_is_not_there() {
        let all: CapsHashSet = caps::all();
        assert_eq!(loading(&all), LOADING.into());
        let old: CapsHashSet = [Capability::CAP_SYS_ADMIN, Capability::CAP_SETUID].into();
        assert_eq!(loading(&old), [Capability::CAP_SYS_ADMIN].into());
        assert_eq!(loading(&CapsHashSet::new()), CapsHashSet::new());
        assert_eq!(with(&loading(&old), &old, &CHANGING_USER).len(), 2);
    }
}
