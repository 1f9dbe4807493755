//! Which instances a client asked for (pmAddProfile(3)).

#![allow(unsafe_code)]

use std::slice;

use crate::ffi;

/// A client's choice in one instance domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick<'a> {
    /// Every instance.
    All,
    /// These only.
    Only(&'a [i32]),
    /// Every instance but these.
    AllBut(&'a [i32]),
}

impl<'a> Pick<'a> {
    /// Reads the choice for `indom` out of the profile that libpcp keeps.
    ///
    /// # Safety
    /// `profile` is null or points to a profile whose lists stay valid for `'a`.
    pub(super) unsafe fn of(profile: *const ffi::pmProfile, indom: ffi::pmInDom) -> Self {
        if profile.is_null() || indom == ffi::PM_INDOM_NULL {
            return Self::All;
        }
        // SAFETY: not null, and valid by the contract of this function.
        let profile = unsafe { &*profile };
        // SAFETY: libpcp keeps profile_len entries at profile.
        let lists = unsafe { list(profile.profile, profile.profile_len) };
        let own = lists.iter().find(|own| own.indom == indom);
        let state = own.map_or(profile.state, |own| own.state);
        // SAFETY: libpcp keeps instances_len entries at instances.
        let listed = own.map_or(&[][..], |own| unsafe { list(own.instances, own.instances_len) });
        match (state == ffi::PM_PROFILE_INCLUDE as i32, listed.is_empty()) {
            (true, true) => Self::All,
            (true, false) => Self::AllBut(listed),
            (false, _) => Self::Only(listed),
        }
    }

    /// Where the chosen ones stand in `ids`, in time linear in both lists.
    pub(super) fn positions<'s>(self, ids: &[i32], scratch: &'s mut Scratch) -> Positions<'s> {
        let (listed, chosen_if_marked) = match self {
            Self::All => return Positions::All(ids.len()),
            Self::Only(listed) => (listed, true),
            Self::AllBut(listed) => (listed, false),
        };
        scratch.mark(listed, ids.last().copied().unwrap_or(-1));
        scratch.positions.clear();
        for (position, &id) in ids.iter().enumerate() {
            if marked(&scratch.marks, id) == chosen_if_marked {
                scratch.positions.push(position);
            }
        }
        Positions::Listed(&scratch.positions)
    }
}

/// Positions in a list of instances.
pub(super) enum Positions<'s> {
    /// From 0 up to here.
    All(usize),
    /// These, ascending.
    Listed(&'s [usize]),
}

impl Positions<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::All(len) => *len,
            Self::Listed(list) => list.len(),
        }
    }
}

/// Memory that choices reuse. Marks are one bit per instance number; numbers stay below a few
/// millions (the greatest are process ids), so clearing them costs less than a look at the
/// instances.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    marks: Vec<u64>,
    positions: Vec<usize>,
}

impl Scratch {
    fn mark(&mut self, ids: &[i32], last: i32) {
        self.marks.clear();
        self.marks.resize(usize::try_from(last / 64 + 1).unwrap_or(0), 0);
        for &id in ids {
            if let Some(word) = usize::try_from(id).ok().and_then(|id| self.marks.get_mut(id / 64)) {
                *word |= 1 << (id % 64);
            }
        }
    }
}

fn marked(marks: &[u64], id: i32) -> bool {
    usize::try_from(id).ok().and_then(|id| marks.get(id / 64)).is_some_and(|word| word >> (id % 64) & 1 == 1)
}

/// # Safety
/// `len` elements lie at `start`, or one of the two says that there is none.
unsafe fn list<'a, T>(start: *const T, len: i32) -> &'a [T] {
    match usize::try_from(len) {
        // SAFETY: by the contract of this function.
        Ok(len) if len > 0 && !start.is_null() => unsafe { slice::from_raw_parts(start, len) },
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(pick: Pick<'_>) -> Vec<i32> {
        let ids = [0, 3, 64, 1000];
        match pick.positions(&ids, &mut Scratch::default()) {
            Positions::All(len) => ids[..len].to_vec(),
            Positions::Listed(list) => list.iter().map(|&at| ids[at]).collect(),
        }
    }

    #[test]
    fn choices() {
        assert_eq!(ids(Pick::All), [0, 3, 64, 1000]);
        assert_eq!(ids(Pick::Only(&[])), []);
        assert_eq!(ids(Pick::Only(&[1000, 3, 4, -1, i32::MAX, 3])), [3, 1000]);
        assert_eq!(ids(Pick::AllBut(&[64, -5, 70_000])), [0, 3, 1000]);
    }

    #[test]
    fn libpcp_structures() {
        let pick = |state, listed: &mut [i32], indom| {
            let instances_len = listed.len() as i32;
            let mut own = [ffi::pmInDomProfile { indom: 5, state, instances_len, instances: listed.as_mut_ptr() }];
            let state = ffi::PM_PROFILE_INCLUDE as i32;
            let profile = ffi::pmProfile { state, profile_len: 1, profile: own.as_mut_ptr() };
            // SAFETY: the profile and its lists outlive the pick, which is made into text here.
            unsafe { format!("{:?}", Pick::of(&profile, indom)) }
        };
        let (include, exclude) = (ffi::PM_PROFILE_INCLUDE as i32, ffi::PM_PROFILE_EXCLUDE as i32);
        assert_eq!(pick(exclude, &mut [3, 64], 5), "Only([3, 64])");
        assert_eq!(pick(include, &mut [3, 64], 5), "AllBut([3, 64])");
        assert_eq!(pick(exclude, &mut [], 5), "Only([])");
        assert_eq!(pick(exclude, &mut [3], 6), "All");
        assert_eq!(pick(exclude, &mut [3], ffi::PM_INDOM_NULL), "All");
        // SAFETY: null is allowed.
        assert_eq!(unsafe { Pick::of(std::ptr::null(), 5) }, Pick::All);
    }
}
