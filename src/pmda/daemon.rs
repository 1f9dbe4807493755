//! The same agent as a process of its own, which pmcd talks to over a pipe or a socket.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::c_char;
use std::ffi::c_int;
use std::mem;
use std::ptr;

use super::callbacks::Dispatch;
use super::error::PmErr;
use super::log;
use crate::ffi;

/// The options that pmdaGetOptions(3) knows by itself, and those beside them.
const SHORT: &CStr = c"D:d:i:l:pu:6:q:?";

/// Tells libpcp the name of the program, from the first word of the command line.
pub fn program(argv0: &str) {
    if let Ok(name) = CString::new(argv0) {
        // SAFETY: libpcp keeps the pointer, which lives on.
        unsafe { ffi::pmSetProgname(name.into_raw()) };
    }
}

/// Runs as a daemon: reads the command line, has `init` register an agent on the interface,
/// and answers pmcd until it closes the connection. `check` is called instead where the
/// command line asks for it, and says the exit status.
///
/// # Errors
/// When the command line or the connection is unusable; a message has been written.
pub fn daemon(
    name: &str,
    domain: u32,
    arguments: &[String],
    check: impl FnOnce(&str) -> i32,
    init: impl FnOnce(*mut Dispatch),
) -> Result<i32, PmErr> {
    log::daemon();
    let text = |text: &str| CString::new(text).map_err(|_| PmErr::Generic);
    let mut argv: Vec<*mut c_char> = Vec::new();
    for argument in arguments {
        // libpcp keeps pointers into the arguments
        argv.push(text(argument)?.into_raw());
    }
    let argc = c_int::try_from(argv.len()).map_err(|_| PmErr::Generic)?;
    argv.push(ptr::null_mut());
    let long = |long: &'static CStr, has_arg: i32, short: u8, argname: &'static CStr, help: &'static CStr| {
        ffi::pmLongOptions {
            long_opt: long.as_ptr(),
            has_arg,
            short_opt: c_int::from(short),
            argname: if argname.is_empty() { ptr::null() } else { argname.as_ptr() },
            message: help.as_ptr(),
        }
    };
    let none = || ffi::pmLongOptions {
        long_opt: ptr::null(),
        has_arg: 0,
        short_opt: 0,
        argname: ptr::null(),
        message: ptr::null(),
    };
    let mut table = vec![
        long(c"", 0, b'-', c"", c"Options"),
        long(c"debug", 1, b'D', c"DBG", c"set debug options, see pmdbg(1)"),
        long(c"domain", 1, b'd', c"N", c"use domain (numeric) for metrics domain of PMDA"),
        long(c"inet", 1, b'i', c"PORT", c"pmcd communicates with PMDA via port"),
        long(c"log", 1, b'l', c"PATH", c"write messages to this file"),
        long(c"pipe", 0, b'p', c"", c"pmcd communicates with PMDA via pipe"),
        long(c"unix", 1, b'u', c"SOCKET", c"pmcd communicates with PMDA via this unix domain socket"),
        long(c"ipv6", 1, b'6', c"PORT", c"pmcd communicates with PMDA via ipv6 port"),
        long(c"check", 1, b'q', c"FILE", c"check this configuration, try to load its modules, and exit"),
        long(c"tryload", 1, b'q', c"FILE", c"the same, as pmdabpf names it"),
        long(c"help", 0, b'?', c"", c"show this usage message and exit"),
        none(),
    ];
    // SAFETY: both structures are plain C data, for which zeroes are valid.
    let (mut dispatch, mut options): (Box<Dispatch>, ffi::pmdaOptions) =
        unsafe { (Box::new(mem::zeroed()), mem::zeroed()) };
    options.short_options = SHORT.as_ptr();
    options.long_options = table.as_mut_ptr();
    let log_file = text(&format!("{name}rs.log"))?;
    let mut wanted = None;
    // libpcp takes a call for help for a mistake
    let help = arguments.iter().any(|own| own == "--help" || own == "-?");
    // SAFETY: every string and structure lives until this function ends or, where libpcp keeps
    // it, for ever: the interface is leaked below.
    unsafe {
        ffi::pmdaDaemon(
            &mut *dispatch,
            ffi::PMDA_INTERFACE_7 as c_int,
            text(name)?.into_raw(),
            c_int::try_from(domain).map_err(|_| PmErr::Generic)?,
            log_file.into_raw(),
            ptr::null_mut(),
        );
        loop {
            let option = ffi::pmdaGetOptions(argc, argv.as_mut_ptr(), &mut options, &mut *dispatch);
            if option == c_int::from(b'q') && !options.optarg.is_null() {
                wanted = CStr::from_ptr(options.optarg).to_str().ok().map(str::to_owned);
            }
            if option == -1 {
                break;
            }
        }
        if options.errors > 0 || help || options.optind < argc {
            ffi::pmdaUsageMessage(&mut options);
            return Ok(i32::from(!help));
        }
    }
    if let Some(file) = wanted {
        return Ok(check(&file));
    }
    let dispatch = Box::leak(dispatch);
    // SAFETY: as above.
    unsafe {
        ffi::pmdaOpenLog(dispatch);
        init(dispatch);
        if dispatch.status < 0 {
            return Err(PmErr::Generic);
        }
        ffi::pmdaConnect(dispatch);
        if dispatch.status < 0 {
            return Err(PmErr::Generic);
        }
        ffi::pmdaMain(dispatch);
    }
    Ok(0)
}
