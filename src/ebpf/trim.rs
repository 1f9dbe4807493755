//! The part of the kernel's BTF that an object's relocations can meet.
//!
//! A relocation names a type and a path of members below it, and libbpf looks for them by name.
//! So what is left are the types of those names and, of their members, those whose names the
//! object knows, the ones without a name, in which the search goes on, and the last, whose
//! array may be one of any length. Pointers lead nowhere: any two are compatible.

use std::collections::BTreeMap;

use super::btf;
use super::btf::Index;
use super::btf::Type;
use super::btf::View;
use super::btf::kind;
use super::btf::word;

/// BTF with the types `roots` and what they hold by value; of composites the members named in
/// `members`, which is sorted. `None` where types do not fit together.
pub(super) fn trimmed(view: View<'_>, index: &Index, roots: &[u32], members: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut part = Part { view, members, strings: vec![0], ..Part::default() };
    for root in roots {
        part.id(*root);
    }
    let mut done = 0;
    while let Some(id) = part.order.get(done) {
        part.add(index.get(view, *id)?)?;
        done += 1;
    }
    btf::encode(&part.types, &part.strings)
}

#[derive(Default)]
struct Part<'a> {
    view: View<'a>,
    members: &'a [Vec<u8>],
    types: Vec<u8>,
    strings: Vec<u8>,
    names: BTreeMap<u32, u32>,
    /// Numbers here by numbers there.
    ids: BTreeMap<u32, u32>,
    /// Numbers there in the order of those here.
    order: Vec<u32>,
}

impl Part<'_> {
    /// The number here of a type there.
    fn id(&mut self, there: u32) -> u32 {
        if there == 0 {
            return 0;
        }
        let order = &mut self.order;
        *self.ids.entry(there).or_insert_with(|| {
            order.push(there);
            u32::try_from(order.len()).unwrap_or(u32::MAX)
        })
    }

    fn name(&mut self, there: u32) -> Option<u32> {
        if there == 0 {
            return Some(0);
        }
        if let Some(here) = self.names.get(&there) {
            return Some(*here);
        }
        let here = u32::try_from(self.strings.len()).ok()?;
        self.strings.extend(self.view.string(there)?);
        self.strings.push(0);
        self.names.insert(there, here);
        Some(here)
    }

    fn add(&mut self, own: Type<'_>) -> Option<()> {
        let name = self.name(own.name)?;
        let (mut info, mut third) = (own.info, own.third);
        let mut tail = own.tail.to_vec();
        match own.kind() {
            kind::INT | kind::FWD | kind::FLOAT => {}
            kind::PTR => third = 0,
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => third = self.id(third),
            kind::ARRAY => {
                let ids = [self.id(word(own.tail, 0)?), self.id(word(own.tail, 4)?)];
                tail = words(&[ids[0], ids[1], word(own.tail, 8)?]);
            }
            kind::ENUM => tail = self.values(own.tail.chunks_exact(8))?,
            kind::ENUM64 => tail = self.values(own.tail.chunks_exact(12))?,
            kind::STRUCT | kind::UNION => {
                tail = self.kept(own.tail)?;
                info = own.info & !0xffff | u32::try_from(tail.len() / 12).ok()?;
            }
            _ => return None,
        }
        self.types.extend(words(&[name, info, third]));
        self.types.extend(tail);
        Some(())
    }

    /// Values, of which only the name, the first word, differs.
    fn values<'a>(&mut self, values: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
        let mut tail = Vec::new();
        for value in values {
            tail.extend(self.name(word(value, 0)?)?.to_ne_bytes());
            tail.extend(value.get(4..)?);
        }
        Some(tail)
    }

    fn kept(&mut self, members: &[u8]) -> Option<Vec<u8>> {
        let mut tail = Vec::new();
        let count = members.len() / 12;
        for (at, member) in members.chunks_exact(12).enumerate() {
            let name = word(member, 0)?;
            let string = self.view.string(name)?;
            let known = self.members.binary_search_by(|own| own.as_slice().cmp(string)).is_ok();
            if known || string.is_empty() || at + 1 == count {
                let (name, id) = (self.name(name)?, self.id(word(member, 4)?));
                tail.extend(words(&[name, id, word(member, 8)?]));
            }
        }
        Some(tail)
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::btf::Sections;
    use super::super::btf::sample::Sample;
    use super::*;

    fn names(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    /// A structure with all that can stand in one, and what must not come along.
    fn kernel() -> Vec<u8> {
        let mut btf = Sample::default();
        let int = btf.add("int", kind::INT, 0, 4, &[32]);
        let large = btf.composite(kind::STRUCT, "large", 4096, &[("lost", int, 0)]);
        let pointer = btf.add("", kind::PTR, 0, large, &[]);
        let array = btf.add("", kind::ARRAY, 0, 0, &[int, int, 8]);
        let colour = [btf.name("red"), 1, btf.name("blue"), 2];
        let colour = btf.add("colour", kind::ENUM, 2, 4, &colour);
        let wide = [btf.name("far"), 1, 2];
        let wide = btf.add("wide", kind::ENUM64, 1, 8, &wide);
        let tagged = btf.add("tag", kind::TYPE_TAG, 0, wide, &[]);
        let constant = btf.add("", kind::CONST, 0, tagged, &[]);
        let alias = btf.add("alias", kind::TYPEDEF, 0, constant, &[]);
        let inner = btf.composite(kind::UNION, "", 8, &[("pid", int, 0), ("other", large, 0)]);
        let task = [
            ("large", large, 0),
            ("", inner, 32768),
            ("next", pointer, 32832),
            ("colour", colour, 32896),
            ("alias", alias, 32960),
            ("unknown", large, 33024),
            ("rest", array, 65792),
        ];
        let task = btf.composite(kind::STRUCT, "task", 8224, &task);
        btf.add("btf_trace_x", kind::TYPEDEF, 0, task, &[]);
        btf.bytes()
    }

    fn part(bytes: &[u8], roots: &[u32], members: &[&str]) -> Option<Vec<u8>> {
        let view = Sections::of(bytes)?.view(bytes)?;
        trimmed(view, &Index::new(view)?, roots, &names(members))
    }

    /// Types by name and number of elements.
    fn summary(bytes: &[u8]) -> Vec<(String, u32, u32)> {
        let view = Sections::of(bytes).unwrap().view(bytes).unwrap();
        Index::new(view).unwrap();
        let name = |own: &Type<'_>| String::from_utf8(view.string(own.name).unwrap().to_vec()).unwrap();
        view.types().map(|own| (name(&own), own.kind(), own.info & 0xffff)).collect()
    }

    #[test]
    fn known_members_stay_with_what_they_hold_by_value() {
        let all = part(&kernel(), &[11], &["alias", "colour", "next", "pid"]).unwrap();
        let expected = [
            ("task", kind::STRUCT, 5),
            ("", kind::UNION, 2),
            ("", kind::PTR, 0),
            ("colour", kind::ENUM, 2),
            ("alias", kind::TYPEDEF, 0),
            ("", kind::ARRAY, 0),
            ("int", kind::INT, 0),
            ("large", kind::STRUCT, 1),
            ("", kind::CONST, 0),
            ("tag", kind::TYPE_TAG, 0),
            ("wide", kind::ENUM64, 1),
        ];
        assert_eq!(summary(&all), expected.map(|(name, kind, vlen)| (name.to_owned(), kind, vlen)));
        let view = Sections::of(&all).unwrap().view(&all).unwrap();
        let types: Vec<Type<'_>> = view.types().collect();
        assert_eq!(types[2].third, 0, "pointers lead nowhere");
        let offsets: Vec<u32> = types[0].tail.chunks_exact(12).map(|member| word(member, 8).unwrap()).collect();
        assert_eq!((types[0].third, offsets), (8224, vec![32768, 32832, 32896, 32960, 65792]));
        assert_eq!(word(types[10].tail, 4), Some(1), "values stay");
    }

    #[test]
    fn roots_keep_their_order_and_may_be_none() {
        assert_eq!(
            summary(&part(&kernel(), &[2, 5], &[]).unwrap())[..2].iter().map(|own| own.1).collect::<Vec<_>>(),
            [kind::STRUCT, kind::ENUM]
        );
        assert_eq!(summary(&part(&kernel(), &[], &[]).unwrap()), []);
        assert_eq!(part(&kernel(), &[99], &[]), None);
    }

    #[test]
    fn damage_is_never_read_past() {
        let whole = kernel();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut broken = whole.clone();
                broken[at] ^= 1 << bit;
                part(&broken, &[11, 12], &["alias", "colour", "next", "pid"]);
            }
        }
    }
}
