//! From a module's table to running programs and mapped memory.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::AsRawLibbpf as _;
use libbpf_rs::ErrorKind;
use libbpf_rs::MapCore as _;
use libbpf_rs::Object;
use libbpf_rs::ObjectBuilder;
use libbpf_rs::OpenObject;
use libbpf_rs::btf::Btf;
use thiserror::Error;

use super::fd::HighDescriptors;
use super::kernel;
use super::kernel::Kernel;
use super::layout::Layout;
use super::memory::Memory;
use super::messages;
use super::program::RunStats;
use crate::catalog::Keys;
use crate::catalog::Mapped;

/// Why a module cannot run here. The text is one line that a person can act on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unavailable {
    /// The kernel lacks something.
    #[error("{0}")]
    Kernel(String),
    /// The process may not.
    #[error("{0}")]
    Permission(String),
    /// The module itself does not fit together.
    #[error("{0}")]
    Defect(String),
}

/// A module's programs, attached, and its memory. Dropping it detaches them.
#[derive(Debug)]
pub struct Loaded {
    /// Where the programs are attached, and choices that depend on this host.
    pub hooks: String,
    /// How long it took.
    pub load_time: Duration,
    /// Kernel memory of the maps.
    pub map_bytes: u64,
    /// The rows, and a row's fields.
    pub rows: (Memory, Layout),
    /// The keys, and a key's fields, where the module has keys.
    pub keys: Option<(Memory, Layout)>,
    /// Rows that add up to one: per key where there are keys.
    pub rows_per_key: usize,
    programs: Vec<OwnedFd>,
    #[expect(dead_code, reason = "a link attaches its program for as long as its descriptor is open")]
    links: Vec<OwnedFd>,
}

impl Loaded {
    /// Counters of all programs.
    ///
    /// # Errors
    /// As bpf(2); kernels before 6.0 refuse an unprivileged process.
    pub fn run_stats(&self) -> io::Result<RunStats> {
        let mut all = RunStats::default();
        for program in &self.programs {
            all.add(RunStats::read(program.as_fd())?);
        }
        Ok(all)
    }
}

/// Loads and attaches a module: of every hook the first program that this kernel has a place
/// for; where the kernel then refuses, the next ones.
///
/// # Errors
/// When no combination runs here, with what each attempt said.
pub fn load(
    name: &str,
    mapped: &Mapped,
    options: &[(&'static str, u32)],
    kernel: &Kernel,
    descriptors: &HighDescriptors,
) -> Result<Loaded, Unavailable> {
    let start = Instant::now();
    let open = open(mapped.object)?;
    let sections = sections(&open);
    let plan = Plan::new(name, mapped, options, kernel, &open)?;
    let mut first = Some(open);
    let hooks = mapped.hooks.iter().map(|hook| present(hook, &sections, kernel)).collect::<Result<Vec<_>, _>>()?;
    let longest = hooks.iter().map(Vec::len).max().unwrap_or(0);
    let mut refusals: Vec<(String, Unavailable)> = Vec::new();
    for attempt in 0..longest.max(1) {
        let chosen: Vec<&Candidate> =
            hooks.iter().filter_map(|hook| hook.get(attempt.min(hook.len().saturating_sub(1)))).collect();
        let open = match first.take() {
            Some(open) => open,
            None => self::open(mapped.object)?,
        };
        let (outcome, said) = messages::captured(|| plan.run(open, &chosen, descriptors));
        match outcome {
            Ok(mut loaded) => {
                loaded.load_time = start.elapsed();
                return Ok(loaded);
            }
            Err(error) => {
                let at = chosen.iter().map(|own| own.section.as_str()).collect::<Vec<_>>().join(", ");
                refusals.push((at, classify(&error, &said)));
            }
        }
    }
    Err(verdict(refusals))
}

/// A program and its section, which names its attach point.
#[derive(Debug)]
struct Candidate {
    program: &'static str,
    section: String,
}

fn open(object: &[u8]) -> Result<OpenObject, Unavailable> {
    let (open, said) = messages::captured(|| ObjectBuilder::default().open_memory(object));
    open.map_err(|error| Unavailable::Defect(format!("object: {error}: {}", said.join("; "))))
}

/// Sections of the object's programs by their names.
fn sections(open: &OpenObject) -> BTreeMap<String, String> {
    let text = |name: &OsStr| name.to_string_lossy().into_owned();
    open.progs().map(|program| (text(program.name()), text(program.section()))).collect()
}

/// Those programs of a hook that this kernel has a place for.
fn present(
    hook: &'static [&'static str],
    sections: &BTreeMap<String, String>,
    kernel: &Kernel,
) -> Result<Vec<Candidate>, Unavailable> {
    let mut found = Vec::new();
    let mut absent = Vec::new();
    for program in hook {
        let section =
            sections.get(*program).ok_or_else(|| Unavailable::Defect(format!("object has no program {program}")))?;
        if kernel.has(section).map_err(Unavailable::Kernel)? {
            found.push(Candidate { program, section: section.clone() });
        } else {
            absent.push(section.as_str());
        }
    }
    if found.is_empty() {
        return Err(Unavailable::Kernel(format!("kernel lacks a hook; needs one of: {}", absent.join(", "))));
    }
    Ok(found)
}

/// What is the same in every attempt.
struct Plan<'a> {
    mapped: &'a Mapped,
    constants: Vec<(usize, u32)>,
    rows: Layout,
    keys: Option<Layout>,
    row_count: u32,
    key_count: u32,
    rows_per_key: usize,
    shared: bool,
}

impl<'a> Plan<'a> {
    fn new(
        name: &str,
        mapped: &'a Mapped,
        options: &[(&'static str, u32)],
        kernel: &Kernel,
        open: &OpenObject,
    ) -> Result<Self, Unavailable> {
        // SAFETY: the object is open for as long as it is borrowed.
        let btf = Btf::from_bpf_object(unsafe { open.as_libbpf_object().as_ref() });
        let Ok(Some(btf)) = btf else { return Err(Unavailable::Defect("object has no BTF".to_owned())) };
        let layout = |name: &str| {
            Layout::of_struct(&btf, name).ok_or_else(|| Unavailable::Defect(format!("object has no structure {name}")))
        };
        let rows = layout(mapped.rows.layout)?;
        let keys = mapped.rows.keys.map(|keys| layout(keys.layout)).transpose()?;
        let cpus = kernel.possible_cpus();
        let mut values = options.to_vec();
        let (key_count, rows_per_key) = match mapped.rows.keys {
            None => (1, cpus),
            Some(own) => {
                let bound = options.iter().find(|(option, _)| *option == own.option).map(|(_, value)| *value);
                let count = bound.ok_or_else(|| Unavailable::Defect(format!("{name} has no option {}", own.option)))?;
                // two more take what exceeds the bound
                let count = count + 2;
                let fits = count as usize * cpus * rows.size <= Keys::PER_CPU_BYTES;
                let per_key = if fits { cpus } else { 1 };
                values.push((own.cpus, u32::try_from(per_key).unwrap_or(1)));
                (count, per_key)
            }
        };
        let rodata = Layout::of_section(&btf, ".rodata").unwrap_or_default();
        let constants = values
            .iter()
            .filter_map(|(constant, value)| rodata.field(constant).map(|field| (field.offset, *value)))
            .collect();
        let row_count = u32::try_from(key_count as usize * rows_per_key)
            .map_err(|_| Unavailable::Defect("more rows than a map can have".to_owned()))?;
        let shared = mapped.rows.keys.is_some() && rows_per_key < cpus;
        Ok(Self { mapped, constants, rows, keys, row_count, key_count, rows_per_key, shared })
    }

    fn run(
        &self,
        mut open: OpenObject,
        chosen: &[&Candidate],
        descriptors: &HighDescriptors,
    ) -> libbpf_rs::Result<Loaded> {
        self.prepare(&mut open, chosen)?;
        let object = open.load()?;
        let mut links = Vec::new();
        let mut programs = Vec::new();
        for program in object.progs_mut() {
            if chosen.iter().any(|own| program.name() == own.program) {
                let link = program.attach()?;
                links.push(descriptors.keep(link.as_fd())?);
                programs.push(descriptors.keep(program.as_fd())?);
            }
        }
        let keys = match (self.mapped.rows.keys, &self.keys) {
            (Some(own), Some(layout)) => {
                Some((map(&object, own.map, layout.size * self.key_count as usize)?, layout.clone()))
            }
            _ => None,
        };
        let mut hooks = chosen.iter().map(|own| own.section.as_str()).collect::<Vec<_>>().join(" ");
        if self.shared {
            let _ = write!(hooks, " (rows shared by all CPUs)");
        }
        Ok(Loaded {
            hooks,
            load_time: Duration::ZERO,
            map_bytes: object.maps().map(|map| memlock(map.as_fd().as_raw_fd())).sum(),
            rows: (map(&object, self.mapped.rows.map, self.rows.size * self.row_count as usize)?, self.rows.clone()),
            keys,
            rows_per_key: self.rows_per_key,
            programs,
            links,
        })
    }

    fn prepare(&self, open: &mut OpenObject, chosen: &[&Candidate]) -> libbpf_rs::Result<()> {
        for mut program in open.progs_mut() {
            let wanted = chosen.iter().any(|own| program.name() == own.program);
            program.set_autoload(wanted);
        }
        for mut map in open.maps_mut() {
            if map.name() == self.mapped.rows.map {
                map.set_max_entries(self.row_count)?;
            } else if self.mapped.rows.keys.is_some_and(|keys| is_per_key(keys, map.name())) {
                map.set_max_entries(self.key_count)?;
            } else if map.name().to_string_lossy().ends_with(".rodata") {
                let Some(bytes) = map.initial_value_mut() else { continue };
                for (offset, value) in &self.constants {
                    if let Some(place) = bytes.get_mut(*offset..*offset + size_of::<u32>()) {
                        place.copy_from_slice(&value.to_ne_bytes());
                    }
                }
            }
        }
        Ok(())
    }
}

fn is_per_key(keys: &Keys, map: &OsStr) -> bool {
    map == keys.map || keys.sized.iter().any(|own| map == *own)
}

fn map(object: &Object, name: &str, bytes: usize) -> libbpf_rs::Result<Memory> {
    let map = object.maps().find(|map| map.name() == name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(Memory::map(map.as_fd(), bytes)?)
}

/// Bytes that the kernel accounts a map with.
fn memlock(fd: i32) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

fn classify(error: &libbpf_rs::Error, said: &[String]) -> Unavailable {
    let denied = error.kind() == ErrorKind::PermissionDenied;
    if let Some(missing) = kernel::missing_privilege().filter(|_| denied) {
        return Unavailable::Permission(missing);
    }
    let mut text = match messages::telling(said) {
        Some(line) => format!("kernel refused: {line}"),
        None => format!("kernel refused: {error}"),
    };
    if let Some(mode) = kernel::lockdown() {
        let _ = write!(text, " (kernel lockdown: {mode})");
    }
    Unavailable::Kernel(text)
}

/// One reason out of those of all attempts.
fn verdict(mut refusals: Vec<(String, Unavailable)>) -> Unavailable {
    if refusals.len() > 1 && !matches!(refusals.first(), Some((_, Unavailable::Permission(_)))) {
        let all: Vec<String> = refusals.iter().map(|(at, reason)| format!("{at}: {reason}")).collect();
        return Unavailable::Kernel(all.join("; "));
    }
    refusals.pop().map_or_else(|| Unavailable::Defect("module has no hooks".to_owned()), |(_, reason)| reason)
}
