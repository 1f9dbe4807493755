//! What libbpf would look up in the kernel's types for an object, looked up by us.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::btf::Found;
use super::btf::Index;
use super::btf::Type;
use super::btf::View;
use super::btf::kind;
use super::fd;
use super::kernel::Kernel;
use super::needs::Needs;
use super::target;
use super::target::Targets;
use super::trim;

/// The kernel's types as far as one object needs them. Types of kernel modules are not among
/// them: to an object whose targets are the kernel's own they do not exist.
#[derive(Debug)]
pub(super) struct Part {
    /// The attach targets that this kernel has, by section.
    pub(super) targets: Targets,
    /// What relocations are resolved against, where there are any.
    types: Option<File>,
}

impl Part {
    /// `None` where it is left to libbpf.
    ///
    /// # Errors
    /// When the kernel has no types.
    pub(super) fn of(kernel: &Kernel, object: &[u8]) -> Result<Option<Self>, String> {
        // first, since it decides how objects are opened from now on
        let registered = target::register();
        let types = kernel.types()?;
        Ok(types.filter(|_| registered).and_then(|(view, index)| Self::with(view, index, &Needs::of(object)?)))
    }

    fn with(view: View<'_>, index: &Index, needs: &Needs) -> Option<Self> {
        // a tracepoint's typedef is found in the same pass as the types
        let (mut names, mut functions) = (needs.types.clone(), Vec::new());
        for section in &needs.sections {
            match target::type_of(section) {
                Some((name, kind::FUNC)) => functions.push(name.into_bytes()),
                Some((name, _)) => names.push(name.into_bytes()),
                None => {}
            }
        }
        names.sort_unstable();
        functions.sort_unstable();
        let types = index.find(view, &names);
        let functions = if functions.is_empty() { Vec::new() } else { index.find_functions(view, &functions) };
        let id = |(name, kind): (String, u32)| {
            let all = if kind == kind::FUNC { &functions } else { &types };
            let is_own = |own: Type<'_>| own.kind() == kind && view.string(own.name) == Some(name.as_bytes());
            all.iter().map(|found| found.id).find(|id| index.get(view, *id).is_some_and(is_own))
        };
        let targets = needs.sections.iter();
        let targets = targets.filter_map(|section| Some((section.clone(), id(target::type_of(section)?)?))).collect();
        let mut part = Self { targets, types: None };
        if !needs.types.is_empty() {
            let is_root = |found: &&Found| names.get(found.wanted).is_some_and(|own| needs.types.contains(own));
            let roots: Vec<u32> = types.iter().filter(is_root).map(|found| found.id).collect();
            part.types = Some(fd::in_memory(&trim::trimmed(view, index, &roots, &needs.members)?).ok()?);
            // libbpf opens it by its path
            File::open(part.path()?).ok()?;
        }
        Some(part)
    }

    /// Whether this kernel has the target of a section, `None` for sections not looked up here.
    pub(super) fn has(&self, section: &str) -> Option<bool> {
        target::type_of(section).map(|_| self.targets.contains_key(section))
    }

    /// Where libbpf finds the types, as long as the value lives.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.types.as_ref().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()).into())
    }
}
