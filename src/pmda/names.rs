//! Names and PMIDs of the registered table, over libpcp_pmda's own name tree: what a host
//! asks whose name space holds only our root (`bpf 157:*:*`), and the room for names that
//! come and go.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::ffi::c_char;
use std::ffi::c_int;
use std::ptr;

use super::error::PmErr;
use super::metric::Metric;
use super::metric::pmid;
use crate::ffi;

/// The tree. Lives as long as the process, like the interface it belongs to.
pub(super) struct Names(*mut ffi::pmdaNameSpace);

impl Names {
    pub(super) fn new(domain: u32, metrics: &[Metric]) -> Result<Self, PmErr> {
        let mut tree = ptr::null_mut();
        // SAFETY: the argument is a place for the pointer to the new tree.
        if unsafe { ffi::pmdaTreeCreate(&mut tree) } < 0 {
            return Err(PmErr::NoMemory);
        }
        for metric in metrics {
            let name = CString::new(metric.name.as_str()).map_err(|_| PmErr::Name)?;
            // SAFETY: tree was made above; the name is copied.
            if unsafe { ffi::pmdaTreeInsert(tree, pmid(domain, metric), name.as_ptr()) } < 0 {
                return Err(PmErr::Name);
            }
        }
        let count = c_int::try_from(metrics.len()).unwrap_or(c_int::MAX);
        // SAFETY: tree was made above.
        unsafe { ffi::pmdaTreeRebuildHash(tree, count) };
        Ok(Self(tree))
    }

    /// # Safety
    /// As pmdaTreePMID(3): `name` is a string, `pmid` a place for the answer.
    pub(super) unsafe fn pmid(&self, name: *const c_char, pmid: *mut ffi::pmID) -> c_int {
        // SAFETY: the tree lives as long as self; the rest is the caller's promise.
        unsafe { ffi::pmdaTreePMID(self.0, name, pmid) }
    }

    /// # Safety
    /// As pmdaTreeName(3): `names` is a place for the answer.
    pub(super) unsafe fn name(&self, pmid: ffi::pmID, names: *mut *mut *mut c_char) -> c_int {
        // SAFETY: as above.
        unsafe { ffi::pmdaTreeName(self.0, pmid, names) }
    }

    /// A leaf has no children, which is not an error.
    ///
    /// # Safety
    /// As pmdaTreeChildren(3): `name` is a string, the others are places for the answer.
    pub(super) unsafe fn children(
        &self,
        name: *const c_char,
        traverse: c_int,
        names: *mut *mut *mut c_char,
        kinds: *mut *mut c_int,
    ) -> c_int {
        // SAFETY: as above.
        unsafe { ffi::pmdaTreeChildren(self.0, name, traverse, names, kinds) }
    }
}
