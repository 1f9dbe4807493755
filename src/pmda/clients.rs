//! Who asks: what the host says about its clients (pmdaAttribute(3)).

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::ffi::c_int;

use parking_lot::Mutex;

use super::log;
use crate::ffi;

/// A client, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Client {
    /// The process that we are in asks for itself.
    pub is_local: bool,
    /// Its user, known where it came over pmcd's local socket.
    pub uid: Option<u32>,
    /// Its group, known likewise.
    pub gid: Option<u32>,
}

/// By the host's number of a client. Changed by the host's thread alone; nobody waits here.
static CLIENTS: Mutex<BTreeMap<c_int, Client>> = Mutex::new(BTreeMap::new());

/// The client with this number.
pub(super) fn client(context: c_int) -> Client {
    if !log::is_server() {
        return Client { is_local: true, ..Client::default() };
    }
    CLIENTS.lock().get(&context).copied().unwrap_or_default()
}

/// One more fact about a client.
///
/// # Safety
/// `value` is null or points to `len` bytes, as in pmdaAttribute(3).
pub(super) unsafe fn note(context: c_int, attribute: c_int, value: *const c_char, len: c_int) {
    // who is told about clients has some
    log::serves();
    let len = usize::try_from(len).unwrap_or(0);
    if value.is_null() {
        return;
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(value.cast::<u8>(), len) };
    let text = bytes.split(|&byte| byte == 0).next().and_then(|text| std::str::from_utf8(text).ok());
    let number = text.and_then(|text| text.parse::<u32>().ok());
    let mut clients = CLIENTS.lock();
    let own = clients.entry(context).or_default();
    match attribute as u32 {
        ffi::PMDA_ATTR_USERID => own.uid = number,
        ffi::PMDA_ATTR_GROUPID => own.gid = number,
        _ => {}
    }
}

/// A client has gone; its number may be given to another.
pub(super) unsafe extern "C" fn forget(context: c_int) {
    CLIENTS.lock().remove(&context);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_and_what_is_not() {
        let tell = |attribute: u32, value: &[u8]| {
            // SAFETY: the value is as long as said.
            unsafe { note(77, attribute as c_int, value.as_ptr().cast(), value.len() as c_int) };
            CLIENTS.lock().get(&77).copied().unwrap_or_default()
        };
        assert_eq!(tell(ffi::PMDA_ATTR_USERID, b"1000\0").uid, Some(1000));
        assert_eq!(tell(ffi::PMDA_ATTR_GROUPID, b"100").gid, Some(100));
        assert_eq!(tell(ffi::PMDA_ATTR_USERID, b"-1\0").uid, None);
        assert_eq!(tell(ffi::PMDA_ATTR_USERID, b"").uid, None);
        // SAFETY: as the host calls it.
        unsafe { forget(77) };
        assert!(CLIENTS.lock().get(&77).is_none());
    }
}
