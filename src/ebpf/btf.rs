//! A look through the kernel's BTF for names, without libbpf's index of all types: that takes
//! longer than all else here, and cannot be shared between threads.
//!
//! The format is that of Documentation/bpf/btf.rst.

use std::collections::BTreeSet;

const MAGIC: u16 = 0xeb9f;
const KIND_TYPEDEF: u32 = 8;

/// Names of the typedefs that begin with `prefix`, without it. `None` if `bytes` is not BTF of
/// a kind known here.
pub(super) fn typedefs(bytes: &[u8], prefix: &str) -> Option<BTreeSet<String>> {
    let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word));
    let magic = bytes.first_chunk().map(|half| u16::from_ne_bytes(*half))?;
    if magic != MAGIC {
        return None;
    }
    let header = word(4)? as usize;
    let (types, types_len) = (header + word(8)? as usize, word(12)? as usize);
    let (strings, strings_len) = (header + word(16)? as usize, word(20)? as usize);
    let strings = bytes.get(strings..strings.checked_add(strings_len)?)?;
    let mut found = BTreeSet::new();
    let (mut at, end) = (types, types.checked_add(types_len)?);
    while at < end {
        let (name, info) = (word(at)? as usize, word(at + 4)?);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        if kind == KIND_TYPEDEF
            && let Some(rest) = strings.get(name..).and_then(|text| text.strip_prefix(prefix.as_bytes()))
        {
            let name = rest.split(|&byte| byte == 0).next().unwrap_or_default();
            found.insert(String::from_utf8_lossy(name).into_owned());
        }
        at += 12 + extra(kind, count)?;
    }
    Some(found)
}

/// Bytes behind a type of this kind.
fn extra(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // integer, variable, declaration tag
        1 | 14 | 17 => 4,
        // array
        3 => 12,
        // structure, union, section of variables, 64-bit enumeration
        4 | 5 | 15 | 19 => 12 * count,
        // enumeration, function prototype
        6 | 13 => 8 * count,
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header, then an integer, a structure of two members, and two typedefs.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0btf_trace_sched_switch\0other_t\0";
        let types: Vec<u32> = [
            [1, 1 << 24, 4, 0].to_vec(),
            [0, 4 << 24 | 2, 8, 1, 1, 0, 1, 1, 32].to_vec(),
            [5, 8 << 24, 1].to_vec(),
            [28, 8 << 24, 1].to_vec(),
        ]
        .concat();
        let types_len = types.len() as u32 * 4;
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, types_len, types_len, strings.len() as u32] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(types.into_iter().flat_map(u32::to_ne_bytes));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn finds_what_begins_so() {
        let found = typedefs(&sample(), "btf_trace_").unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["sched_switch"]);
    }

    #[test]
    fn damage_is_told_and_never_read_past() {
        assert_eq!(typedefs(b"", "x"), None);
        assert_eq!(typedefs(b"not BTF at all, but long enough", "x"), None);
        let whole = sample();
        for len in 0..whole.len() {
            typedefs(&whole[..len], "btf_trace_");
        }
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0xff;
            typedefs(&broken, "btf_trace_");
        }
    }

    #[test]
    fn this_kernels_tracepoints() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        assert!(typedefs(&bytes, "btf_trace_").unwrap().contains("sched_switch"));
    }
}
