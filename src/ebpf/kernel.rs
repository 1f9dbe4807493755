//! What this kernel offers, and what this process may do with it.

#![allow(unsafe_code)]

use std::fs;
use std::path::Path;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Typedef;

/// Facts about the running kernel, read once for all modules that are loaded together.
pub struct Kernel {
    btf: Result<Btf<'static>, String>,
    possible_cpus: usize,
}

impl Kernel {
    /// Reads them. Takes some milliseconds and, while it lives, the memory of vmlinux's BTF.
    #[must_use]
    pub fn read() -> Self {
        const BTF: &str = "/sys/kernel/btf/vmlinux";
        let btf = match fs::metadata(BTF) {
            Err(error) => Err(format!("kernel has no BTF ({BTF}: {error}); needs CONFIG_DEBUG_INFO_BTF")),
            Ok(_) => Btf::from_path(Path::new(BTF)).map_err(|error| format!("{BTF}: {error}")),
        };
        Self { btf, possible_cpus: libbpf_rs::num_possible_cpus().unwrap_or(1) }
    }

    /// CPUs that can ever appear: the rows of a per-CPU array.
    #[must_use]
    pub const fn possible_cpus(&self) -> usize {
        self.possible_cpus
    }

    /// Whether a program of this section can be attached, as far as can be told before trying.
    ///
    /// # Errors
    /// When nothing can be told, and why.
    pub fn has(&self, section: &str) -> Result<bool, String> {
        let btf = self.btf.as_ref().map_err(Clone::clone)?;
        match section.split_once('/') {
            // include/trace/bpf_probe.h declares a typedef btf_trace_<name> per tracepoint
            Some(("tp_btf", name)) => Ok(btf.type_by_name::<Typedef<'_>>(&format!("btf_trace_{name}")).is_some()),
            _ => Err(format!("section {section} is not one that can be looked up")),
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
