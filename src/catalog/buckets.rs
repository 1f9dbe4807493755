//! Power-of-two buckets: names, bounds, labels.

use crate::pmda::Units;

/// Instances of a histogram: as many as pmdabpf shows.
pub(super) const BUCKETS: i32 = 63;

/// Instance number of `+Inf` in a cumulative histogram.
pub const CUMULATIVE_INFINITY: i32 = 63;

/// What a histogram's buckets measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketUnit {
    /// Nanoseconds.
    Nanosecond,
    /// Microseconds.
    Microsecond,
}

impl BucketUnit {
    /// The unit of sums and bounds.
    #[must_use]
    pub const fn units(self) -> Units {
        match self {
            Self::Nanosecond => Units::Nanosecond,
            Self::Microsecond => Units::Microsecond,
        }
    }

    /// As labels name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Nanosecond => "ns",
            Self::Microsecond => "us",
        }
    }

    /// Nanoseconds in one.
    #[must_use]
    pub const fn nanoseconds(self) -> u64 {
        match self {
            Self::Nanosecond => 1,
            Self::Microsecond => 1000,
        }
    }

    /// The last bucket that the cumulative form shows before `+Inf`: 18 minutes, 134 seconds.
    #[must_use]
    pub const fn last_cumulative(self) -> i32 {
        match self {
            Self::Nanosecond => 39,
            Self::Microsecond => 26,
        }
    }
}

/// The least value of a bucket.
pub(super) fn lower(bucket: i32) -> u64 {
    if bucket == 0 { 0 } else { 1 << bucket }
}

/// The greatest value of a bucket.
pub(super) fn upper(bucket: i32) -> u64 {
    (2 << bucket) - 1
}

/// The name of a bucket's instance, as pmdabpf names it.
pub(super) fn name(bucket: i32) -> String {
    format!("{}-{}", lower(bucket), upper(bucket))
}

/// Prometheus' bound of a bucket: the greatest value that it holds, `+Inf` for the last.
pub(super) fn le(bucket: i32) -> String {
    if bucket == CUMULATIVE_INFINITY { "+Inf".to_owned() } else { upper(bucket).to_string() }
}

/// All buckets of a histogram.
pub(super) fn all() -> impl Iterator<Item = i32> {
    0..BUCKETS
}

/// All buckets of the cumulative form.
pub(super) fn cumulative(unit: BucketUnit) -> impl Iterator<Item = i32> {
    (0..=unit.last_cumulative()).chain([CUMULATIVE_INFINITY])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_pmdabpf() {
        assert_eq!(name(0), "0-1");
        assert_eq!(name(1), "2-3");
        assert_eq!(name(10), "1024-2047");
        assert_eq!(name(62), "4611686018427387904-9223372036854775807");
        assert_eq!(all().count(), 63);
    }

    #[test]
    fn cumulative_bounds() {
        assert_eq!(cumulative(BucketUnit::Nanosecond).count(), 41);
        assert_eq!(cumulative(BucketUnit::Microsecond).count(), 28);
        assert_eq!(le(0), "1");
        assert_eq!(le(26), "134217727");
        assert_eq!(le(63), "+Inf");
    }
}
