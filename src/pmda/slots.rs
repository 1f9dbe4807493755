//! Instance numbers by name that survive restarts, kept by libpcp_pmda (pmdaCacheStore(3)).

#![allow(unsafe_code)]

use std::ffi::CString;
use std::ffi::c_int;
use std::ptr;

use super::log;
use super::log::Level;
use super::metric;
use crate::ffi;

/// The numbers of one instance domain.
#[derive(Debug)]
pub struct Slots {
    indom: ffi::pmInDom,
    changed: bool,
}

impl Slots {
    /// Those given out before, as far as stored.
    #[must_use]
    pub fn load(domain: u32, serial: u32) -> Self {
        let indom = metric::indom(domain, Some(serial));
        // SAFETY: the cache is libpcp_pmda's own; a file that is not there is an empty cache.
        unsafe { ffi::pmdaCacheOp(indom, ffi::PMDA_CACHE_LOAD as c_int) };
        Self { indom, changed: false }
    }

    /// The number of this name, a new one if it has none.
    pub fn slot(&mut self, name: &str) -> Option<i32> {
        let name = CString::new(name).ok().filter(|name| !name.is_empty())?;
        let (mut known, cached) = (0, ptr::null_mut());
        // SAFETY: the name is a string and is copied; the rest are places for answers.
        let state = unsafe { ffi::pmdaCacheLookupName(self.indom, name.as_ptr(), &mut known, cached) };
        // SAFETY: as above.
        let slot =
            unsafe { ffi::pmdaCacheStore(self.indom, ffi::PMDA_CACHE_ADD as c_int, name.as_ptr(), ptr::null_mut()) };
        self.changed |= state < 0 && slot >= 0;
        (slot >= 0).then_some(slot)
    }

    /// Stores numbers given out since the last time: a short file, when something new was
    /// found. Only inside pmcd: a client that loads the agent into itself, perhaps as another
    /// user, must not leave files that pmcd cannot replace.
    pub fn store(&mut self) {
        if !std::mem::take(&mut self.changed) || !log::is_server() {
            return;
        }
        // SAFETY: as for LOAD.
        let saved = unsafe { ffi::pmdaCacheOp(self.indom, ffi::PMDA_CACHE_SAVE as c_int) };
        if saved < 0 {
            let file = format!("config/pmda/{}.{}", self.indom >> 22, metric::serial(self.indom));
            log::log(Level::Warning, &format!("instance numbers not stored in $PCP_VAR_DIR/{file}: error {saved}"));
        }
    }
}
