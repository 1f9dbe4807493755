//! PCP's C API as bindgen reads it from the installed headers (see `include/pcp.h`).

#![allow(warnings, unsafe_code, missing_docs)]
#![allow(clippy::all, clippy::restriction)]

include!(concat!(env!("OUT_DIR"), "/pcp.rs"));
