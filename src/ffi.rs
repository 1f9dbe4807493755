//! PCP's C API as bindgen reads it from the installed headers (see `include/pcp.h`).

#![allow(warnings, unsafe_code, missing_docs)]
#![allow(clippy::all, clippy::restriction)]

include!(concat!(env!("OUT_DIR"), "/pcp.rs"));

/// Unit tests are programs of their own, see `link()` in `build.rs`.
#[cfg(test)]
#[link(name = "pcp")]
unsafe extern "C" {}
