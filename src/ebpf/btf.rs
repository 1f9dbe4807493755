//! The kernel's BTF, read without libbpf.
//!
//! libbpf's index of all types takes longer to build than all else here, is built per object
//! and searched from end to end for every name. This one is built once, and a search finds all
//! names of an object in one pass. Nothing read is trusted: what does not fit together is
//! `None`, and libbpf then does its own reading.

use std::ops::Range;

use memchr::memchr;
use memchr::memmem;

const MAGIC: u16 = 0xeb9f;
/// Every so many types the index knows where one begins.
const STRIDE: usize = 32;

/// Kinds of types (include/uapi/linux/btf.h) that are told apart here.
pub(super) mod kind {
    #![allow(missing_docs)]
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FLOAT: u32 = 16;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// Bytes that follow a type's head: so many, and so many for each of its elements.
const TAIL: [(u8, u8); 20] = [
    (UNKNOWN, 0),
    (4, 0),  // INT
    (0, 0),  // PTR
    (12, 0), // ARRAY
    (0, 12), // STRUCT
    (0, 12), // UNION
    (0, 8),  // ENUM
    (0, 0),  // FWD
    (0, 0),  // TYPEDEF
    (0, 0),  // VOLATILE
    (0, 0),  // CONST
    (0, 0),  // RESTRICT
    (0, 0),  // FUNC
    (0, 8),  // FUNC_PROTO
    (4, 0),  // VAR
    (0, 12), // DATASEC
    (0, 0),  // FLOAT
    (4, 0),  // DECL_TAG
    (0, 0),  // TYPE_TAG
    (0, 12), // ENUM64
];
const UNKNOWN: u8 = u8::MAX;

/// The four bytes at `at` as a number.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

/// Where types and strings lie in what holds them.
#[derive(Debug, Clone)]
pub(super) struct Sections {
    types: Range<usize>,
    strings: Range<usize>,
}

impl Sections {
    /// Those of `bytes`, `None` if that is not BTF.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.first_chunk().map(|half| u16::from_ne_bytes(*half)) != Some(MAGIC) {
            return None;
        }
        // struct btf_header: magic, version, flags; hdr_len, type_off, type_len, str_off, str_len
        let word = |at| word(bytes, at).map(|word| word as usize);
        let section = |at: usize| {
            let start = word(4)?.checked_add(word(at)?)?;
            let range = start..start.checked_add(word(at + 4)?)?;
            bytes.get(range.clone()).map(|_| range)
        };
        Some(Self { types: section(8)?, strings: section(16)? })
    }

    /// Where the strings lie.
    pub(super) fn strings(&self) -> Range<usize> {
        self.strings.clone()
    }

    /// What lies there.
    pub(super) fn view<'a>(&self, bytes: &'a [u8]) -> Option<View<'a>> {
        Some(View { types: bytes.get(self.types.clone())?, strings: bytes.get(self.strings.clone())? })
    }
}

/// Whether `name` is one of the NUL-terminated strings. They hold each name once, and no name
/// that no type has (Documentation/bpf/btf.rst; pahole removes duplicates and what is not used).
pub(super) fn contains(strings: &[u8], name: &str) -> bool {
    memmem::find(strings, format!("\0{name}\0").as_bytes()).is_some()
}

/// Types and strings.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct View<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// A type: its head, and what follows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Type<'a> {
    /// Its name among the strings.
    pub(super) name: u32,
    /// Number of elements, kind and a flag, as encoded.
    pub(super) info: u32,
    /// Its size, or the type that it refers to.
    pub(super) third: u32,
    /// Members, values and the like.
    pub(super) tail: &'a [u8],
}

impl Type<'_> {
    /// One of [`kind`].
    pub(super) const fn kind(&self) -> u32 {
        kind_of(self.info)
    }
}

const fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// The bytes after the head; `None` where the encoding is one that is not known here.
fn tail_len(info: u32) -> Option<usize> {
    let (fixed, each) = TAIL.get(kind_of(info) as usize)?;
    if *fixed == UNKNOWN || info & 0x60ff_0000 != 0 {
        return None;
    }
    Some(usize::from(*fixed) + usize::from(*each) * (info & 0xffff) as usize)
}

impl<'a> View<'a> {
    /// The string at an offset.
    pub(super) fn string(&self, at: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(at as usize..)?;
        rest.get(..memchr(0, rest)?)
    }

    /// The type at an offset, and where the next one begins.
    fn at(&self, at: usize) -> Option<(Type<'a>, usize)> {
        let (head, rest) = self.types.get(at..)?.split_first_chunk::<12>()?;
        let info = word(head, 4)?;
        let tail = rest.get(..tail_len(info)?)?;
        let next = at + head.len() + tail.len();
        Some((Type { name: word(head, 0)?, info, third: word(head, 8)?, tail }, next))
    }

    /// All types in the order of their numbers, from 1; ends early where they are damaged.
    pub(super) fn types(self) -> impl Iterator<Item = Type<'a>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (own, next) = self.at(at)?;
            at = next;
            Some(own)
        })
    }
}

/// Kinds that a program can name: composites, enumerations and typedefs.
const NAMED: u32 = 1 << kind::STRUCT | 1 << kind::UNION | 1 << kind::ENUM | 1 << kind::ENUM64 | 1 << kind::TYPEDEF;

/// Where types begin, those with a name that a program can name, and functions.
#[derive(Debug)]
pub(super) struct Index {
    starts: Vec<u32>,
    named: Vec<Named>,
    functions: Vec<Named>,
}

#[derive(Debug, Clone, Copy)]
struct Named {
    name: u32,
    id: u32,
}

/// A type whose name was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Which of the names.
    pub(super) wanted: usize,
    /// The type's number.
    pub(super) id: u32,
}

impl Index {
    /// `None` where types are damaged or of a kind that is not known here.
    pub(super) fn new(view: View<'_>) -> Option<Self> {
        let (mut starts, mut named, mut functions) =
            (Vec::new(), Vec::with_capacity(1 << 14), Vec::with_capacity(1 << 16));
        let (mut at, mut id) = (0, 0_u32);
        while at < view.types.len() {
            if id as usize % STRIDE == 0 {
                starts.push(u32::try_from(at).ok()?);
            }
            id += 1;
            let head = view.types.get(at..)?.first_chunk::<12>()?;
            let (name, info) = (word(head, 0)?, word(head, 4)?);
            if kind_of(info) == kind::FUNC {
                functions.push(Named { name, id });
            } else if NAMED >> kind_of(info) & 1 == 1 && name != 0 {
                named.push(Named { name, id });
            }
            at += head.len() + tail_len(info)?;
        }
        (at == view.types.len()).then_some(Self { starts, named, functions })
    }

    /// The type of a number.
    pub(super) fn get<'a>(&self, view: View<'a>, id: u32) -> Option<Type<'a>> {
        let before = id.checked_sub(1)? as usize;
        let mut at = *self.starts.get(before / STRIDE)? as usize;
        for _ in 0..before % STRIDE {
            at = view.at(at)?.1;
        }
        view.at(at).map(|(own, _)| own)
    }

    /// All types but functions with one of these names, which are sorted, in the order of their
    /// numbers. A flavour (`name___flavour`) has the name before it, as for libbpf.
    pub(super) fn find(&self, view: View<'_>, sorted: &[Vec<u8>]) -> Vec<Found> {
        search(&self.named, view, sorted)
    }

    /// All functions with one of these names.
    pub(super) fn find_functions(&self, view: View<'_>, sorted: &[Vec<u8>]) -> Vec<Found> {
        search(&self.functions, view, sorted)
    }
}

fn search(among: &[Named], view: View<'_>, sorted: &[Vec<u8>]) -> Vec<Found> {
    let wanted = |name: &[u8]| sorted.binary_search_by(|own| own.as_slice().cmp(name)).ok();
    let begins = Beginnings::of(sorted);
    let candidates = among.iter().filter(|named| begins.has(view.strings.get(named.name as usize..)));
    let found = candidates.filter_map(|named| {
        let name = view.string(named.name)?;
        let wanted = wanted(name).or_else(|| wanted(without_flavour(name)))?;
        Some(Found { wanted, id: named.id })
    });
    found.collect()
}

/// Which two bytes names begin with: tells most names apart from all others at once.
struct Beginnings(Vec<u64>);

impl Beginnings {
    fn of(names: &[Vec<u8>]) -> Self {
        let mut bits = vec![0; 1 << 10];
        for name in names {
            // what follows a name of one byte is its end
            let pair = [name.first().copied().unwrap_or(0), name.get(1).copied().unwrap_or(0)];
            if let Some(bits) = bits.get_mut(Self::place(pair).0) {
                *bits |= 1 << Self::place(pair).1;
            }
        }
        Self(bits)
    }

    fn has(&self, string: Option<&[u8]>) -> bool {
        let Some(pair) = string.and_then(|string| string.first_chunk()) else { return false };
        let (at, bit) = Self::place(*pair);
        self.0.get(at).is_some_and(|bits| bits >> bit & 1 == 1)
    }

    fn place(pair: [u8; 2]) -> (usize, u32) {
        let pair = u16::from_ne_bytes(pair);
        (usize::from(pair >> 6), u32::from(pair & 63))
    }
}

/// A name without its last `___flavour`.
pub(super) fn without_flavour(name: &[u8]) -> &[u8] {
    let separator =
        |five: &[u8]| matches!(five, [before, b'_', b'_', b'_', after] if *before != b'_' && *after != b'_');
    match name.windows(5).rposition(separator) {
        Some(at) => name.get(..=at).unwrap_or(name),
        None => name,
    }
}

/// BTF with these types and strings.
pub(super) fn encode(types: &[u8], strings: &[u8]) -> Option<Vec<u8>> {
    let (types_len, strings_len) = (u32::try_from(types.len()).ok()?, u32::try_from(strings.len()).ok()?);
    let mut bytes = MAGIC.to_ne_bytes().to_vec();
    bytes.extend([1, 0]);
    for word in [24, 0, types_len, types_len, strings_len] {
        bytes.extend(u32::to_ne_bytes(word));
    }
    bytes.extend(types);
    bytes.extend(strings);
    Some(bytes)
}

/// BTF written by hand, for tests.
#[cfg(test)]
pub(super) mod sample {
    use super::*;

    #[derive(Default)]
    pub(in super::super) struct Sample {
        types: Vec<u8>,
        strings: Vec<u8>,
        count: u32,
    }

    impl Sample {
        pub(in super::super) fn name(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(name.bytes().chain([0]));
            at
        }

        pub(in super::super) fn add(&mut self, name: &str, kind: u32, vlen: u32, third: u32, tail: &[u32]) -> u32 {
            for word in [self.name(name), kind << 24 | vlen, third].iter().chain(tail) {
                self.types.extend(word.to_ne_bytes());
            }
            self.count += 1;
            self.count
        }

        /// Members are a name, a type and an offset in bits.
        pub(in super::super) fn composite(
            &mut self,
            kind: u32,
            name: &str,
            size: u32,
            members: &[(&str, u32, u32)],
        ) -> u32 {
            let tail: Vec<u32> =
                members.iter().flat_map(|(name, own, offset)| [self.name(name), *own, *offset]).collect();
            self.add(name, kind, members.len() as u32, size, &tail)
        }

        pub(in super::super) fn bytes(&self) -> Vec<u8> {
            encode(&self.types, &self.strings).unwrap()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sample::Sample;
    use super::*;

    /// Every kind there is, so many times that the index has more than one start.
    fn kernel() -> Vec<u8> {
        let mut btf = Sample::default();
        for _ in 0..3 {
            let int = btf.add("int", kind::INT, 0, 4, &[32]);
            btf.add("", kind::ARRAY, 0, 0, &[int, int, 3]);
            for plain in [2, 7, 9, 10, 11, 12, 16, 18] {
                btf.add("plain", plain, 0, int, &[]);
            }
            btf.add("", 13, 2, 0, &[0, int, 0, int]);
            btf.add("", 14, 0, int, &[1]);
            btf.add(".data", 15, 1, 4, &[1, 0, 4]);
            btf.add("tag", 17, 0, int, &[0]);
            btf.add("colour", kind::ENUM, 1, 4, &[0, 1]);
            btf.add("wide", kind::ENUM64, 1, 8, &[0, 1, 2]);
            btf.add("btf_trace_x", kind::TYPEDEF, 0, int, &[]);
            btf.composite(kind::STRUCT, "task", 4, &[("pid", int, 0)]);
            btf.composite(kind::UNION, "task___old", 4, &[("pid", int, 0)]);
        }
        btf.bytes()
    }

    fn names(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    fn everything(bytes: &[u8]) -> Option<Vec<Found>> {
        let view = Sections::of(bytes)?.view(bytes)?;
        let index = Index::new(view)?;
        let found = index.find(view, &names(&["btf_trace_x", "colour", "int", "task", "wide"]));
        for id in 0..100 {
            let own = index.get(view, id);
            own.map(|own| view.string(own.name));
        }
        Some(found)
    }

    #[test]
    fn names_are_found_in_order_and_whole() {
        let found = everything(&kernel()).unwrap();
        let expected = [(1, 15), (4, 16), (0, 17), (3, 18), (3, 19)];
        let expected: Vec<Found> =
            (0..3).flat_map(|round| expected.map(|(wanted, id)| Found { wanted, id: id + round * 19 })).collect();
        assert_eq!(found, expected, "integers are not looked for");
        let bytes = kernel();
        let view = Sections::of(&bytes).unwrap().view(&bytes).unwrap();
        let index = Index::new(view).unwrap();
        assert_eq!(index.find(view, &names(&["btf_trace", "race_x", "tas", "task_"])), []);
        let last = index.get(view, 57).unwrap();
        assert_eq!((view.string(last.name), last.kind()), (Some(&b"task___old"[..]), kind::UNION));
        assert!(index.get(view, 0).is_none() && index.get(view, 58).is_none());
    }

    #[test]
    fn functions_are_found_apart() {
        let bytes = kernel();
        let view = Sections::of(&bytes).unwrap().view(&bytes).unwrap();
        let index = Index::new(view).unwrap();
        let found: Vec<u32> = index.find_functions(view, &names(&["plain"])).iter().map(|own| own.id).collect();
        assert_eq!(found, [8, 27, 46]);
        assert_eq!(index.find(view, &names(&["plain"])), []);
    }

    #[test]
    fn whole_names_only() {
        let bytes = kernel();
        let strings = &bytes[Sections::of(&bytes).unwrap().strings()];
        assert!(contains(strings, "btf_trace_x") && contains(strings, "task"));
        assert!(!contains(strings, "btf_trace") && !contains(strings, "trace_x"));
    }

    #[test]
    fn flavours() {
        let cases = [("a___b", "a"), ("a___b___c", "a___b"), ("a__b", "a__b"), ("___a", "___a"), ("a____b", "a____b")];
        for (name, expected) in cases {
            assert_eq!(without_flavour(name.as_bytes()), expected.as_bytes(), "{name}");
        }
    }

    #[test]
    fn damage_is_told_and_never_read_past() {
        assert!(everything(b"").is_none());
        assert!(everything(b"not BTF at all, but long enough").is_none());
        let whole = kernel();
        for len in 0..whole.len() {
            assert!(everything(whole.get(..len).unwrap()).is_none());
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut broken = whole.clone();
                broken[at] ^= 1 << bit;
                everything(&broken);
            }
        }
    }

    #[test]
    fn kinds_of_later_kernels_are_told() {
        let mut btf = Sample::default();
        btf.add("later", 20, 0, 0, &[]);
        assert!(everything(&btf.bytes()).is_none());
        let mut btf = Sample::default();
        btf.add("long", kind::STRUCT, 1 << 16, 0, &[]);
        assert!(everything(&btf.bytes()).is_none());
    }
}
