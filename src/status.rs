//! The modules of this process: what became of each, and what can be told about it.

use std::fs;
use std::sync::Arc;

use crate::catalog::Fact;
use crate::ebpf::Unavailable;
use crate::pmda::Atom;
use crate::pmda::Instances;
use crate::pmda::PmErr;
use crate::pmda::ValueSet;
use crate::source::Mapped;

/// What became of a module.
#[derive(Debug)]
pub enum State {
    /// The configuration says no, or its default does.
    Disabled(String),
    /// It has no programs: the plugin itself.
    Own,
    /// It runs.
    Running(Arc<Mapped>),
    /// It cannot run here.
    Unavailable(Unavailable),
}

impl State {
    /// `bpf.module.state`.
    const fn number(&self) -> u32 {
        match self {
            Self::Disabled(_) => 0,
            Self::Own | Self::Running(_) => 1,
            Self::Unavailable(_) => 3,
        }
    }

    /// `bpf.module.reason`.
    fn reason(&self) -> String {
        match self {
            Self::Disabled(why) => why.clone(),
            Self::Own | Self::Running(_) => "ok".to_owned(),
            Self::Unavailable(why) => why.to_string(),
        }
    }

    /// What a fetch of one of its metrics answers, `None` where it has values.
    #[must_use]
    pub const fn refusal(&self) -> Option<Option<PmErr>> {
        match self {
            Self::Disabled(_) => Some(None),
            Self::Own | Self::Running(_) => None,
            Self::Unavailable(Unavailable::Permission(_)) => Some(Some(PmErr::Permission)),
            Self::Unavailable(_) => Some(Some(PmErr::AppVersion)),
        }
    }

    const fn running(&self) -> Option<&Arc<Mapped>> {
        match self {
            Self::Running(mapped) => Some(mapped),
            _ => None,
        }
    }
}

/// Puts a fact about every module into `out`. `states` are in the order of `instances`.
pub fn values(fact: Fact, states: &[State], instances: &Instances, out: &mut ValueSet<'_>) {
    let text: Vec<Option<String>> = states
        .iter()
        .map(|state| match fact {
            Fact::Reason => Some(state.reason()),
            Fact::Hooks => state.running().map(|mapped| mapped.loaded().hooks.clone()),
            _ => None,
        })
        .collect();
    let measured = matches!(fact, Fact::RunTime | Fact::RunCount) && stats_are_on();
    out.atoms(instances, |position, _| {
        let state = states.get(position)?;
        let loaded = || state.running().map(|mapped| mapped.loaded());
        match fact {
            Fact::State => Some(Atom::U32(state.number())),
            Fact::Reason | Fact::Hooks => text.get(position)?.as_deref().map(Atom::Str),
            Fact::LoadTime => Some(Atom::U64(u64::try_from(loaded()?.load_time.as_micros()).unwrap_or(u64::MAX))),
            Fact::MapBytes => Some(Atom::U64(loaded()?.map_bytes)),
            Fact::RunTime if measured => Some(Atom::U64(loaded()?.run_stats().ok()?.run_time)),
            Fact::RunCount if measured => Some(Atom::U64(loaded()?.run_stats().ok()?.run_count)),
            Fact::RunTime | Fact::RunCount => None,
            Fact::Lost => {
                let mapped = state.running()?;
                Some(Atom::U64(mapped.lost() + mapped.loaded().run_stats().ok()?.missed))
            }
            Fact::Age => state.running().map(|_| Atom::U64(0)),
        }
    });
}

/// Whether the kernel measures programs.
fn stats_are_on() -> bool {
    fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.trim() == "1")
}
