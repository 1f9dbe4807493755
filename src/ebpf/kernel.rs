//! What this kernel offers, and what this process may do with it.

#![allow(unsafe_code)]

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;
use std::ptr::NonNull;
use std::slice;

use once_cell::sync::OnceCell;

use super::btf;
use super::btf::Index;
use super::btf::Sections;
use super::btf::View;
use super::tracepoint::Tracepoints;

const BTF: &str = "/sys/kernel/btf/vmlinux";
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// Facts about the running kernel, read once for all modules that are loaded together.
#[derive(Debug)]
pub struct Kernel {
    btf: Result<(Contents, Sections), String>,
    index: OnceCell<Option<Index>>,
    possible_cpus: usize,
    tracepoints: Tracepoints,
}

impl Kernel {
    /// Opens them. Tracepoints have been read before, when files of root could be.
    #[must_use]
    pub fn read(tracepoints: Tracepoints) -> Self {
        let btf = Contents::of(Path::new(BTF)).map_err(|error| error.to_string()).and_then(|contents| {
            let sections = Sections::of(contents.bytes()).ok_or("not BTF")?;
            Ok((contents, sections))
        });
        Self {
            btf: btf.map_err(|error| format!("kernel has no BTF ({BTF}: {error}); needs CONFIG_DEBUG_INFO_BTF")),
            index: OnceCell::new(),
            possible_cpus: fs::read_to_string(POSSIBLE).ok().and_then(|mask| rows_for(&mask)).unwrap_or(1),
            tracepoints,
        }
    }

    /// Rows of an array indexed by CPU: one more than the greatest number that can appear.
    #[must_use]
    pub const fn possible_cpus(&self) -> usize {
        self.possible_cpus
    }

    /// The number of the tracepoint that a section names, `None` for other sections.
    pub(super) fn tracepoint(&self, section: &str) -> Option<u64> {
        self.tracepoints.id(section.strip_prefix("tp/")?)
    }

    /// Whether a program of this section can be attached, as far as can be told before trying.
    ///
    /// # Errors
    /// When nothing can be told, and why.
    pub fn has(&self, section: &str) -> Result<bool, String> {
        let (contents, sections) = self.btf.as_ref().map_err(Clone::clone)?;
        let strings = contents.bytes().get(sections.strings()).unwrap_or_default();
        match section.split_once('/') {
            // include/trace/bpf_probe.h declares a typedef btf_trace_<name> per tracepoint
            Some(("tp_btf", name)) => Ok(btf::contains(strings, &format!("btf_trace_{name}"))),
            // the name may be another thing's too; then the load says so
            Some(("fentry" | "fexit", name)) => Ok(btf::contains(strings, name)),
            Some(("tp", name)) => Ok(self.tracepoints.id(name).is_some()),
            _ => Err(format!("section {section} is not one that can be looked up")),
        }
    }

    /// The kernel's types, and where they are; `None` where they are not understood.
    ///
    /// # Errors
    /// When there are none, and why.
    pub(super) fn types(&self) -> Result<Option<(View<'_>, &Index)>, String> {
        let (contents, sections) = self.btf.as_ref().map_err(Clone::clone)?;
        let Some(view) = sections.view(contents.bytes()) else { return Ok(None) };
        let index = self.index.get_or_init(|| Index::new(view));
        Ok(index.as_ref().map(|index| (view, index)))
    }
}

/// One more than the last number of a list such as `0,2-3`. Numbers may be missing in it, so
/// that counting them would not do.
fn rows_for(mask: &str) -> Option<usize> {
    mask.trim().rsplit([',', '-']).next()?.parse::<usize>().ok()?.checked_add(1)
}

/// The contents of a file of sysfs that does not change: mapped where it can be, since sysfs
/// gives out BTF in 1400 reads of a page each, and maps it from 6.16 on.
#[derive(Debug)]
enum Contents {
    Mapped(NonNull<u8>, usize),
    Read(Vec<u8>),
}

// SAFETY: what is mapped is only ever read.
unsafe impl Send for Contents {}
// SAFETY: as above.
unsafe impl Sync for Contents {}

impl Contents {
    fn of(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(first) if start != libc::MAP_FAILED => Ok(Self::Mapped(first, len)),
            _ => fs::read(path).map(Self::Read),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            // SAFETY: len bytes are mapped until drop, and the kernel's BTF does not change.
            Self::Mapped(start, len) => unsafe { slice::from_raw_parts(start.as_ptr(), *len) },
            Self::Read(bytes) => bytes,
        }
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        if let Self::Mapped(start, len) = self {
            // SAFETY: mapped in of(), no longer referred to.
            unsafe { libc::munmap(start.as_ptr().cast(), *len) };
        }
    }
}

/// Why this process may not load programs, `None` where its capabilities suffice.
pub(super) fn missing_privilege() -> Option<String> {
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    const SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    let has = |capability: u32| effective >> capability & 1 == 1;
    if has(SYS_ADMIN) || (has(BPF) && has(PERFMON)) {
        return None;
    }
    // SAFETY: getuid cannot fail.
    let uid = unsafe { libc::getuid() };
    Some(format!(
        "no privileges: uid {uid} has neither CAP_SYS_ADMIN nor CAP_BPF and CAP_PERFMON; pmcd gives up root once it \
         has started, so restart it to load the module"
    ))
}

/// The kernel's lockdown mode where it is in force (kernel_lockdown(7)).
pub(super) fn lockdown() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let mode = modes.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'))?;
    (mode != "none").then(|| mode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_may_be_missing() {
        assert_eq!(rows_for("0-1\n"), Some(2));
        assert_eq!(rows_for("0"), Some(1));
        assert_eq!(rows_for("0,2-3,7"), Some(8));
        assert_eq!(rows_for("0-5,12-511"), Some(512));
        assert_eq!(rows_for(""), None);
    }
}
