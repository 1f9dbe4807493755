//! What the instances of a domain are: their numbers, names and labels.

use super::BucketUnit;
use super::Keys;
use super::Module;
use super::buckets;
use crate::pmda;

/// Instance numbers that one key owns in a domain of keys and buckets.
const IDS_PER_KEY: i32 = 64;

/// One instance domain.
#[derive(Debug)]
pub struct IndomEntry {
    /// Position of the module whose source knows its instances.
    pub module: usize,
    /// What is registered.
    pub indom: pmda::Indom,
    /// What its instances are.
    pub kind: IndomKind,
}

/// What the instances of a domain are.
#[derive(Debug, Clone, Copy)]
pub enum IndomKind {
    /// The modules; the number is the cluster.
    Modules,
    /// Keys; the number is the key's slot.
    Keys(&'static Keys),
    /// Buckets; the number is the bucket.
    Buckets(BucketUnit),
    /// Buckets of the cumulative form.
    Cumulative(BucketUnit),
    /// Keys and buckets; the number is slot * 64 + bucket, the name `key::bucket`.
    KeyBuckets(&'static Keys, BucketUnit),
    /// Keys and buckets of the cumulative form.
    KeyCumulative(&'static Keys, BucketUnit),
    /// Rows of events: the number is the event's less one, modulo the number of rows.
    Rows,
    /// Processes; the number is the process id.
    Processes,
}

impl IndomKind {
    /// The instances, for these keys (slot and name).
    #[must_use]
    pub fn instances(self, modules: &[(u16, &Module)], keys: &[(i32, String)]) -> pmda::Instances {
        let of_keys = |buckets: Vec<(i32, String)>| {
            let rows = keys.iter().flat_map(move |(slot, key)| {
                let buckets = buckets.clone();
                buckets.into_iter().map(move |(id, name)| (slot * IDS_PER_KEY + id, format!("{key}::{name}")))
            });
            pmda::Instances::new(rows)
        };
        let plain = || buckets::all().map(|id| (id, buckets::name(id))).collect::<Vec<_>>();
        let cumulative = |unit| buckets::cumulative(unit).map(|id| (id, buckets::le(id))).collect::<Vec<_>>();
        match self {
            Self::Modules => pmda::Instances::new(modules.iter().map(|(id, own)| (i32::from(*id), own.name))),
            Self::Keys(_) => pmda::Instances::new(keys.iter().cloned()),
            Self::Buckets(_) => pmda::Instances::new(plain()),
            Self::Cumulative(unit) => pmda::Instances::new(cumulative(unit)),
            Self::KeyBuckets(..) => of_keys(plain()),
            Self::KeyCumulative(_, unit) => of_keys(cumulative(unit)),
            // their sources know them
            Self::Rows | Self::Processes => pmda::Instances::default(),
        }
    }

    /// Slot of the key and bucket that an instance number stands for.
    #[must_use]
    pub fn split(self, id: i32) -> (i32, i32) {
        match self {
            Self::Modules | Self::Keys(_) | Self::Rows | Self::Processes => (id, 0),
            Self::Buckets(_) | Self::Cumulative(_) => (0, id),
            Self::KeyBuckets(..) | Self::KeyCumulative(..) => (id / IDS_PER_KEY, id % IDS_PER_KEY),
        }
    }

    /// The keys that its instances depend on.
    #[must_use]
    pub fn keys(self) -> Option<&'static Keys> {
        match self {
            Self::Keys(keys) | Self::KeyBuckets(keys, _) | Self::KeyCumulative(keys, _) => Some(keys),
            Self::Modules | Self::Buckets(_) | Self::Cumulative(_) | Self::Rows | Self::Processes => None,
        }
    }

    /// Labels of an instance as JSON. `key` says a key's name and whether it is stacked.
    #[must_use]
    pub fn labels(self, id: i32, key: impl Fn(i32) -> Option<(String, bool)>) -> Option<String> {
        let (slot, bucket) = self.split(id);
        let bounds = |unit: BucketUnit| {
            let (lower, upper) = (buckets::lower(bucket), buckets::upper(bucket));
            let unit = unit.label();
            format!(r#""statistic":"histogram","lower_bound":"{lower}","upper_bound":"{upper}","unit":"{unit}""#)
        };
        let le = |unit: BucketUnit| format!(r#""le":"{}","unit":"{}""#, buckets::le(bucket), unit.label());
        let of_key = |keys: &Keys| {
            let (name, stacked) = key(slot)?;
            Some(format!(r#""{}":"{}","stacked":{stacked}"#, keys.noun, escape(&name)))
        };
        let body = match self {
            Self::Modules | Self::Rows | Self::Processes => return None,
            Self::Keys(keys) => of_key(keys)?,
            Self::Buckets(unit) => bounds(unit),
            Self::Cumulative(unit) => le(unit),
            Self::KeyBuckets(keys, unit) => format!("{},{}", of_key(keys)?, bounds(unit)),
            Self::KeyCumulative(keys, unit) => format!("{},{}", of_key(keys)?, le(unit)),
        };
        Some(format!("{{{body}}}"))
    }
}

/// Text inside a JSON string.
fn escape(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .flat_map(|c| (c == '"' || c == '\\').then_some('\\').into_iter().chain([c]))
        .collect()
}
