//! Instances of an instance domain, as an immutable list.

use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::c_int;

use crate::ffi;

/// The number that stands for no instance.
pub(super) const IN_NULL: c_int = ffi::PM_IN_NULL as i32;

/// One instance: its number, which never changes meaning, and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance<'a> {
    /// Not negative.
    pub id: i32,
    /// As clients show and match it.
    pub name: &'a CStr,
}

/// The instances of one domain at one time, in ascending order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instances {
    ids: Vec<i32>,
    names: Vec<CString>,
}

impl Instances {
    /// Sorts by number; of instances with the same number the first stays, and one with a
    /// negative number is left out. NUL and control characters in a name become `?`.
    #[must_use]
    pub fn new<N: AsRef<str>>(list: impl IntoIterator<Item = (i32, N)>) -> Self {
        let mut list: Vec<(i32, N)> = list.into_iter().filter(|(id, _)| *id >= 0).collect();
        list.sort_by_key(|(id, _)| *id);
        list.dedup_by_key(|(id, _)| *id);
        let names = list.iter().map(|(_, name)| printable(name.as_ref())).collect();
        Self { ids: list.iter().map(|(id, _)| *id).collect(), names }
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Instance<'_>> {
        self.ids.iter().zip(&self.names).map(|(&id, name)| Instance { id, name })
    }

    /// Their numbers, ascending.
    #[must_use]
    pub fn ids(&self) -> &[i32] {
        &self.ids
    }

    /// The instance with this number.
    #[must_use]
    pub fn by_id(&self, id: i32) -> Option<Instance<'_>> {
        let at = self.ids.binary_search(&id).ok()?;
        self.names.get(at).map(|name| Instance { id, name })
    }

    /// The instance with this name, or whose name up to its first space is this name, as
    /// pmdaInstance(3) matches.
    #[must_use]
    pub fn by_name(&self, name: &[u8]) -> Option<Instance<'_>> {
        self.iter().find(|instance| {
            let own = instance.name.to_bytes();
            own == name || (!name.contains(&b' ') && own.split(|&c| c == b' ').next() == Some(name))
        })
    }
}

fn printable(name: &str) -> CString {
    let clean: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    CString::new(clean).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookups() {
        let all = Instances::new([(7, "b c"), (2, "a"), (7, "late"), (-1, "x")]);
        assert_eq!(all.ids(), [2, 7]);
        assert_eq!(all.by_id(7).unwrap().name.to_bytes(), b"b c");
        assert_eq!(all.by_id(3), None);
        assert_eq!(all.by_name(b"b").unwrap().id, 7);
        assert_eq!(all.by_name(b"b c").unwrap().id, 7);
        assert_eq!(all.by_name(b"b x"), None);
    }

    #[test]
    fn names_from_outside_are_made_printable() {
        let all = Instances::new([(0, "a\0b\nc")]);
        assert_eq!(all.by_id(0).unwrap().name.to_bytes(), b"a?b?c");
    }
}
