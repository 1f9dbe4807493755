//! What an object needs of the kernel's types, read from its sections before libbpf opens it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::btf::Sections;
use super::btf::Type;
use super::btf::View;
use super::btf::kind;
use super::btf::without_flavour;
use super::btf::word;

/// Names. Kept apart as libbpf would: a type is looked for without its flavour, a member as is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Types that relocations begin at, sorted.
    pub(super) types: Vec<Vec<u8>>,
    /// Members of the object's composites, sorted.
    pub(super) members: Vec<Vec<u8>>,
    /// Names of the object's sections.
    pub(super) sections: Vec<String>,
}

impl Needs {
    /// Those of an object. `None` where it is not understood, or asks what a part of the
    /// kernel's types cannot answer.
    pub(super) fn of(object: &[u8]) -> Option<Self> {
        let sections = elf_sections(object)?;
        let mut types = BTreeSet::new();
        let mut members = BTreeSet::new();
        if let (Some(btf), Some(ext)) = (sections.get(".BTF"), sections.get(".BTF.ext")) {
            let view = Sections::of(btf)?.view(btf)?;
            let own: Vec<Type<'_>> = view.types().collect();
            for (root, relocation) in relocations(ext)? {
                if relocation != LOCAL_ID {
                    let root = own.get(root.checked_sub(1)? as usize)?;
                    types.insert(without_flavour(name(view, root, relocation)?).to_vec());
                }
            }
            for own in own.iter().filter(|own| matches!(own.kind(), kind::STRUCT | kind::UNION)) {
                for member in own.tail.chunks_exact(12) {
                    members.insert(view.string(word(member, 0)?)?.to_vec());
                }
            }
        }
        Some(Self {
            types: types.into_iter().collect(),
            members: members.into_iter().collect(),
            sections: sections.into_keys().map(str::to_owned).collect(),
        })
    }
}

// enum bpf_core_relo_kind: 0 to 5 are about a field
const FIELD_LAST: u32 = 5;
const LOCAL_ID: u32 = 6;
const TYPE_EXISTS: u32 = 8;
const TYPE_SIZE: u32 = 9;
const VALUE_EXISTS: u32 = 10;
const VALUE: u32 = 11;

/// The name of a type that a relocation begins at. Others than these ask for a number of a
/// type, or compare types through their pointers.
fn name<'a>(view: View<'a>, root: &Type<'_>, relocation: u32) -> Option<&'a [u8]> {
    let is_own = matches!(root.kind(), kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64);
    let answered = match relocation {
        0..=FIELD_LAST | VALUE_EXISTS | VALUE => is_own || root.kind() == kind::TYPEDEF,
        TYPE_EXISTS | TYPE_SIZE => is_own,
        _ => false,
    };
    view.string(root.name).filter(|name| answered && !name.is_empty())
}

/// Type and kind of each relocation (struct btf_ext_header, struct bpf_core_relo).
fn relocations(ext: &[u8]) -> Option<Vec<(u32, u32)>> {
    let at = |at| word(ext, at).map(|word| word as usize);
    let header = at(4)?;
    if header < 32 {
        return Some(Vec::new());
    }
    let start = header.checked_add(at(24)?)?;
    let end = start.checked_add(at(28)?)?;
    let mut found = Vec::new();
    let Some((size, mut rest)) = ext.get(start..end)?.split_first_chunk::<4>() else { return Some(found) };
    let size = u32::from_ne_bytes(*size) as usize;
    while !rest.is_empty() {
        let count = word(rest, 4)? as usize;
        let (records, next) = rest.get(8..)?.split_at_checked(count.checked_mul(size)?)?;
        for record in records.chunks_exact(size.max(16)) {
            found.push((word(record, 4)?, word(record, 12)?));
        }
        rest = next;
    }
    Some(found)
}

/// Sections of a 64-bit ELF file by their names (elf(5)).
fn elf_sections(object: &[u8]) -> Option<BTreeMap<&str, &[u8]>> {
    const HEADER: usize = 64;
    if !object.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let long = |at: usize| {
        let eight = object.get(at..)?.first_chunk().map(|long| u64::from_ne_bytes(*long))?;
        usize::try_from(eight).ok()
    };
    let half = |at: usize| object.get(at..)?.first_chunk().map(|half| usize::from(u16::from_ne_bytes(*half)));
    let (headers, count, names) = (long(0x28)?, half(0x3c)?, half(0x3e)?);
    let header = |index: usize| headers.checked_add(index.checked_mul(HEADER)?);
    let contents = |index: usize| {
        let (start, len) = (long(header(index)?.checked_add(0x18)?)?, long(header(index)?.checked_add(0x20)?)?);
        object.get(start..start.checked_add(len)?)
    };
    let strings = contents(names)?;
    let mut sections = BTreeMap::new();
    for index in 1..count {
        let name = strings.get(word(object, header(index)?)? as usize..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        // a section without contents, .bss, may lie anywhere
        sections.insert(std::str::from_utf8(name).ok()?, contents(index).unwrap_or_default());
    }
    Some(sections)
}

#[cfg(test)]
mod tests {
    use libbpf_rs::HasSize as _;
    use libbpf_rs::btf::Btf;
    use libbpf_rs::btf::types::Struct;

    use super::super::btf::Index;
    use super::super::fd;
    use super::super::trim;
    use super::*;

    const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/biolatency.bpf.o"));

    fn texts(names: &[Vec<u8>]) -> Vec<&str> {
        names.iter().map(|name| std::str::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn what_relocations_begin_at() {
        let needs = Needs::of(OBJECT).unwrap();
        assert!(
            ["block_device", "gendisk", "request", "rqf_flags"].iter().all(|own| texts(&needs.types).contains(own))
        );
        assert!(["bd_disk", "disk_name", "rq_flags"].iter().all(|own| texts(&needs.members).contains(own)));
        assert!(needs.sections.iter().any(|own| own == "tp_btf/block_io_done"), "{:?}", needs.sections);
    }

    #[test]
    fn damage_is_told_and_never_read_past() {
        assert_eq!(Needs::of(b""), None);
        assert_eq!(Needs::of(b"\x7fELF\x02"), None);
        for len in 0..OBJECT.len() - 64 {
            assert_eq!(Needs::of(&OBJECT[..len]), None, "section headers are last");
        }
        let sections = elf_sections(OBJECT).unwrap();
        let place = |name: &str| {
            let start = sections[name].as_ptr() as usize - OBJECT.as_ptr() as usize;
            start..start + sections[name].len()
        };
        let headers = OBJECT.len() - 64 * (sections.len() + 1)..OBJECT.len();
        let mut broken = OBJECT.to_vec();
        for at in (0..64).chain(place(".BTF").take(64)).chain(place(".BTF.ext").step_by(3)).chain(headers) {
            let before = broken[at];
            for value in [before ^ 1, before ^ 0x80, 0xff, 0] {
                broken[at] = value;
                Needs::of(&broken);
            }
            broken[at] = before;
        }
    }

    /// libbpf finds every member where it finds it among all types of this kernel.
    #[test]
    fn the_part_says_what_the_whole_says() {
        const KERNEL: &str = "/sys/kernel/btf/vmlinux";
        let Ok(bytes) = std::fs::read(KERNEL) else { return eprintln!("no {KERNEL}: nothing to compare") };
        let view = Sections::of(&bytes).unwrap().view(&bytes).unwrap();
        let index = Index::new(view).unwrap();
        let needs = Needs::of(OBJECT).unwrap();
        let roots: Vec<u32> = index.find(view, &needs.types).iter().map(|found| found.id).collect();
        let part = trim::trimmed(view, &index, &roots, &needs.members).unwrap();
        assert!(part.len() < 1 << 16, "{} bytes", part.len());
        let file = fd::in_memory(&part).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let (whole, part) = (Btf::from_path(KERNEL).unwrap(), Btf::from_path(path).unwrap());
        let offsets = |btf: &Btf<'_>, name: &str| {
            let own = btf.type_by_name::<Struct<'_>>(name).unwrap();
            let known =
                |member: &std::ffi::OsStr| needs.members.iter().any(|own| member == &*String::from_utf8_lossy(own));
            let members = own.iter().filter_map(|own| own.name.filter(|name| known(name)).map(|name| (name, own.attr)));
            (own.size(), members.map(|(name, attr)| format!("{name:?} {attr:?}")).collect::<Vec<_>>())
        };
        for name in ["request", "gendisk", "block_device"] {
            let own = offsets(&part, name);
            assert_eq!(own, offsets(&whole, name));
            assert!(!own.1.is_empty(), "{name}");
        }
    }
}
