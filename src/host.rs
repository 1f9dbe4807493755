//! The modules of this process, loaded once and adopted by every interface.

#![allow(unsafe_code)]

use std::mem;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::ptr;
use std::thread;

use once_cell::sync::OnceCell;

use crate::agent::BpfAgent;
use crate::catalog;
use crate::catalog::Catalog;
use crate::catalog::Module;
use crate::catalog::Shape;
use crate::config;
use crate::config::Config;
use crate::config::Settings;
use crate::ebpf;
use crate::ebpf::HighDescriptors;
use crate::ebpf::Kernel;
use crate::ebpf::Unavailable;
use crate::pmda;
use crate::pmda::Dispatch;
use crate::pmda::Level;
use crate::pmda::log;
use crate::source::Mapped;
use crate::status::State;

/// A list of modules and, once the first interface has been initialised, what became of them.
pub struct Host {
    modules: &'static [(u16, &'static Module)],
    states: OnceCell<Vec<State>>,
}

impl Host {
    /// A host for these modules, none loaded yet.
    #[must_use]
    pub const fn new(modules: &'static [(u16, &'static Module)]) -> Self {
        Self { modules, states: OnceCell::new() }
    }

    /// The body of an init function. It fails only if libpcp_pmda refuses the interface: a
    /// module that cannot run is a fact to be shown, not a failure of the agent.
    ///
    /// # Safety
    /// `dispatch` points to an interface that lives as long as the process, as in PMDA(3).
    pub unsafe fn init(&'static self, dispatch: *mut Dispatch) {
        // SAFETY: the caller's promise, for every access in this function.
        let domain = unsafe { (*dispatch).domain };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let states = self.states.get_or_init(|| load_all(self.modules));
            let catalog = Catalog::new(self.modules);
            let (metrics, indoms) = (catalog.registered(), catalog.registered_indoms());
            let agent = BpfAgent::new(domain.unsigned_abs(), catalog, states);
            // SAFETY: the caller's promise.
            unsafe { pmda::register(dispatch, c"bpf", Box::new(agent), metrics, &indoms) }
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
}

fn load_all(modules: &'static [(u16, &'static Module)]) -> Vec<State> {
    let (path, settings) = configuration(modules);
    let wanted = |at: usize| settings.get(at).is_some_and(|own| own.enabled);
    let to_load: Vec<(usize, &Module, &catalog::Mapped)> = modules
        .iter()
        .enumerate()
        .filter_map(|(at, (_, module))| match &module.shape {
            Shape::Mapped(mapped) if wanted(at) => Some((at, *module, mapped)),
            _ => None,
        })
        .collect();
    let mut states: Vec<State> = modules
        .iter()
        .map(|(_, module)| match (&module.shape, &path) {
            (Shape::Status, _) => State::Own,
            (Shape::Mapped(_), Some(path)) => State::Disabled(format!("disabled in {}", path.display())),
            (Shape::Mapped(_), None) => State::Disabled("disabled by default".to_owned()),
        })
        .collect();
    if !to_load.is_empty() {
        let (kernel, descriptors) = (Kernel::read(), HighDescriptors::raise());
        let loaded = in_parallel(&to_load, |(at, module, mapped)| {
            let options = settings.get(*at).map(|own| own.options.as_slice()).unwrap_or_default();
            match ebpf::load(module.name, mapped, options, &kernel, &descriptors) {
                Ok(loaded) => State::Running(Mapped::new(loaded).into()),
                Err(unavailable) => State::Unavailable(unavailable),
            }
        });
        let panicked = || State::Unavailable(Unavailable::Defect("panic while loading".to_owned()));
        for ((at, ..), state) in to_load.iter().zip(loaded) {
            if let Some(place) = states.get_mut(*at) {
                *place = state.unwrap_or_else(panicked);
            }
        }
    }
    for (state, (_, module)) in states.iter().zip(modules) {
        if let State::Unavailable(why) = state {
            log(Level::Warning, &format!("module {} is unavailable: {why}", module.name));
        }
    }
    let running: Vec<&str> = states
        .iter()
        .zip(modules)
        .filter_map(|(state, (_, module))| matches!(state, State::Running(_)).then_some(module.name))
        .collect();
    log(Level::Info, &format!("bpf pmda init complete, running: {}", running.join(", ")));
    states
}

/// The results of `work` on every item; `None` of one that panicked. The last is done here,
/// each other one in a thread of its own. Signals belong to the host: the threads block all.
fn in_parallel<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<Option<T>> {
    let Some((last, others)) = items.split_last() else { return Vec::new() };
    let work = &work;
    thread::scope(|scope| {
        let blocked = BlockedSignals::all();
        let here = |item| catch_unwind(AssertUnwindSafe(|| work(item))).ok();
        let spawn = |item| thread::Builder::new().spawn_scoped(scope, move || work(item));
        // where no thread is to be had the work is done here all the same
        let threads: Vec<_> = others.iter().map(|item| spawn(item).map_err(|_| item)).collect();
        drop(blocked);
        let last = here(last);
        let others = threads.into_iter().map(|thread| match thread {
            Ok(thread) => thread.join().ok(),
            Err(item) => here(item),
        });
        others.chain([last]).collect()
    })
}

/// Threads started while it lives inherit a mask that blocks all signals.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn all() -> Self {
        // SAFETY: signal sets are plain data, filled before they are used; the mask is this
        // thread's own.
        unsafe {
            let mut all = mem::zeroed();
            let mut before = mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the mask is the one that was in force before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}

/// Where the configuration is, and what it says about every module. Mistakes are logged.
fn configuration(modules: &'static [(u16, &'static Module)]) -> (Option<PathBuf>, Vec<Settings>) {
    let known: Vec<&'static Module> = modules.iter().map(|(_, module)| *module).collect();
    let defaults = || known.iter().map(|module| Settings::default_of(module)).collect();
    let Some(path) = config_path() else {
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
