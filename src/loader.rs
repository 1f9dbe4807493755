//! The privileged worker: loads and unloads modules at any time, also when the process has left
//! root, and asks the kernel what it counts about their programs.

use std::fs;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::catalog;
use crate::catalog::Module;
use crate::catalog::Shape;
use crate::config::Settings;
use crate::ebpf;
use crate::ebpf::Kernel;
use crate::ebpf::Loaded;
use crate::ebpf::Tracepoints;
use crate::ebpf::Unavailable;
use crate::pmda::Level;
use crate::pmda::log;
use crate::pmda::panic_text;
use crate::pmda::with_signals_blocked;
use crate::privileges;
use crate::source::Drain;
use crate::source::Mapped;
use crate::source::Poller;
use crate::source::Table;
use crate::status::Live;
use crate::status::Slot;
use crate::status::State;
use crate::status::Stats;
use crate::workers::Duty;
use crate::workers::Worker;

/// How often the kernel is asked about programs, and whether the user has changed.
const PERIOD: Duration = Duration::from_secs(1);
/// For so long after the start the user may change.
const SETTLING: Duration = Duration::from_secs(60);

/// What is known about the modules, in the order of their list.
pub struct Modules {
    /// Cluster numbers and tables.
    pub list: &'static [(u16, &'static Module)],
    /// What the configuration says of each.
    pub settings: Vec<Settings>,
    /// What becomes of each.
    pub slots: Arc<[Slot]>,
    /// Read while the process was root.
    pub tracepoints: Tracepoints,
    /// Reads rings.
    pub drain: Worker<Drain>,
    /// Looks through tables.
    pub poller: Worker<Poller>,
}

/// How far the worker is with giving up what it will not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It holds what pmcd held.
    Waiting,
    /// The modules that the configuration wants have been loaded, or that has failed.
    Begun,
    /// It holds what loading and a change of the user need.
    Reduced,
    /// It holds what loading needs.
    Settled,
}

/// The duty of the privileged worker.
pub struct Loader {
    modules: Arc<Modules>,
    /// Privileges are kept when the process leaves root.
    keeps: bool,
    stage: Stage,
    /// Memory of unloaded modules that readers may still hold: it is given back here, not in
    /// the host's thread.
    unloaded: Vec<Arc<Mapped>>,
    started: Instant,
    asked: Option<Instant>,
}

impl Loader {
    /// One that has loaded nothing yet.
    #[must_use]
    pub fn new(modules: Arc<Modules>, keeps: bool) -> Self {
        Self { modules, keeps, stage: Stage::Waiting, unloaded: Vec::new(), started: Instant::now(), asked: None }
    }

    /// Loads the modules at these positions, as many at a time as there are CPUs, and says
    /// what became of all. Those that run are left alone.
    pub fn load(&mut self, wanted: &[usize]) {
        if self.stage == Stage::Waiting {
            self.stage = Stage::Begun;
        }
        self.asked = None;
        let modules = &*self.modules;
        let runs = |at: usize| modules.slots.get(at).is_some_and(|slot| slot.state.reader().get().running().is_some());
        let wanted: Vec<usize> = wanted.iter().copied().filter(|at| !runs(*at)).collect();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let kernel = Kernel::read(modules.tracepoints.clone());
            in_parallel(&wanted, |at| {
                let whole = || modules.install(*at, modules.load(*at, &kernel));
                if let Err(panic) = catch_unwind(AssertUnwindSafe(whole)) {
                    modules.fail(*at, panic_text(panic.as_ref()));
                }
            });
        }));
        if let Err(panic) = outcome {
            wanted.iter().for_each(|at| modules.fail(*at, panic_text(panic.as_ref())));
        }
    }

    /// Gives up what will not be needed. Until the first modules have been loaded that is
    /// nothing: kernels whose perf_event_paranoid is 3, as Debian's is, open tracepoints for
    /// CAP_SYS_ADMIN only, and so is the BTF of modules of the kernel.
    fn settle(&mut self) {
        let next = match self.stage {
            Stage::Begun | Stage::Reduced if !privileges::is_root() => Stage::Settled,
            Stage::Begun => Stage::Reduced,
            Stage::Waiting | Stage::Reduced | Stage::Settled => return,
        };
        match (self.keeps, next) {
            (false, _) => privileges::only_changing_user(),
            (true, Stage::Settled) => privileges::only_loading(),
            (true, _) => privileges::only_loading_and_changing_user(),
        }
        self.stage = next;
    }

    /// Detaches and unloads a module.
    pub fn unload(&mut self, at: usize) {
        let modules = &*self.modules;
        let Some(slot) = modules.slots.get(at) else { return };
        if let Some(live) = slot.state.reader().get().running() {
            live.mapped.loaded().detach();
            self.unloaded.push(Arc::clone(&live.mapped));
        }
        modules.drain.run(move |drain| drain.close(at));
        modules.poller.run(move |poller| poller.close(at));
        slot.state.publish(Arc::new(State::Disabled("switched off".to_owned())));
    }

    fn ask_kernel(&self) {
        let measured = stats_are_on();
        for slot in self.modules.slots.iter() {
            if let Some(live) = slot.state.reader().get().running() {
                if let Ok(stats) = live.mapped.loaded().run_stats() {
                    live.stats.set(stats, measured);
                }
            }
        }
    }
}

impl Duty for Loader {
    fn turn(&mut self) -> Option<Instant> {
        self.settle();
        self.unloaded.retain(|mapped| Arc::strong_count(mapped) > 1);
        let now = Instant::now();
        if self.asked.is_none_or(|asked| now >= asked + PERIOD) {
            self.asked = Some(now);
            self.ask_kernel();
        }
        let any = self.modules.slots.iter().any(|slot| slot.state.reader().get().running().is_some());
        let soon = any || !self.unloaded.is_empty() || self.started.elapsed() < SETTLING;
        if soon {
            return self.asked.map(|asked| asked + PERIOD);
        }
        // the user may still change, late
        (self.stage != Stage::Settled).then(|| now + SETTLING)
    }
}

impl Modules {
    fn load(&self, at: usize, kernel: &Kernel) -> Result<Loaded, Unavailable> {
        let (Some((_, module)), Some(settings)) = (self.list.get(at), self.settings.get(at)) else {
            return Err(Unavailable::Defect("no such module".to_owned()));
        };
        match ebpf::load(module, &settings.options, kernel) {
            // the user has changed meanwhile
            Err(Unavailable::Permission(_)) if privileges::raise() => ebpf::load(module, &settings.options, kernel),
            outcome => outcome,
        }
    }

    /// Publishes that loading a module panicked.
    fn fail(&self, at: usize, why: &str) {
        self.install(at, Err(Unavailable::Defect(format!("panic while loading: {why}"))));
    }

    /// Publishes what became of a module and hands its ring or table to the worker concerned.
    fn install(&self, at: usize, outcome: Result<Loaded, Unavailable>) {
        let (Some((_, module)), Some(slot)) = (self.list.get(at), self.slots.get(at)) else { return };
        let mut loaded = match outcome {
            Ok(loaded) => loaded,
            Err(why) => {
                log(Level::Warning, &format!("module {} is unavailable: {why}", module.name));
                return slot.state.publish(Arc::new(State::Unavailable(why)));
            }
        };
        let stats = Arc::new(Stats::default());
        if let Ok(first) = loaded.run_stats() {
            stats.set(first, stats_are_on());
        }
        let mut worker = None;
        if let Some((ring, layout)) = loaded.ring.take() {
            worker = Some(self.drain.pulse());
            self.drain.run(move |drain| drain.open(at, ring, layout));
        }
        let mapped = Arc::new(Mapped::new(loaded));
        if let (Shape::Polled(polled), Some(place)) = (&module.shape, &slot.processes) {
            let options = self.settings.get(at).map(|own| own.options.as_slice()).unwrap_or_default();
            let linger = Duration::from_secs(catalog::number(options, polled.linger).unwrap_or(0).into());
            let table = Table::new(Arc::clone(&mapped), linger, Arc::clone(place));
            worker = Some(self.poller.pulse());
            self.poller.run(move |poller| poller.open(at, table));
        }
        slot.state.publish(Arc::new(State::Running(Live { mapped, stats, worker })));
    }

    /// The names of those that run, and of those that do not with the reason.
    #[must_use]
    pub fn verdict(&self) -> (Vec<&'static str>, Vec<(&'static str, String)>) {
        let (mut running, mut failed) = (Vec::new(), Vec::new());
        for (slot, (_, module)) in self.slots.iter().zip(self.list) {
            match &**slot.state.reader().get() {
                State::Running(_) => running.push(module.name),
                State::Unavailable(why) => failed.push((module.name, why.to_string())),
                State::Loading => failed.push((module.name, "still being loaded".to_owned())),
                State::Disabled(_) | State::Own => {}
            }
        }
        (running, failed)
    }
}

/// Whether the kernel measures programs.
fn stats_are_on() -> bool {
    fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.trim() == "1")
}

/// Does `work` on every item, on as many threads as there are CPUs.
fn in_parallel<I: Sync>(items: &[I], work: impl Fn(&I) + Sync) {
    let next = AtomicUsize::new(0);
    let take = || {
        while let Some(item) = items.get(next.fetch_add(1, Relaxed)) {
            work(item);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    thread::scope(|scope| {
        with_signals_blocked(|| {
            for _ in 1..threads {
                // where no thread is to be had this one does it all
                let _ = thread::Builder::new().name("bpf-load".to_owned()).spawn_scoped(scope, take);
            }
        });
        take();
    });
}
