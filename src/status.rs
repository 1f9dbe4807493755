//! The modules of this process: what became of each, and what can be told about it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::catalog::Fact;
use crate::ebpf::RunStats;
use crate::ebpf::Unavailable;
use crate::pmda::Atom;
use crate::pmda::Instances;
use crate::pmda::PmErr;
use crate::pmda::ValueSet;
use crate::source::EventRows;
use crate::source::Mapped;
use crate::source::Published;
use crate::source::TableRows;
use crate::workers::Pulse;

/// A module of this process.
#[derive(Debug)]
pub struct Slot {
    /// What became of it.
    pub state: Published<State>,
    /// The rows of an event module.
    pub events: Option<Arc<Published<EventRows>>>,
    /// The rows of a module with a table.
    pub processes: Option<Arc<Published<TableRows>>>,
}

/// What became of a module.
#[derive(Debug)]
pub enum State {
    /// It is not wanted: why.
    Disabled(String),
    /// It has no programs: the plugin itself.
    Own,
    /// It is being loaded.
    Loading,
    /// It runs.
    Running(Live),
    /// It cannot run here.
    Unavailable(Unavailable),
}

/// A module that runs.
#[derive(Debug)]
pub struct Live {
    /// Its memory.
    pub mapped: Arc<Mapped>,
    /// What the kernel counts about its programs.
    pub stats: Arc<Stats>,
    /// The worker that its values come through, if they do.
    pub worker: Option<Arc<Pulse>>,
}

/// What the kernel counts about a module's programs, asked once a second.
#[derive(Debug, Default)]
pub struct Stats {
    measured: AtomicBool,
    run_time: AtomicU64,
    run_count: AtomicU64,
    missed: AtomicU64,
}

impl Stats {
    /// Takes what the kernel says; `measured` is whether it measures time and runs.
    pub fn set(&self, stats: RunStats, measured: bool) {
        self.run_time.store(stats.run_time, Relaxed);
        self.run_count.store(stats.run_count, Relaxed);
        self.missed.store(stats.missed, Relaxed);
        self.measured.store(measured, Relaxed);
    }

    fn measured(&self, counter: &AtomicU64) -> Option<u64> {
        self.measured.load(Relaxed).then(|| counter.load(Relaxed))
    }
}

impl State {
    /// `bpf.module.state`.
    fn number(&self, trouble: Option<&str>) -> u32 {
        match self {
            Self::Disabled(_) => 0,
            Self::Unavailable(_) => 3,
            Self::Own | Self::Loading if trouble.is_some() => 4,
            Self::Own => 1,
            Self::Loading => 2,
            Self::Running(live) => {
                if live.trouble().is_some() {
                    4
                } else {
                    1
                }
            }
        }
    }

    /// `bpf.module.reason`.
    fn reason(&self, trouble: Option<&str>) -> String {
        let or = |well: &str| trouble.unwrap_or(well).to_owned();
        match self {
            Self::Disabled(why) => why.clone(),
            Self::Own => or("ok"),
            Self::Loading => or("being loaded"),
            Self::Unavailable(why) => why.to_string(),
            Self::Running(live) => live.trouble().unwrap_or_else(|| "ok".to_owned()),
        }
    }

    /// What a fetch of one of its metrics answers, `None` where it has values.
    #[must_use]
    pub const fn refusal(&self) -> Option<Option<PmErr>> {
        match self {
            Self::Disabled(_) => Some(None),
            Self::Own | Self::Running(_) => None,
            Self::Loading => Some(Some(PmErr::Again)),
            Self::Unavailable(Unavailable::Permission(_)) => Some(Some(PmErr::Permission)),
            Self::Unavailable(_) => Some(Some(PmErr::AppVersion)),
        }
    }

    /// The module, if it runs.
    #[must_use]
    pub const fn running(&self) -> Option<&Live> {
        match self {
            Self::Running(live) => Some(live),
            _ => None,
        }
    }
}

impl Live {
    fn trouble(&self) -> Option<String> {
        self.worker.as_ref()?.trouble()
    }

    /// What it could not record, and the runs that the kernel left out.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.mapped.lost().wrapping_add(self.stats.missed.load(Relaxed))
    }
}

/// Puts a fact about every module into `out`. `modules` are in the order of `instances`, each
/// with the age of its values; `trouble` is what is wrong with the worker that loads them.
pub fn values(
    fact: Fact,
    modules: &[(Arc<State>, Option<Duration>)],
    trouble: Option<&str>,
    instances: &Instances,
    out: &mut ValueSet<'_>,
) {
    let text: Vec<Option<String>> = modules
        .iter()
        .map(|(state, _)| match fact {
            Fact::Reason => Some(state.reason(trouble)),
            Fact::Hooks => state.running().map(|live| live.mapped.loaded().hooks.clone()),
            _ => None,
        })
        .collect();
    out.atoms(instances, |position, _| {
        let (state, age) = modules.get(position)?;
        let loaded = || state.running().map(|live| live.mapped.loaded());
        match fact {
            Fact::State => Some(Atom::U32(state.number(trouble))),
            Fact::Reason | Fact::Hooks => text.get(position)?.as_deref().map(Atom::Str),
            Fact::LoadTime => Some(Atom::U64(microseconds(loaded()?.load_time))),
            Fact::MapBytes => Some(Atom::U64(loaded()?.map_bytes)),
            Fact::RunTime => state.running().and_then(|live| live.stats.measured(&live.stats.run_time)).map(Atom::U64),
            Fact::RunCount => {
                state.running().and_then(|live| live.stats.measured(&live.stats.run_count)).map(Atom::U64)
            }
            Fact::Lost => Some(Atom::U64(state.running()?.lost())),
            Fact::Age => age.map(|age| Atom::U64(microseconds(age))),
        }
    });
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
