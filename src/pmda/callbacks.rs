//! The entries that libpcp calls, and how an agent gets behind them.
//!
//! Every entry catches panics, since one that crossed into C would end pmcd and with it every
//! metric of the host. Results obey the client's instance profile here; libpcp leaves that to
//! us once `fetch` is our own.

#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::c_char;
use std::ffi::c_int;
use std::mem::offset_of;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::ptr;

use super::Agent;
use super::clients;
use super::error::PmErr;
use super::instances::IN_NULL;
use super::instances::Instance;
use super::instances::Instances;
use super::log::Level;
use super::log::log;
use super::metric;
use super::metric::Indom;
use super::metric::Metric;
use super::names::Names;
use super::profile::Pick;
use super::profile::Scratch;
use super::value_set::ValueSet;
use crate::ffi;

/// An interface as the host passes it to an agent's init function.
pub type Dispatch = ffi::pmdaInterface;

/// One registered agent with its table. Lives as long as the process: libpcp never says that
/// it has done with an interface.
struct Registered {
    domain: u32,
    agent: Box<dyn Agent>,
    metrics: Vec<Metric>,
    /// Positions in `metrics` by PMID, ascending.
    by_pmid: Vec<(ffi::pmID, usize)>,
    texts: Vec<Text>,
    names: Names,
    result: Skeleton,
    scratch: Scratch,
}

struct Text {
    is_indom: bool,
    ident: u32,
    oneline: CString,
    help: CString,
}

/// Makes `agent` answer for `metrics` on this interface, which the host passed to an init
/// function with the domain number set, under this name; without one, on an interface that
/// [`daemon`](super::daemon) prepared. On error the host is told through `status`.
///
/// # Errors
/// When libpcp_pmda refuses the interface or the table.
///
/// # Safety
/// `dispatch` points to an interface that lives as long as the process, and its callbacks are
/// called by one thread at a time, as pmcd and libpcp's local context do (PMDA(3)).
pub unsafe fn register(
    dispatch: *mut Dispatch,
    name: Option<&CStr>,
    agent: Box<dyn Agent>,
    metrics: Vec<Metric>,
    indoms: &[Indom],
) -> Result<(), PmErr> {
    // SAFETY: the caller's promise. pmdaDSO keeps the name, which has to live on; a daemon has
    // been prepared already and has its interface.
    let (interface, domain) = unsafe {
        if let Some(name) = name {
            ffi::pmdaDSO(dispatch, ffi::PMDA_INTERFACE_7 as c_int, name.to_owned().into_raw(), ptr::null_mut());
        }
        (&mut *dispatch, (*dispatch).domain)
    };
    if interface.status < 0 {
        return Err(PmErr::Generic);
    }
    let domain = u32::try_from(domain).map_err(|_| PmErr::Generic)?;
    let registered = Box::new(Registered::new(domain, agent, metrics, indoms)?);
    // SAFETY: pmdaDSO set up the version that was asked for, so `seven` is the active member.
    let seven = unsafe { &mut interface.version.seven };
    // pmdaInit refuses an agent with pmdaFetch and no fetch callback: ours come first
    seven.fetch = Some(fetch);
    seven.desc = Some(desc);
    seven.instance = Some(instance);
    seven.text = Some(text);
    seven.store = Some(store);
    seven.pmid = Some(pmid);
    seven.name = Some(name_of);
    seven.children = Some(children);
    seven.label = Some(label);
    seven.attribute = Some(attribute);
    // SAFETY: ext was set up by pmdaDSO; what is stored there is read back by `registered`.
    unsafe {
        ffi::pmdaExtSetData(seven.ext, Box::into_raw(registered).cast());
        // without it the host does not say who its clients are
        ffi::pmdaSetCommFlags(dispatch, ffi::PMDA_FLAG_AUTHORIZE as c_int);
        ffi::pmdaSetEndContextCallBack(dispatch, Some(clients::forget));
        ffi::pmdaInit(dispatch, ptr::null_mut(), 0, ptr::null_mut(), 0);
    }
    if interface.status < 0 { Err(PmErr::Generic) } else { Ok(()) }
}

impl Registered {
    fn new(domain: u32, agent: Box<dyn Agent>, metrics: Vec<Metric>, indoms: &[Indom]) -> Result<Self, PmErr> {
        let mut by_pmid: Vec<_> = metrics.iter().enumerate().map(|(at, own)| (metric::pmid(domain, own), at)).collect();
        by_pmid.sort_unstable();
        let text = |is_indom, ident, oneline: &str, help: &str| {
            Ok(Text {
                is_indom,
                ident,
                oneline: CString::new(oneline).map_err(|_| PmErr::Text)?,
                help: CString::new(help).map_err(|_| PmErr::Text)?,
            })
        };
        let of_metrics = metrics.iter().map(|m| text(false, metric::pmid(domain, m), &m.oneline, &m.help));
        let of_indoms = indoms.iter().map(|i| text(true, metric::indom(domain, Some(i.serial)), &i.oneline, &i.help));
        Ok(Self {
            domain,
            texts: of_metrics.chain(of_indoms).collect::<Result<_, _>>()?,
            names: Names::new(domain, &metrics)?,
            agent,
            metrics,
            by_pmid,
            result: Skeleton::default(),
            scratch: Scratch::default(),
        })
    }

    fn metric(&self, pmid: ffi::pmID) -> Option<usize> {
        let at = self.by_pmid.binary_search_by_key(&pmid, |(own, _)| *own).ok()?;
        self.by_pmid.get(at).map(|(_, position)| *position)
    }
}

/// Runs the body of an entry with the agent behind `ext`.
fn enter(entry: &str, ext: *mut ffi::pmdaExt, body: impl FnOnce(&mut Registered) -> c_int) -> c_int {
    // SAFETY: libpcp passes the ext of the interface that register() was given; the data there
    // was a Box<Registered> that is never freed, and entries are called one at a time.
    let registered = unsafe { ffi::pmdaExtGetData(ext).cast::<Registered>().as_mut() };
    let Some(registered) = registered else { return PmErr::Generic.code() };
    match catch_unwind(AssertUnwindSafe(|| body(registered))) {
        Ok(status) => status,
        Err(panic) => {
            log(Level::Error, &format!("{entry}: {}; the request was refused", panic_text(panic.as_ref())));
            PmErr::Generic.code()
        }
    }
}

/// What a panic said.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}

/// The pmResult that is returned again and again; libpcp frees the sets in it, not itself.
/// Words, so that it is aligned for the pointers.
#[derive(Default)]
struct Skeleton(Vec<u64>);

impl Skeleton {
    const HEADER: usize = offset_of!(ffi::pmda_result, vset);

    fn with_room(&mut self, sets: usize) -> *mut ffi::pmda_result {
        let bytes = Self::HEADER + sets.max(1) * size_of::<*mut ffi::pmValueSet>();
        self.0.resize(bytes.div_ceil(size_of::<u64>()), 0);
        self.0.as_mut_ptr().cast()
    }
}

/// The sets of an answer that is not complete yet.
struct Sets(Vec<*mut ffi::pmValueSet>);

impl Drop for Sets {
    fn drop(&mut self) {
        for set in &self.0 {
            // SAFETY: sets come from ValueSet::finish, which passes ownership.
            unsafe { libc::free(set.cast()) };
        }
    }
}

unsafe extern "C" fn fetch(
    count: c_int,
    pmids: *mut ffi::pmID,
    result: *mut *mut ffi::pmda_result,
    ext: *mut ffi::pmdaExt,
) -> c_int {
    enter("fetch", ext, |registered| {
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: libpcp passes as many ids as it says, and ext with its profile is its own.
        let (pmids, profile, context) =
            unsafe { (std::slice::from_raw_parts(pmids, count), (*ext).e_prof, (*ext).e_context) };
        let mut is_reader = None;
        let mut sets = Sets(Vec::with_capacity(count));
        registered.agent.begin();
        for &pmid in pmids {
            let set = match registered.metric(pmid).and_then(|at| registered.metrics.get(at).map(|m| (at, m))) {
                Some((at, own)) => {
                    // SAFETY: the profile stays as it is until this entry returns.
                    let pick = unsafe { Pick::of(profile, metric::indom(registered.domain, own.indom)) };
                    let mut out = ValueSet::new(pmid, own, pick, &mut registered.scratch);
                    let agent = &mut registered.agent;
                    let refused =
                        own.protected && !*is_reader.get_or_insert_with(|| agent.is_reader(&clients::client(context)));
                    if refused {
                        out.error(PmErr::Permission);
                    } else if let Err(panic) = catch_unwind(AssertUnwindSafe(|| agent.values(at, &mut out))) {
                        // one metric's defect must not cost the others of the request
                        out.error(PmErr::Generic);
                        log(Level::Error, &format!("{}: {}", own.name, panic_text(panic.as_ref())));
                    }
                    out.finish()
                }
                None => ValueSet::unknown(pmid, &mut registered.scratch).finish(),
            };
            if set.is_null() {
                return PmErr::NoMemory.code();
            }
            sets.0.push(set);
        }
        let answer = registered.result.with_room(count);
        // SAFETY: with_room made room for the header and count pointers; result is a place for
        // the answer, whose sets libpcp owns from here on.
        unsafe {
            (*answer).numpmid = c_int::try_from(count).unwrap_or(0);
            let first: *mut *mut ffi::pmValueSet = (&raw mut (*answer).vset).cast();
            ptr::copy_nonoverlapping(sets.0.as_ptr(), first, count);
            sets.0.clear();
            *result = answer;
        }
        0
    })
}

unsafe extern "C" fn desc(pmid: ffi::pmID, desc: *mut ffi::pmDesc, ext: *mut ffi::pmdaExt) -> c_int {
    enter("desc", ext, |registered| {
        let Some(own) = registered.metric(pmid).and_then(|at| registered.metrics.get(at)) else {
            return PmErr::Pmid.code();
        };
        let found = ffi::pmDesc {
            pmid,
            type_: own.ty.code(),
            indom: metric::indom(registered.domain, own.indom),
            sem: own.semantics.code(),
            units: own.units.encode(),
        };
        // SAFETY: desc is a place for the answer.
        unsafe { ptr::write(desc, found) };
        0
    })
}

unsafe extern "C" fn instance(
    indom: ffi::pmInDom,
    id: c_int,
    name: *mut c_char,
    result: *mut *mut ffi::pmInResult,
    ext: *mut ffi::pmdaExt,
) -> c_int {
    enter("instance", ext, |registered| {
        let Some(all) = registered.agent.instances(metric::serial(indom)) else {
            return PmErr::Indom.code();
        };
        let by_id = id != IN_NULL;
        let answer = if name.is_null() {
            let found = if by_id { all.by_id(id).map(|one| vec![one]) } else { Some(all.iter().collect()) };
            found.map(|found| in_result(indom, &found, !by_id, true))
        } else {
            // SAFETY: not null, so a string by pmdaInstance(3).
            let name = unsafe { CStr::from_ptr(name) };
            let found = if by_id { None } else { all.by_name(name.to_bytes()) };
            found.map(|found| in_result(indom, &[found], true, false))
        };
        match answer {
            None => PmErr::Instance.code(),
            Some(answer) if answer.is_null() => PmErr::NoMemory.code(),
            Some(answer) => {
                // SAFETY: result is a place for the answer, which libpcp owns from here on.
                unsafe { *result = answer };
                0
            }
        }
    })
}

/// A pmInResult as __pmFreeInResult expects it: each list and each name its own allocation.
/// Null where memory ran out.
fn in_result(indom: ffi::pmInDom, found: &[Instance<'_>], ids: bool, names: bool) -> *mut ffi::pmInResult {
    // SAFETY: calloc has no requirements. Every write below stays within the count allocated;
    // the rest of a list that could not be filled stays null.
    unsafe {
        let result: *mut ffi::pmInResult = libc::calloc(1, size_of::<ffi::pmInResult>()).cast();
        if result.is_null() {
            return result;
        }
        (*result).indom = indom;
        (*result).numinst = c_int::try_from(found.len()).unwrap_or(0);
        if ids {
            (*result).instlist = libc::calloc(found.len().max(1), size_of::<c_int>()).cast();
            if (*result).instlist.is_null() {
                return free_in_result(result);
            }
            for (at, one) in found.iter().enumerate() {
                *(*result).instlist.add(at) = one.id;
            }
        }
        if names {
            (*result).namelist = libc::calloc(found.len().max(1), size_of::<*mut c_char>()).cast();
            if (*result).namelist.is_null() {
                return free_in_result(result);
            }
            for (at, one) in found.iter().enumerate() {
                let name = libc::strdup(one.name.as_ptr());
                if name.is_null() {
                    return free_in_result(result);
                }
                *(*result).namelist.add(at) = name;
            }
        }
        result
    }
}

/// # Safety
/// `result` came from `in_result`, its lists are null or as long as its count.
unsafe fn free_in_result(result: *mut ffi::pmInResult) -> *mut ffi::pmInResult {
    // SAFETY: the caller's promise; free(null) does nothing.
    unsafe {
        if !(*result).namelist.is_null() {
            for at in 0..usize::try_from((*result).numinst).unwrap_or(0) {
                libc::free((*(*result).namelist.add(at)).cast());
            }
        }
        libc::free((*result).namelist.cast());
        libc::free((*result).instlist.cast());
        libc::free(result.cast());
    }
    ptr::null_mut()
}

unsafe extern "C" fn text(ident: c_int, kind: c_int, buffer: *mut *mut c_char, ext: *mut ffi::pmdaExt) -> c_int {
    enter("text", ext, |registered| {
        let is_indom = kind & ffi::PM_TEXT_INDOM as c_int != 0;
        let ident = ident as u32;
        let Some(own) = registered.texts.iter().find(|own| own.is_indom == is_indom && own.ident == ident) else {
            return PmErr::Text.code();
        };
        let found = if kind & ffi::PM_TEXT_ONELINE as c_int != 0 { &own.oneline } else { &own.help };
        // SAFETY: buffer is a place for the answer; pmcd and libpcp only read the text of a
        // DSO, and it lives as long as the process.
        unsafe { *buffer = found.as_ptr().cast_mut() };
        0
    })
}

unsafe extern "C" fn store(_result: *mut ffi::pmda_result, _ext: *mut ffi::pmdaExt) -> c_int {
    PmErr::Permission.code()
}

unsafe extern "C" fn attribute(
    context: c_int,
    attribute: c_int,
    value: *const c_char,
    len: c_int,
    ext: *mut ffi::pmdaExt,
) -> c_int {
    enter("attribute", ext, |_| {
        // SAFETY: the value is as long as the host says.
        unsafe { clients::note(context, attribute, value, len) };
        0
    })
}

unsafe extern "C" fn pmid(name: *const c_char, pmid: *mut ffi::pmID, ext: *mut ffi::pmdaExt) -> c_int {
    // SAFETY: the arguments are those that pmdaTreePMID(3) wants, passed on.
    enter("pmid", ext, |registered| unsafe { registered.names.pmid(name, pmid) })
}

unsafe extern "C" fn name_of(pmid: ffi::pmID, names: *mut *mut *mut c_char, ext: *mut ffi::pmdaExt) -> c_int {
    // SAFETY: the arguments are those that pmdaTreeName(3) wants, passed on.
    enter("name", ext, |registered| unsafe { registered.names.name(pmid, names) })
}

unsafe extern "C" fn children(
    name: *const c_char,
    traverse: c_int,
    names: *mut *mut *mut c_char,
    kinds: *mut *mut c_int,
    ext: *mut ffi::pmdaExt,
) -> c_int {
    // SAFETY: the arguments are those that pmdaTreeChildren(3) wants, passed on.
    enter("children", ext, |registered| unsafe { registered.names.children(name, traverse, names, kinds) })
}

unsafe extern "C" fn label(
    ident: c_int,
    kind: c_int,
    sets: *mut *mut ffi::pmLabelSet,
    ext: *mut ffi::pmdaExt,
) -> c_int {
    enter("label", ext, |registered| {
        let ident_unsigned = ident as u32;
        if kind & ffi::PM_LABEL_INSTANCES as c_int == 0 || ident_unsigned == ffi::PM_INDOM_NULL {
            // SAFETY: the arguments are those that pmdaLabel(3) wants, passed on.
            return unsafe { ffi::pmdaLabel(ident, kind, sets, ext) };
        }
        let serial = metric::serial(ident_unsigned);
        let Some(all) = registered.agent.instances(serial) else { return PmErr::Indom.code() };
        // SAFETY: sets is a place for the answer.
        unsafe { instance_labels(registered.agent.as_mut(), serial, &all, sets) }
    })
}

/// An array of label sets, one per instance, as pmFreeLabelSets(3) frees it.
///
/// # Safety
/// `sets` is a place for the answer.
unsafe fn instance_labels(
    agent: &mut dyn Agent,
    serial: u32,
    all: &Instances,
    sets: *mut *mut ffi::pmLabelSet,
) -> c_int {
    let count = all.ids().len();
    if count == 0 {
        return 0;
    }
    // SAFETY: calloc has no requirements.
    let first: *mut ffi::pmLabelSet = unsafe { libc::calloc(count, size_of::<ffi::pmLabelSet>()) }.cast();
    if first.is_null() {
        return PmErr::NoMemory.code();
    }
    for (at, one) in all.iter().enumerate() {
        let labels = agent.labels(serial, one).and_then(|json| CString::new(json).ok());
        // SAFETY: at < count, so the set lies in the array; pmdaAddLabels fills the set that
        // its first argument points to with memory of its own.
        unsafe {
            let mut set = first.add(at);
            (*set).inst = one.id as u32;
            if let Some(labels) = labels {
                ffi::pmdaAddLabels(&mut set, c"%s".as_ptr(), labels.as_ptr());
                ffi::pmdaAddLabelFlags(set, ffi::PM_LABEL_INSTANCES as c_int);
            }
        }
    }
    // SAFETY: the caller's promise; libpcp owns the array from here on.
    unsafe { *sets = first };
    c_int::try_from(count).unwrap_or(c_int::MAX)
}
