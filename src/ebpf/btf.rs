//! Which names occur in the kernel's BTF.
//!
//! libbpf's index of all types takes longer to build than all else here, and cannot be shared
//! between threads. Whether a type exists is told by the section of strings alone: it holds
//! each name once, and no name that no type has (Documentation/bpf/btf.rst; pahole removes
//! duplicates and what is not used).

use std::ops::Range;

use memchr::memmem;

const MAGIC: u16 = 0xeb9f;

/// Where the strings lie in `bytes`, `None` if that is not BTF.
pub(super) fn strings(bytes: &[u8]) -> Option<Range<usize>> {
    let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word) as usize);
    if bytes.first_chunk().map(|half| u16::from_ne_bytes(*half)) != Some(MAGIC) {
        return None;
    }
    // struct btf_header: magic, version, flags; hdr_len, type_off, type_len, str_off, str_len
    let start = word(4)?.checked_add(word(16)?)?;
    let range = start..start.checked_add(word(20)?)?;
    bytes.get(range.clone()).map(|_| range)
}

/// Whether `name` is one of the NUL-terminated strings.
pub(super) fn contains(strings: &[u8], name: &str) -> bool {
    memmem::find(strings, format!("\0{name}\0").as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRINGS: &[u8] = b"\0int\0btf_trace_sched_switch\0sched\0";

    /// A header, one integer type, and the strings.
    fn sample() -> Vec<u8> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, 16, 16, STRINGS.len() as u32, 1, 1 << 24, 4, 32] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(STRINGS);
        bytes
    }

    #[test]
    fn whole_names_only() {
        let bytes = sample();
        let found = &bytes[strings(&bytes).unwrap()];
        assert_eq!(found, STRINGS);
        assert!(contains(found, "btf_trace_sched_switch") && contains(found, "sched"));
        assert!(!contains(found, "btf_trace_sched") && !contains(found, "switch"));
    }

    #[test]
    fn damage_is_told_and_never_read_past() {
        assert_eq!(strings(b""), None);
        assert_eq!(strings(b"not BTF at all, but long enough"), None);
        let whole = sample();
        for len in 0..whole.len() {
            assert_eq!(strings(&whole[..len]), None);
        }
        for at in 0..24 {
            let mut broken = whole.clone();
            broken[at] ^= 0xff;
            strings(&broken);
        }
    }
}
