//! From a module's table to running programs and mapped memory.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::ptr;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::AsRawLibbpf as _;
use libbpf_rs::ErrorKind;
use libbpf_rs::MapCore as _;
use libbpf_rs::Object;
use libbpf_rs::ObjectBuilder;
use libbpf_rs::OpenObject;
use libbpf_rs::btf::Btf;
use libbpf_rs::libbpf_sys;
use parking_lot::Mutex;
use thiserror::Error;

use super::fd::keep;
use super::kernel;
use super::kernel::Kernel;
use super::layout::Layout;
use super::memory::Memory;
use super::messages;
use super::part::Part;
use super::program::RunStats;
use super::ring::Ring;
use super::target;
use super::tracepoint;
use crate::catalog;
use crate::catalog::Automaton;
use crate::catalog::Hook;
use crate::catalog::Keys;
use crate::catalog::Module;
use crate::catalog::Programs;
use crate::catalog::RING_KILOBYTES;
use crate::catalog::Setting;
use crate::catalog::Shape;
use crate::catalog::UNSET;
use crate::catalog::Values;

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
    /// The ring, and a record's fields, of an event module.
    pub ring: Option<(Ring, Layout)>,
    /// The rows of processes, and a row's fields, where the module has them.
    pub processes: Option<(Memory, Layout)>,
    programs: Mutex<Vec<OwnedFd>>,
    /// A link attaches its program for as long as its descriptor is open.
    links: Mutex<Vec<OwnedFd>>,
}

impl Loaded {
    /// Counters of all programs.
    ///
    /// # Errors
    /// As bpf(2); kernels before 6.0 refuse an unprivileged process.
    pub fn run_stats(&self) -> io::Result<RunStats> {
        let mut all = RunStats::default();
        for program in self.programs.lock().iter() {
            all.add(RunStats::read(program.as_fd())?);
        }
        Ok(all)
    }

    /// Detaches and unloads the programs now, while readers may still hold the memory.
    pub fn detach(&self) {
        self.links.lock().clear();
        self.programs.lock().clear();
    }
}

/// Loads and attaches a module: of every hook the first way that this kernel has a place for;
/// where the kernel then refuses, the next ones.
///
/// # Errors
/// When no combination runs here, with what each attempt said.
pub fn load(module: &Module, options: &Values, kernel: &Kernel) -> Result<Loaded, Unavailable> {
    let start = Instant::now();
    let programs =
        module.shape.programs().ok_or_else(|| Unavailable::Defect(format!("{} has no programs", module.name)))?;
    let part = Part::of(kernel, programs.object).map_err(Unavailable::Kernel)?;
    let part = part.as_ref();
    let open = open(programs.object, part)?;
    let sections = sections(&open);
    let plan = Plan::new(module, programs, options, kernel, &open)?;
    let mut first = Some(open);
    let on = |option: &str| catalog::number(options, option).is_some_and(|number| number != 0);
    let optional = programs.optional.iter().filter(|(option, _)| on(option)).flat_map(|(_, hooks)| hooks.iter());
    let hooks = programs
        .hooks
        .iter()
        .chain(optional)
        .map(|hook| present(hook, &sections, kernel, part))
        .collect::<Result<Vec<_>, _>>()?;
    let longest = hooks.iter().map(Vec::len).max().unwrap_or(0);
    let mut refusals: Vec<(String, Unavailable)> = Vec::new();
    for attempt in 0..longest.max(1) {
        let chosen: Vec<&Candidate> =
            hooks.iter().filter_map(|hook| hook.get(attempt.min(hook.len().saturating_sub(1)))).flatten().collect();
        let open = match first.take() {
            Some(open) => open,
            None => self::open(programs.object, part)?,
        };
        let (outcome, said) = messages::captured(|| plan.run(open, &chosen, kernel, part));
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

fn open(object: &[u8], part: Option<&Part>) -> Result<OpenObject, Unavailable> {
    let (open, said) = messages::captured(|| {
        let mut builder = ObjectBuilder::default();
        if let Some(path) = part.and_then(Part::path) {
            builder.btf_custom_path(path)?;
        }
        builder.open_memory(object)
    });
    open.map_err(|error| Unavailable::Defect(format!("object: {error}: {}", said.join("; "))))
}

/// Sections of the object's programs by their names.
fn sections(open: &OpenObject) -> BTreeMap<String, String> {
    let text = |name: &OsStr| name.to_string_lossy().into_owned();
    open.progs().map(|program| (text(program.name()), text(program.section()))).collect()
}

/// Those ways of a hook that this kernel has places for.
fn present(
    hook: Hook,
    sections: &BTreeMap<String, String>,
    kernel: &Kernel,
    part: Option<&Part>,
) -> Result<Vec<Vec<Candidate>>, Unavailable> {
    let mut found = Vec::new();
    let mut absent = Vec::new();
    for way in hook {
        let mut candidates = Vec::new();
        let mut lacks = false;
        for program in way.split_whitespace() {
            let section =
                sections.get(program).ok_or_else(|| Unavailable::Defect(format!("object has no program {program}")))?;
            let has = part.and_then(|part| part.has(section)).map_or_else(|| kernel.has(section), Ok);
            if !has.map_err(Unavailable::Kernel)? {
                lacks = true;
                absent.push(section.as_str());
            }
            candidates.push(Candidate { program, section: section.clone() });
        }
        if !lacks {
            found.push(candidates);
        }
    }
    if found.is_empty() {
        return Err(Unavailable::Kernel(format!("kernel lacks a hook; needs one of: {}", absent.join(", "))));
    }
    Ok(found)
}

/// What is the same in every attempt.
struct Plan<'a> {
    programs: &'a Programs,
    constants: Vec<(usize, Vec<u8>)>,
    /// Entries of maps whose size depends on options or on the host.
    sizes: Vec<(&'static str, u32)>,
    rows: Layout,
    row_count: u32,
    keys: Option<(&'static str, Layout, u32)>,
    rows_per_key: usize,
    shared: bool,
    ring: Option<(&'static str, Layout, u32)>,
    processes: Option<(&'static str, Layout, u32)>,
    /// A queue to be filled with the numbers from 0 to this one.
    queue: Option<(&'static str, u32)>,
}

impl<'a> Plan<'a> {
    fn new(
        module: &'a Module,
        programs: &'a Programs,
        options: &Values,
        kernel: &Kernel,
        open: &OpenObject,
    ) -> Result<Self, Unavailable> {
        // SAFETY: the object is open for as long as it is borrowed.
        let btf = Btf::from_bpf_object(unsafe { open.as_libbpf_object().as_ref() });
        let Ok(Some(btf)) = btf else { return Err(Unavailable::Defect("object has no BTF".to_owned())) };
        let layout = |name: &str| {
            Layout::of_struct(&btf, name).ok_or_else(|| Unavailable::Defect(format!("object has no structure {name}")))
        };
        let option = |name: &str| {
            catalog::number(options, name)
                .ok_or_else(|| Unavailable::Defect(format!("{} has no option {name}", module.name)))
        };
        let rows = layout(programs.rows.layout)?;
        let cpus = kernel.possible_cpus();
        let mut values: Vec<(&str, Vec<u8>)> = options.iter().map(|(name, value)| (*name, constant(value))).collect();
        let mut sizes = Vec::new();
        let (keys, rows_per_key) = match programs.rows.keys {
            None => (None, cpus),
            Some(own) => {
                // two more take what exceeds the bound
                let count = option(own.option)? + 2;
                let fits = count as usize * cpus * rows.size <= Keys::PER_CPU_BYTES;
                let per_key = if fits { cpus } else { 1 };
                values.push((own.cpus, u32::try_from(per_key).unwrap_or(1).to_ne_bytes().to_vec()));
                sizes.extend(own.sized.iter().chain([&own.map]).map(|map| (*map, count)));
                (Some((own.map, layout(own.layout)?, count)), per_key)
            }
        };
        let ring = match &module.shape {
            Shape::Events(events) => {
                let bytes = (option(RING_KILOBYTES)? << 10).next_power_of_two();
                sizes.push((events.ring, bytes));
                Some((events.ring, layout(events.layout)?, bytes))
            }
            _ => None,
        };
        let mut queue = None;
        let processes = match &module.shape {
            Shape::Polled(polled) => {
                let count = option(polled.option)?;
                sizes.extend(polled.sized.iter().chain([&polled.map, &polled.unused]).map(|map| (*map, count)));
                queue = Some((polled.unused, count));
                Some((polled.map, layout(polled.layout)?, count))
            }
            _ => None,
        };
        let rodata = Layout::of_section(&btf, ".rodata").unwrap_or_default();
        let constants = values
            .into_iter()
            .filter_map(|(name, bytes)| rodata.field(name).map(|field| (field.offset, bytes)))
            .collect();
        let key_count = keys.as_ref().map_or(1, |(_, _, count)| *count);
        let row_count = u32::try_from(key_count as usize * rows_per_key)
            .map_err(|_| Unavailable::Defect("more rows than a map can have".to_owned()))?;
        sizes.push((programs.rows.map, row_count));
        let shared = keys.is_some() && rows_per_key < cpus;
        Ok(Self { programs, constants, sizes, rows, row_count, keys, rows_per_key, shared, ring, processes, queue })
    }

    fn run(
        &self,
        mut open: OpenObject,
        chosen: &[&Candidate],
        kernel: &Kernel,
        part: Option<&Part>,
    ) -> libbpf_rs::Result<Loaded> {
        self.prepare(&mut open, chosen)?;
        let object = match part {
            Some(part) => target::with(&part.targets, || open.load())?,
            None => {
                target::left_to_libbpf(&mut open, |program| chosen.iter().any(|own| program == own.program))?;
                open.load()?
            }
        };
        if let Some((name, count)) = self.queue {
            fill(find(&object, name)?.as_fd(), count)?;
        }
        let mut links = Vec::new();
        let mut programs = Vec::new();
        for program in object.progs_mut() {
            let Some(own) = chosen.iter().find(|own| program.name() == own.program) else { continue };
            links.push(match kernel.tracepoint(&own.section) {
                Some(id) => keep(tracepoint::attach(program.as_fd(), id)?.as_fd())?,
                None => keep(program.attach_trace()?.as_fd())?,
            });
            programs.push(keep(program.as_fd())?);
        }
        let memory = |own: &Option<(&'static str, Layout, u32)>| {
            own.as_ref()
                .map(|(name, layout, count)| -> libbpf_rs::Result<_> {
                    Ok((map(&object, name, layout.size * *count as usize)?, layout.clone()))
                })
                .transpose()
        };
        let ring = self
            .ring
            .as_ref()
            .map(|(name, layout, bytes)| -> libbpf_rs::Result<_> {
                let map = find(&object, name)?;
                Ok((Ring::map(keep(map.as_fd())?, *bytes as usize)?, layout.clone()))
            })
            .transpose()?;
        let mut hooks = chosen.iter().map(|own| own.section.as_str()).collect::<Vec<_>>().join(" ");
        if self.shared {
            let _ = write!(hooks, " (rows shared by all CPUs)");
        }
        Ok(Loaded {
            hooks,
            load_time: Duration::ZERO,
            map_bytes: object.maps().map(|map| memlock(map.as_fd().as_raw_fd())).sum(),
            rows: (map(&object, self.programs.rows.map, self.rows.size * self.row_count as usize)?, self.rows.clone()),
            keys: memory(&self.keys)?,
            rows_per_key: self.rows_per_key,
            ring,
            processes: memory(&self.processes)?,
            programs: Mutex::new(programs),
            links: Mutex::new(links),
        })
    }

    fn prepare(&self, open: &mut OpenObject, chosen: &[&Candidate]) -> libbpf_rs::Result<()> {
        for mut program in open.progs_mut() {
            let wanted = chosen.iter().any(|own| program.name() == own.program);
            program.set_autoload(wanted);
        }
        for mut map in open.maps_mut() {
            if let Some((_, entries)) = self.sizes.iter().find(|(name, _)| map.name() == *name) {
                map.set_max_entries(*entries)?;
            } else if map.name().to_string_lossy().ends_with(".rodata") {
                let Some(bytes) = map.initial_value_mut() else { continue };
                for (offset, value) in &self.constants {
                    if let Some(place) = bytes.get_mut(*offset..*offset + value.len()) {
                        place.copy_from_slice(value);
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a program reads for an option.
fn constant(value: &Setting) -> Vec<u8> {
    match value {
        Setting::Number(number) => number.unwrap_or(UNSET).to_ne_bytes().to_vec(),
        Setting::Text(text) => Automaton::bytes(text),
    }
}

/// Puts the numbers from 0 to `count` into a queue.
fn fill(queue: BorrowedFd<'_>, count: u32) -> io::Result<()> {
    for number in 0..count {
        let value: *const u32 = &number;
        // SAFETY: the descriptor is open; a queue has no key, and the value is as large as its
        // entries.
        let status = unsafe {
            libbpf_sys::bpf_map_update_elem(queue.as_raw_fd(), ptr::null(), value.cast(), libbpf_sys::BPF_ANY.into())
        };
        if status < 0 {
            return Err(io::Error::from_raw_os_error(-status));
        }
    }
    Ok(())
}

fn find<'o>(object: &'o Object, name: &str) -> libbpf_rs::Result<libbpf_rs::Map<'o>> {
    Ok(object.maps().find(|map| map.name() == name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?)
}

fn map(object: &Object, name: &str, bytes: usize) -> libbpf_rs::Result<Memory> {
    Ok(Memory::map(find(object, name)?.as_fd(), bytes)?)
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
