//! The error codes an agent may answer with.

use std::ffi::c_int;

use crate::ffi;

/// Why a value or a request was refused (PMAPI(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PmErr {
    /// Not available yet: ask again.
    Again,
    /// The kernel or this version of it does not offer it.
    AppVersion,
    /// The client, or this process, may not.
    Permission,
    /// No such metric.
    Pmid,
    /// No such instance domain.
    Indom,
    /// No such instance.
    Instance,
    /// No such name.
    Name,
    /// No help text.
    Text,
    /// A defect of the agent; the log says which.
    Generic,
    /// Out of memory.
    NoMemory,
}

impl PmErr {
    /// The code as PCP's functions return it, always negative.
    #[must_use]
    pub const fn code(self) -> c_int {
        match self {
            Self::Again => ffi::PM_ERR_AGAIN,
            Self::AppVersion => ffi::PM_ERR_APPVERSION,
            Self::Permission => ffi::PM_ERR_PERMISSION,
            Self::Pmid => ffi::PM_ERR_PMID,
            Self::Indom => ffi::PM_ERR_INDOM,
            Self::Instance => ffi::PM_ERR_INST,
            Self::Name => ffi::PM_ERR_NAME,
            Self::Text => ffi::PM_ERR_TEXT,
            Self::Generic => ffi::PM_ERR_GENERIC,
            Self::NoMemory => -libc::ENOMEM,
        }
    }
}
