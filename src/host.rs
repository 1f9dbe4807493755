//! The modules of this process, loaded once and adopted by every interface.

#![allow(unsafe_code)]

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use once_cell::sync::OnceCell;
use parking_lot::Condvar;
use parking_lot::Mutex;

use crate::agent::BpfAgent;
use crate::catalog;
use crate::catalog::Catalog;
use crate::catalog::Module;
use crate::catalog::Setting;
use crate::catalog::Shape;
use crate::config;
use crate::config::Config;
use crate::config::Settings;
use crate::ebpf;
use crate::ebpf::HighDescriptors;
use crate::ebpf::Tracepoints;
use crate::ebpf::Unavailable;
use crate::loader::Loader;
use crate::loader::Modules;
use crate::pmda;
use crate::pmda::Dispatch;
use crate::pmda::Level;
use crate::pmda::log;
use crate::privileges;
use crate::readers::Readers;
use crate::source::Drain;
use crate::source::EventLog;
use crate::source::EventRows;
use crate::source::Poller;
use crate::source::Published;
use crate::source::TableRows;
use crate::status::Slot;
use crate::status::State;
use crate::workers::Worker;

/// A list of modules and, once the first interface has been initialised, what became of them.
pub struct Host {
    modules: &'static [(u16, &'static Module)],
    process: OnceCell<Process>,
}

/// What belongs to the process, and lives as long.
struct Process {
    slots: Arc<[Slot]>,
    readers: Arc<Readers>,
    /// `None` where the process can have no threads.
    workers: Option<Workers>,
    start_wait: Duration,
    keeps_privileges: bool,
}

struct Workers {
    loader: Worker<Loader>,
    modules: Arc<Modules>,
    first: Arc<Latch>,
}

/// A worker of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// Loads modules.
    Load,
    /// Reads rings.
    Events,
    /// Looks through tables.
    Poll,
}

/// Opens once.
#[derive(Default)]
struct Latch {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Latch {
    fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }

    fn wait(&self, at_most: Option<Duration>) {
        let mut is_open = self.is_open.lock();
        match at_most {
            Some(limit) => {
                self.opened.wait_while_for(&mut is_open, |is_open| !*is_open, limit);
            }
            None => self.opened.wait_while(&mut is_open, |is_open| !*is_open),
        }
    }
}

/// Opens a latch when dropped.
struct Opened(Arc<Latch>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl Host {
    /// A host for these modules, none loaded yet.
    #[must_use]
    pub const fn new(modules: &'static [(u16, &'static Module)]) -> Self {
        Self { modules, process: OnceCell::new() }
    }

    /// The body of an init function. It fails only if libpcp_pmda refuses the interface: a
    /// module that cannot run is a fact to be shown, not a failure of the agent.
    ///
    /// Inside pmcd it waits for modules to be loaded as long as option `start_wait` says and
    /// leaves the rest to a worker; anywhere else, and where privileges are not kept, until all
    /// are.
    ///
    /// # Safety
    /// `dispatch` points to an interface that lives as long as the process, as in PMDA(3).
    pub unsafe fn init(&'static self, dispatch: *mut Dispatch) {
        // SAFETY: the caller's promise.
        unsafe { self.attach(dispatch, Some(c"bpf")) }
    }

    /// As [`Host::init`], on the interface of a daemon, which has been prepared.
    ///
    /// # Safety
    /// As for [`Host::init`].
    pub unsafe fn init_daemon(&'static self, dispatch: *mut Dispatch) {
        // SAFETY: the caller's promise.
        unsafe { self.attach(dispatch, None) }
    }

    unsafe fn attach(&'static self, dispatch: *mut Dispatch, name: Option<&std::ffi::CStr>) {
        // SAFETY: the caller's promise, for every access in this function.
        let domain = unsafe { (*dispatch).domain };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let process = self.process.get_or_init(|| start(self.modules, config_path()));
            let catalog = Catalog::new(self.modules);
            let (metrics, indoms) = (catalog.registered(), catalog.registered_indoms());
            let agent = BpfAgent::new(
                domain.unsigned_abs(),
                catalog,
                Arc::clone(&process.slots),
                Arc::clone(&process.readers),
                process.workers.as_ref().map(|workers| workers.loader.pulse()),
            );
            // SAFETY: the caller's promise.
            unsafe { pmda::register(dispatch, name, Box::new(agent), metrics, &indoms) }
        }));
        let error = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => {
                log(Level::Error, "bpf_init: panic; the agent is not started");
                pmda::PmErr::Generic
            }
        };
        // SAFETY: as above.
        unsafe { (*dispatch).status = error.code() };
    }

    /// Reads a configuration, tries to load what it switches on, and returns the lines of a
    /// report and whether all is well.
    pub fn check(&'static self, path: &Path) -> (Vec<String>, bool) {
        let known: Vec<&'static Module> = self.modules.iter().map(|(_, module)| *module).collect();
        let mut lines = Vec::new();
        let mut well = true;
        match config::read(path, &known) {
            Ok(config) => {
                well &= config.mistakes.is_empty();
                lines.extend(config.mistakes.iter().map(|mistake| format!("{}:{mistake}", path.display())));
                let own = self.modules.iter().zip(&config.settings).find(|((_, module), _)| is_plugin(module));
                let (_, unknown) = readers(own.map(|(_, own)| own.options.as_slice()).unwrap_or_default());
                well &= config.missing.is_empty() && unknown.is_empty();
                lines.extend(config.missing.iter().map(|name| format!("module {name}: not part of this version")));
                lines.extend(unknown.iter().map(|name| format!("{}: readers: no such {name}", path.display())));
            }
            Err(error) => return (vec![format!("{}: {error}", path.display())], false),
        }
        let process = self.process.get_or_init(|| start(self.modules, Some(path.to_owned())));
        let Some(workers) = &process.workers else { return (vec!["no thread could be started".to_owned()], false) };
        let (running, failed) = workers.modules.verdict();
        lines.extend(running.iter().map(|name| format!("module {name}: ok")));
        lines.extend(failed.iter().map(|(name, why)| format!("module {name}: {why}")));
        (lines, well && failed.is_empty())
    }

    /// Loads or unloads a module while the process runs.
    pub fn switch(&'static self, name: &str, on: bool) {
        let at = self.modules.iter().position(|(_, module)| module.name == name && module.shape.programs().is_some());
        let workers = self.process.get().and_then(|process| process.workers.as_ref());
        let (Some(at), Some(workers)) = (at, workers) else { return };
        workers.loader.run(move |loader| if on { loader.load(&[at]) } else { loader.unload(at) });
    }

    /// Runs `job` in a worker: what a test of its robustness does to it.
    pub fn run_in(&'static self, thread: Thread, job: impl FnOnce() + Send + 'static) {
        let Some(workers) = self.process.get().and_then(|process| process.workers.as_ref()) else { return };
        match thread {
            Thread::Load => workers.loader.run(|_| job()),
            Thread::Events => workers.modules.drain.run(|_| job()),
            Thread::Poll => workers.modules.poller.run(|_| job()),
        }
    }
}

/// Reads the configuration, starts the workers and has them load what is wanted.
fn start(list: &'static [(u16, &'static Module)], path: Option<PathBuf>) -> Process {
    let descriptors = HighDescriptors::raise();
    let (path, settings) = configuration(list, path);
    let own = list.iter().zip(&settings).find(|((_, module), _)| is_plugin(module));
    let options = own.map(|(_, own)| own.options.as_slice()).unwrap_or_default();
    let keeps_privileges = catalog::number(options, "privileges").unwrap_or(0) == 0;
    let start_wait = Duration::from_millis(catalog::number(options, "start_wait").unwrap_or(100).into());
    let (readers, unknown) = readers(options);
    if !unknown.is_empty() {
        log(
            Level::Error,
            &format!("option readers in [pmda]: found {}; accepted: those that exist", unknown.join(", ")),
        );
    }
    let slots = slots(list, &settings, path.as_deref());
    let wanted: Vec<usize> = list
        .iter()
        .zip(&settings)
        .enumerate()
        .filter_map(|(at, ((_, module), own))| (own.enabled && module.shape.programs().is_some()).then_some(at))
        .collect();
    let workers = start_workers(list, settings, &slots, keeps_privileges);
    let workers = match workers {
        Ok(workers) => Some(workers),
        Err(error) => {
            log(Level::Error, &format!("no module is loaded: no thread or descriptor is to be had: {error}"));
            for slot in wanted.iter().filter_map(|at| slots.get(*at)) {
                let why = Unavailable::Defect(format!("no thread or descriptor is to be had: {error}"));
                slot.state.publish(Arc::new(State::Unavailable(why)));
            }
            None
        }
    };
    let process = Process { slots, readers: Arc::new(readers), workers, start_wait, keeps_privileges };
    process.load(wanted);
    drop(descriptors);
    if pmda::is_server() {
        pmda::defer();
    }
    process
}

impl Process {
    fn load(&self, wanted: Vec<usize>) {
        let Some(workers) = &self.workers else { return };
        let (first, modules) = (Arc::clone(&workers.first), Arc::clone(&workers.modules));
        workers.loader.run(move |loader| {
            // whatever happens, nobody waits for ever
            let opened = Opened(first);
            loader.load(&wanted);
            drop(opened);
            let (running, failed) = modules.verdict();
            let names: Vec<&str> = failed.iter().map(|(name, _)| *name).collect();
            log(
                Level::Info,
                &format!(
                    "bpf pmda init complete, loaded modules ({}): {}, failed modules ({}): {}",
                    running.len(),
                    running.join(" "),
                    failed.len(),
                    names.join(" ")
                ),
            );
        });
        let limited = pmda::inside_pmcd() && self.keeps_privileges;
        workers.first.wait(limited.then_some(self.start_wait));
    }
}

fn slots(list: &[(u16, &'static Module)], settings: &[Settings], path: Option<&Path>) -> Arc<[Slot]> {
    let disabled =
        path.map_or_else(|| "disabled by default".to_owned(), |path| format!("disabled in {}", path.display()));
    list.iter()
        .zip(settings)
        .map(|((_, module), own)| {
            let state = match module.shape {
                Shape::Status => State::Own,
                _ if own.enabled => State::Loading,
                _ => State::Disabled(disabled.clone()),
            };
            let rows = catalog::number(&own.options, catalog::EVENT_ROWS.name).unwrap_or(1);
            Slot {
                state: Published::new(Arc::new(state)),
                events: matches!(module.shape, Shape::Events(_))
                    .then(|| Arc::new(Published::new(Arc::new(EventRows::new(rows))))),
                processes: matches!(module.shape, Shape::Polled(_))
                    .then(|| Arc::new(Published::new(Arc::new(TableRows::default())))),
            }
        })
        .collect()
}

fn start_workers(
    list: &'static [(u16, &'static Module)],
    settings: Vec<Settings>,
    slots: &Arc<[Slot]>,
    keeps: bool,
) -> std::io::Result<Workers> {
    let objects = list.iter().filter_map(|(_, module)| Some(module.shape.programs()?.object));
    let tracepoints = Tracepoints::read(objects);
    let mut drain = Drain::default();
    let catalog = Catalog::new(list);
    for (at, (slot, own)) in slots.iter().zip(&settings).enumerate() {
        if let Some(place) = &slot.events {
            let rows = catalog::number(&own.options, catalog::EVENT_ROWS.name).unwrap_or(1);
            drain.keep_log(at, EventLog::new(catalog.columns(at), rows, Arc::clone(place)));
        }
    }
    let drain = Worker::start("bpf-events", drain, ebpf::keep, privileges::only_changing_user)?;
    let poller = Worker::start("bpf-poll", Poller::default(), ebpf::keep, privileges::only_changing_user)?;
    let modules = Arc::new(Modules { list, settings, slots: Arc::clone(slots), tracepoints, drain, poller });
    let loader = Worker::start("bpf-load", Loader::new(Arc::clone(&modules), keeps), ebpf::keep, move || {
        if keeps && privileges::is_root() {
            privileges::keep();
        }
    })?;
    Ok(Workers { loader, modules, first: Arc::default() })
}

/// Whether a module is the plugin itself, whose section has the options of all.
const fn is_plugin(module: &Module) -> bool {
    matches!(module.shape, Shape::Status)
}

/// Those whom the configuration names, and the names that do not exist.
fn readers(options: &catalog::Values) -> (Readers, Vec<String>) {
    let list = options.iter().find_map(|(name, setting)| match setting {
        Setting::Text(text) if *name == "readers" => Some(text.as_str()),
        _ => None,
    });
    Readers::look_up(list.unwrap_or_default())
}

/// Where the configuration is, if it can be read, and what it says about every module. Mistakes
/// are logged.
fn configuration(
    modules: &'static [(u16, &'static Module)],
    path: Option<PathBuf>,
) -> (Option<PathBuf>, Vec<Settings>) {
    let known: Vec<&'static Module> = modules.iter().map(|(_, module)| *module).collect();
    let defaults = || known.iter().map(|module| Settings::default_of(module)).collect();
    let Some(path) = path else {
        log(Level::Warning, "PCP_PMDAS_DIR is not set: using defaults");
        return (None, defaults());
    };
    match config::read(&path, &known) {
        Ok(Config { settings, mistakes, missing }) => {
            for mistake in mistakes {
                log(Level::Error, &format!("{}:{mistake}", path.display()));
            }
            if !missing.is_empty() {
                let missing = missing.join(", ");
                log(
                    Level::Warning,
                    &format!("{}: switched on but not part of this version: {missing}", path.display()),
                );
            }
            (Some(path), settings)
        }
        Err(error) => {
            log(Level::Info, &format!("{}: {error}; using defaults", path.display()));
            (None, defaults())
        }
    }
}

/// `PMDA_BPFRS_CONFIG`, else `bpfrs/bpf.conf` in PCP's directory of agents.
fn config_path() -> Option<PathBuf> {
    match std::env::var_os("PMDA_BPFRS_CONFIG") {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(pmda::config(c"PCP_PMDAS_DIR")?.join("bpfrs/bpf.conf")),
    }
}
