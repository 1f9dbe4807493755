//! Where the fields of a C structure lie, from the BTF of the object that uses it.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use libbpf_rs::HasSize;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::BtfType;
use libbpf_rs::btf::types::Array;
use libbpf_rs::btf::types::Composite;
use libbpf_rs::btf::types::DataSec;
use libbpf_rs::btf::types::Int;
use libbpf_rs::btf::types::MemberAttr;
use libbpf_rs::btf::types::Struct;
use libbpf_rs::btf::types::Var;

/// A field: its first byte and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
}

/// A structure's size and fields; fields of inner structures are named `outer.inner`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Bytes.
    pub size: usize,
    fields: BTreeMap<String, Field>,
}

impl Layout {
    /// One as a compiler would have made it.
    #[cfg(test)]
    pub fn new<'a>(size: usize, fields: impl IntoIterator<Item = (&'a str, Field)>) -> Self {
        Self { size, fields: fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect() }
    }

    /// The layout of structure `name`, `None` where the object has no such structure.
    #[must_use]
    pub fn of_struct(btf: &Btf<'_>, name: &str) -> Option<Self> {
        let all = btf.type_by_name::<Struct<'_>>(name)?;
        let mut layout = Self { size: all.size(), fields: BTreeMap::new() };
        layout.add(btf, &all, "", 0);
        Some(layout)
    }

    /// The layout of a section of variables, such as `.rodata`.
    #[must_use]
    pub fn of_section(btf: &Btf<'_>, name: &str) -> Option<Self> {
        let section = btf.type_by_name::<DataSec<'_>>(name)?;
        let mut layout = Self { size: section.size(), fields: BTreeMap::new() };
        for entry in section.iter() {
            let name = btf.type_by_id::<Var<'_>>(entry.ty).and_then(|var| var.name().map(OsStr::to_owned));
            if let Some(name) = name.as_deref().and_then(OsStr::to_str) {
                let field = Field { offset: entry.offset as usize, size: entry.size };
                layout.fields.insert(name.to_owned(), field);
            }
        }
        Some(layout)
    }

    /// A field by its name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Field> {
        self.fields.get(name).copied()
    }

    fn add(&mut self, btf: &Btf<'_>, of: &Struct<'_>, prefix: &str, start: usize) {
        for member in of.iter() {
            let (Some(name), MemberAttr::Normal { offset }) = (member.name.and_then(OsStr::to_str), member.attr) else {
                continue;
            };
            let offset = start + offset as usize / 8;
            let name = format!("{prefix}{name}");
            let Some(ty) = btf.type_by_id::<BtfType<'_>>(member.ty).map(|ty| ty.skip_mods_and_typedefs()) else {
                continue;
            };
            if let Ok(inner) = Struct::try_from(ty) {
                self.add(btf, &inner, &format!("{name}."), offset);
            } else {
                self.fields.insert(name, Field { offset, size: size_of_type(ty) });
            }
        }
    }
}

fn size_of_type(ty: BtfType<'_>) -> usize {
    if let Ok(array) = Array::try_from(ty) {
        return array.capacity() * size_of_type(array.contained_type().skip_mods_and_typedefs());
    }
    match Composite::try_from(ty) {
        Ok(composite) => composite.size(),
        Err(ty) => Int::try_from(ty).map_or(0, |int| int.bits as usize / 8),
    }
}
