//! Descriptions of metrics and instance domains (pmLookupDesc(3)).

use std::ffi::c_int;

use crate::ffi;

/// The type of a metric's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 64 bits.
    I64,
    /// Unsigned, 64 bits.
    U64,
    /// Floating point, 64 bits.
    F64,
    /// A string.
    String,
}

impl Type {
    pub(super) const fn code(self) -> c_int {
        match self {
            Self::I32 => ffi::PM_TYPE_32 as c_int,
            Self::U32 => ffi::PM_TYPE_U32 as c_int,
            Self::I64 => ffi::PM_TYPE_64 as c_int,
            Self::U64 => ffi::PM_TYPE_U64 as c_int,
            Self::F64 => ffi::PM_TYPE_DOUBLE as c_int,
            Self::String => ffi::PM_TYPE_STRING as c_int,
        }
    }
}

/// How a metric's values relate to each other in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Semantics {
    /// Grows; clients show its rate.
    Counter,
    /// A reading of this moment.
    Instant,
    /// Stays as it is until something happens.
    Discrete,
}

impl Semantics {
    pub(super) const fn code(self) -> c_int {
        match self {
            Self::Counter => ffi::PM_SEM_COUNTER as c_int,
            Self::Instant => ffi::PM_SEM_INSTANT as c_int,
            Self::Discrete => ffi::PM_SEM_DISCRETE as c_int,
        }
    }
}

/// Dimension and scale of a metric's values. Only plain dimensions are needed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Units {
    /// No dimension.
    None,
    /// A count, scale one.
    Count,
    /// Bytes.
    Byte,
    /// Nanoseconds.
    Nanosecond,
    /// Microseconds.
    Microsecond,
}

impl Units {
    pub(super) fn encode(self) -> ffi::pmUnits {
        let mut units = ffi::pmUnits::default();
        match self {
            Self::None => {}
            Self::Count => units.set_dimCount(1),
            Self::Byte => {
                units.set_dimSpace(1);
                units.set_scaleSpace(ffi::PM_SPACE_BYTE);
            }
            Self::Nanosecond => {
                units.set_dimTime(1);
                units.set_scaleTime(ffi::PM_TIME_NSEC);
            }
            Self::Microsecond => {
                units.set_dimTime(1);
                units.set_scaleTime(ffi::PM_TIME_USEC);
            }
        }
        units
    }

    /// As pminfo(1) prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Count => "count",
            Self::Byte => "byte",
            Self::Nanosecond => "nanosec",
            Self::Microsecond => "microsec",
        }
    }
}

/// One metric of the registered table.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Cluster number of its PMID, below 4096.
    pub cluster: u16,
    /// Item number of its PMID, below 1024.
    pub item: u16,
    /// Full name.
    pub name: String,
    /// Type of its values.
    pub ty: Type,
    /// Semantics of its values.
    pub semantics: Semantics,
    /// Units of its values.
    pub units: Units,
    /// Serial number of its instance domain, `None` for a single value.
    pub indom: Option<u32>,
    /// One line of help.
    pub oneline: String,
    /// The whole help text.
    pub help: String,
    /// Answered only to clients that [`Agent::is_reader`](super::Agent::is_reader) admits.
    pub protected: bool,
}

/// One instance domain of the registered table. Its instances come from
/// [`Agent::instances`](super::Agent::instances).
#[derive(Debug, Clone)]
pub struct Indom {
    /// Serial number, unique within the domain.
    pub serial: u32,
    /// One line of help.
    pub oneline: String,
    /// The whole help text.
    pub help: String,
}

/// A metric's PMID within a domain.
pub(super) fn pmid(domain: u32, metric: &Metric) -> ffi::pmID {
    domain << 22 | u32::from(metric.cluster) << 10 | u32::from(metric.item)
}

/// An instance domain's identifier within a domain; `None` is PM_INDOM_NULL.
pub(super) fn indom(domain: u32, serial: Option<u32>) -> ffi::pmInDom {
    serial.map_or(ffi::PM_INDOM_NULL, |serial| domain << 22 | serial)
}

/// The serial number within an instance domain's identifier.
pub(super) fn serial(indom: ffi::pmInDom) -> u32 {
    indom & ((1 << 22) - 1)
}
