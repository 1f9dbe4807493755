//! The few functions of PMAPI(3) that in-process tests and benches call, for PCP 6.

use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::c_char;
use std::ffi::c_int;
use std::ptr;

#[repr(C)]
pub struct Value {
    pub inst: c_int,
    pub value: *mut u8,
}

#[repr(C)]
pub struct ValueSet {
    pub pmid: u32,
    pub numval: c_int,
    pub valfmt: c_int,
    pub vlist: [Value; 1],
}

#[repr(C)]
pub struct RawResult {
    pub timestamp: [i64; 2],
    pub numpmid: c_int,
    pub vset: [*mut ValueSet; 1],
}

unsafe extern "C" {
    fn pmNewContext(kind: c_int, name: *const c_char) -> c_int;
    fn pmUseContext(context: c_int) -> c_int;
    fn pmDestroyContext(context: c_int) -> c_int;
    fn pmLookupName(count: c_int, names: *const *const c_char, pmids: *mut u32) -> c_int;
    fn pmFetch(count: c_int, pmids: *mut u32, result: *mut *mut RawResult) -> c_int;
    fn pmFreeResult(result: *mut RawResult);
    fn pmAddProfile(indom: u32, count: c_int, list: *const c_int) -> c_int;
    fn pmDelProfile(indom: u32, count: c_int, list: *const c_int) -> c_int;
    fn pmLoadASCIINameSpace(file: *const c_char, duplicates: c_int) -> c_int;
    fn pmUnloadNameSpace();
    fn pmSetProgname(name: *const c_char);
    fn pmErrStr(code: c_int) -> *const c_char;
    fn __pmSpecLocalPMDA(spec: *const c_char) -> *const c_char;
}

fn check(what: &str, status: c_int) -> c_int {
    if status < 0 {
        // SAFETY: pmErrStr returns a string that lives on.
        let text = unsafe { CStr::from_ptr(pmErrStr(status)) };
        panic!("{what}: {}", text.to_string_lossy());
    }
    status
}

fn text(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// A connection to pmcd, or a local context.
pub struct Context(c_int);

impl Context {
    /// `add,157,PATH,INIT` for each agent of a local context, as for `pminfo -K`.
    pub fn local(specs: &[&str], pmns: &str) -> Self {
        // SAFETY: strings outlive the calls.
        unsafe {
            pmSetProgname(c"test".as_ptr());
            pmUnloadNameSpace();
            check("pmLoadASCIINameSpace", pmLoadASCIINameSpace(text(pmns).as_ptr(), 1));
            for spec in ["clear"].iter().chain(specs) {
                let error = __pmSpecLocalPMDA(text(spec).into_raw());
                assert!(error.is_null(), "{spec}: {:?}", CStr::from_ptr(error));
            }
            Self(check("pmNewContext", pmNewContext(3, ptr::null())))
        }
    }

    pub fn host(name: &str) -> Self {
        // SAFETY: as above.
        unsafe { Self(check("pmNewContext", pmNewContext(1, text(name).as_ptr()))) }
    }

    /// Has the calls that follow use this context.
    pub fn use_it(&self) {
        // SAFETY: the handle is ours.
        unsafe { pmUseContext(self.0) };
    }

    pub fn lookup(&self, names: &[&str]) -> Vec<u32> {
        let names: Vec<CString> = names.iter().map(|name| text(name)).collect();
        let pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let mut pmids = vec![0; names.len()];
        // SAFETY: as many names and places as the count says.
        unsafe { check("pmLookupName", pmLookupName(pointers.len() as c_int, pointers.as_ptr(), pmids.as_mut_ptr())) };
        pmids
    }

    pub fn fetch(&self, pmids: &mut [u32]) -> Answer {
        let mut result = ptr::null_mut();
        // SAFETY: as many ids as the count says, and a place for the answer.
        unsafe { check("pmFetch", pmFetch(pmids.len() as c_int, pmids.as_mut_ptr(), &mut result)) };
        Answer(result)
    }

    /// Only these instances from now on.
    pub fn pick(&self, indom: u32, ids: &[c_int]) {
        // SAFETY: as many ids as the count says.
        unsafe {
            check("pmDelProfile", pmDelProfile(indom, 0, ptr::null()));
            check("pmAddProfile", pmAddProfile(indom, ids.len() as c_int, ids.as_ptr()));
        }
    }

    /// All instances again.
    pub fn pick_all(&self, indom: u32) {
        // SAFETY: no list.
        unsafe { check("pmAddProfile", pmAddProfile(indom, 0, ptr::null())) };
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the handle is ours.
        unsafe { pmDestroyContext(self.0) };
    }
}

/// What a fetch answered.
pub struct Answer(*mut RawResult);

impl Answer {
    /// Number of values, or an error code, of the metric at this position.
    pub fn count(&self, at: usize) -> i32 {
        // SAFETY: the result has as many sets as ids were asked for.
        unsafe { (*self.set(at)).numval }
    }

    /// Instances and 64-bit values of the metric at this position.
    pub fn numbers(&self, at: usize) -> Vec<(i32, u64)> {
        let set = self.set(at);
        // SAFETY: numval entries lie behind the header; each points to a block whose value
        // begins 4 bytes in.
        unsafe {
            let first: *const Value = (&raw const (*set).vlist).cast();
            (0..usize::try_from((*set).numval).unwrap_or(0))
                .map(|at| {
                    let value = first.add(at);
                    ((*value).inst, (*value).value.add(4).cast::<u64>().read_unaligned())
                })
                .collect()
        }
    }

    fn set(&self, at: usize) -> *mut ValueSet {
        // SAFETY: as above.
        unsafe {
            assert!(at < (*self.0).numpmid as usize);
            let first: *const *mut ValueSet = (&raw const (*self.0).vset).cast();
            *first.add(at)
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: came from pmFetch.
        unsafe { pmFreeResult(self.0) };
    }
}
