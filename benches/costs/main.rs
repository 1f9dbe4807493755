//! What the plugin costs, beside the stock plugin that PCP ships, in one table.
//!
//! Only ratios are meant to be read: whatever is compared is run in turn, many times, on the
//! same machine at the same time, and the medians are divided.

#![allow(missing_docs, unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../tests/common/mod.rs"]
mod common;

mod events;
mod fetch;
mod load;
mod processes;

use std::env;
use std::process::Command;

use common::pmcd::StockTree;

/// One line of the table.
pub struct Line {
    pub what: String,
    pub ours: String,
    pub other: String,
    pub ratio: Option<f64>,
    pub target: Option<f64>,
}

impl Line {
    pub fn new(what: impl Into<String>, ours: f64, other: f64, unit: &str, target: Option<f64>) -> Self {
        let text = |value: f64| format!("{value:.*} {unit}", usize::from(value < 100.0) + usize::from(value < 10.0));
        Self { what: what.into(), ours: text(ours), other: text(other), ratio: Some(ours / other), target }
    }

    fn print(&self) {
        let ratio = self.ratio.map_or(String::new(), |ratio| format!("{ratio:.4}"));
        let target = self.target.map_or(String::new(), |target| {
            let missed = self.ratio.is_some_and(|ratio| ratio > target);
            format!("<= {target}{}", if missed { " !" } else { "" })
        });
        println!("| {} | {} | {} | {ratio} | {target} |", self.what, self.ours, self.other);
    }

    /// A measurement with nothing beside it, or with a limit in its own unit.
    pub fn alone(what: impl Into<String>, ours: f64, unit: &str, limit: Option<f64>) -> Self {
        let other = limit.map_or(String::new(), |limit| format!("at most {limit} {unit}"));
        let mark = limit.is_some_and(|limit| ours > limit);
        let ours = format!(
            "{ours:.*} {unit}{}",
            usize::from(ours < 100.0) + usize::from(ours < 10.0),
            if mark { " !" } else { "" }
        );
        Self { what: what.into(), ours, other, ratio: None, target: None }
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let after = |flag: &str| arguments.iter().position(|own| own == flag).and_then(|at| arguments.get(at + 1));
    if let Some(path) = after("--startup") {
        return processes::startup_child(path);
    }
    if let Some(path) = after("--hold") {
        return processes::hold_child(path);
    }
    common::needs_root();
    type Measure = fn(&StockTree) -> Vec<Line>;
    let sections: [(&str, Measure); 10] = [
        ("fetch in a local context", fetch::local),
        ("fetch through pmcd", fetch::through_pmcd),
        ("growth", fetch::growth),
        ("start-up", processes::startup),
        ("memory", processes::memory),
        ("run queue events", events::run_queue),
        ("block I/O", events::block),
        ("execs", events::execs),
        ("traffic", events::traffic),
        ("load", load::heavy),
    ];
    if let Some(name) = after("--section") {
        let stock = StockTree::new(&["runqlat", "biolatency"]);
        for (_, measure) in sections.iter().filter(|(own, _)| own == name) {
            measure(&stock).iter().for_each(Line::print);
        }
        return;
    }
    let only = arguments.iter().skip(1).find(|own| !own.starts_with("--"));
    println!("| what | ours | beside it | ratio | target |\n|---|---|---|---|---|");
    // each in a process of its own: what one has loaded into itself would cost the next
    for (name, _) in sections.iter().filter(|(name, _)| only.is_none_or(|only| name.contains(only.as_str()))) {
        let section = Command::new(env::current_exe().unwrap()).args(["--section", name]).status().unwrap();
        assert!(section.success(), "{name}: {section}");
    }
}
