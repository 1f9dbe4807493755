//! Attach targets that we look up, so that libbpf need not.
//!
//! A tracing program makes libbpf index the kernel's BTF, to find the type that the program is
//! attached to. A handler of our own for the sections opens such programs as a kind that needs
//! no BTF, and makes them tracing programs of a given type at the last moment before the kernel
//! is asked. Handlers belong to this library's own copy of libbpf and stay for good.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::OsStr;
use std::ffi::c_int;
use std::ffi::c_long;
use std::ptr;

use libbpf_rs::OpenObject;
use libbpf_rs::ProgramAttachType;
use libbpf_rs::ProgramType;
use libbpf_rs::libbpf_sys;
use once_cell::sync::Lazy;

use super::btf::kind;

/// Type numbers by section.
pub(super) type Targets = BTreeMap<String, u32>;

thread_local! {
    /// Of the object that this thread is loading.
    static TARGETS: RefCell<Targets> = const { RefCell::new(Targets::new()) };
}

/// Sections that are handled here.
const HANDLED: [Handled; 3] = [
    // include/trace/bpf_probe.h declares a typedef btf_trace_<name> per tracepoint
    Handled { prefix: c"tp_btf/", attach: ProgramAttachType::TraceRawTp, named: "btf_trace_", kind: kind::TYPEDEF },
    Handled { prefix: c"fentry/", attach: ProgramAttachType::TraceFentry, named: "", kind: kind::FUNC },
    Handled { prefix: c"fexit/", attach: ProgramAttachType::TraceFexit, named: "", kind: kind::FUNC },
];

struct Handled {
    prefix: &'static CStr,
    attach: ProgramAttachType,
    /// What the name of the type has before that of the target.
    named: &'static str,
    kind: u32,
}

/// How a section is handled, and the name of its target.
fn handled(section: &str) -> Option<(&'static Handled, &str)> {
    HANDLED.iter().find_map(|own| Some((own, section.strip_prefix(own.prefix.to_str().ok()?)?)))
}

/// The name and kind of the type that programs of a section are attached to, as in libbpf.
pub(super) fn type_of(section: &str) -> Option<(String, u32)> {
    handled(section).map(|(own, name)| (format!("{}{name}", own.named), own.kind))
}

/// Has objects that are opened from now on treated so; false where libbpf would not.
pub(super) fn register() -> bool {
    static REGISTERED: Lazy<bool> = Lazy::new(|| {
        let opts = libbpf_sys::libbpf_prog_handler_opts {
            sz: size_of::<libbpf_sys::libbpf_prog_handler_opts>() as libbpf_sys::size_t,
            prog_prepare_load_fn: Some(prepare),
            ..Default::default()
        };
        HANDLED.iter().all(|own| {
            // SAFETY: libbpf copies the prefix and the options; prepare lives as long as the
            // process, the library being linked nodelete.
            let handler = unsafe {
                libbpf_sys::libbpf_register_prog_handler(
                    own.prefix.as_ptr(),
                    libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT,
                    own.attach.clone() as libbpf_sys::bpf_attach_type,
                    &raw const opts,
                )
            };
            handler > 0
        })
    });
    *REGISTERED
}

/// Runs `load` with these targets for the programs that it loads.
pub(super) fn with<T>(targets: &Targets, load: impl FnOnce() -> T) -> T {
    TARGETS.set(targets.clone());
    let result = load();
    TARGETS.take();
    result
}

/// Has libbpf look up the targets of the chosen programs itself, in the kernel and in all of its modules.
pub(super) fn left_to_libbpf(open: &mut OpenObject, chosen: impl Fn(&OsStr) -> bool) -> libbpf_rs::Result<()> {
    for mut program in open.progs_mut().filter(|program| chosen(program.name())) {
        let section = program.section().to_string_lossy().into_owned();
        if let Some((own, name)) = handled(&section) {
            program.set_prog_type(ProgramType::Tracing);
            program.set_attach_type(own.attach.clone());
            program.set_attach_target(0, Some(name.to_owned()))?;
        }
    }
    Ok(())
}

/// Called by libbpf in the thread that loads, for each program that it is about to load.
unsafe extern "C" fn prepare(
    program: *mut libbpf_sys::bpf_program,
    opts: *mut libbpf_sys::bpf_prog_load_opts,
    _cookie: c_long,
) -> c_int {
    // SAFETY: libbpf passes a program whose section name lives as long as it.
    let section = unsafe {
        let name = libbpf_sys::bpf_program__section_name(program);
        if name.is_null() { c"" } else { CStr::from_ptr(name) }
    };
    let id = TARGETS.try_with(|targets| targets.try_borrow().ok()?.get(section.to_str().ok()?).copied());
    let Ok(Some(id)) = id else { return -libc::ESRCH };
    // SAFETY: libbpf passes the options that it will load this program with; both are its own
    // and used by no other thread.
    unsafe {
        libbpf_sys::bpf_program__set_type(program, libbpf_sys::BPF_PROG_TYPE_TRACING);
        ptr::addr_of_mut!((*opts).attach_btf_id).write(id);
    }
    0
}
