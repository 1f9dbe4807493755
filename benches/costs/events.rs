//! What an event costs in the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::io::pipe;
use std::thread;
use std::time::Instant;

use libbpf_rs::query::ProgInfoIter;

use crate::Line;
use crate::common;
use crate::common::Scratch;
use crate::common::block::direct_reads;
use crate::common::pmcd::StockTree;
use crate::median;
use crate::processes::Held;

const TRIPS: usize = 5_000;
const ROUNDS: usize = 40;

fn pin(cpu: usize) {
    // SAFETY: the set is plain data; the calling thread pins itself.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
    }
}

/// Nanoseconds per round trip of a byte between two threads on one CPU.
fn ping_pong() -> f64 {
    let (mut here, mut to_there) = pipe().unwrap();
    let (mut back, mut to_here) = pipe().unwrap();
    let other = thread::spawn(move || {
        pin(1);
        let mut byte = [0];
        while here.read(&mut byte).unwrap() == 1 && byte[0] == 1 {
            to_here.write_all(&byte).unwrap();
        }
    });
    let own = thread::spawn(move || {
        pin(1);
        let mut byte = [1];
        let mut trip = || {
            to_there.write_all(&[1]).unwrap();
            back.read_exact(&mut byte).unwrap();
        };
        (0..500).for_each(|_| trip());
        let start = Instant::now();
        (0..TRIPS).for_each(|_| trip());
        let nanoseconds = start.elapsed().as_secs_f64() * 1e9 / TRIPS as f64;
        to_there.write_all(&[0]).unwrap();
        nanoseconds
    });
    let nanoseconds = own.join().unwrap();
    other.join().unwrap();
    nanoseconds
}

pub fn run_queue(_: &StockTree) -> Vec<Line> {
    let stock = StockTree::new(&["runqlat"]);
    let scratch = Scratch::new("bench-runq");
    let config = scratch.file("bpf.conf", "[biolatency]\nenabled = false\n");
    let config = config.to_str().unwrap();
    let (mut none, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        none.push(ping_pong());
        let held = Held::new(&common::plugin(), &stock, config);
        ours.push(ping_pong());
        drop(held);
        let held = Held::new(&stock.plugin(), &stock, config);
        theirs.push(ping_pong());
        drop(held);
    }
    let added = |with: &[f64]| median(with.iter().zip(&none).map(|(with, none)| with - none).collect());
    let (own, other) = (added(&ours), added(&theirs));
    vec![
        Line::new(
            "added to a round trip between two threads (2 switches, 2 wake-ups); stock",
            own,
            other,
            "ns",
            Some(0.45),
        ),
        Line::new("a round trip with the plugin; without", median(ours), median(none), "ns", None),
    ]
}

/// Nanoseconds and runs of every program by name, as the kernel measures them.
fn programs() -> BTreeMap<String, (f64, f64)> {
    let mut found = BTreeMap::new();
    for program in ProgInfoIter::default() {
        let sum = found.entry(program.name.to_string_lossy().into_owned()).or_insert((0.0, 0.0));
        sum.0 += program.run_time_ns as f64;
        sum.1 += program.run_cnt as f64;
    }
    found
}

/// All attached at once, so that every request runs all programs. What measuring itself costs
/// is what a program that does nothing reads.
pub fn block(_: &StockTree) -> Vec<Line> {
    const READS: u64 = 20_000;
    let stock = StockTree::new(&["biolatency"]);
    let scratch = Scratch::new("bench-block");
    let config = scratch.file("bpf.conf", "[runqlat]\nenabled = false\n");
    let file = scratch.path().join("data");
    let switch = "/proc/sys/kernel/bpf_stats_enabled";
    let was = fs::read_to_string(switch).unwrap();
    let held = [
        Held::new(&common::plugin(), &stock, config.to_str().unwrap()),
        Held::new(&stock.plugin(), &stock, "/nonexistent"),
        Held::with_entry(&common::test_agent(), "empty_init", &stock, "/nonexistent"),
    ];
    fs::write(switch, "1").unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    direct_reads(file.to_str().unwrap(), 2_000);
    for _ in 0..5 {
        let before = programs();
        direct_reads(file.to_str().unwrap(), READS);
        let after = programs();
        let each = |name: &str| {
            let (now, then) = (after[name], before[name]);
            ((now.0 - then.0) / (now.1 - then.1), now.1 - then.1)
        };
        let empty = each("on_io_empty").0;
        let (one, requests) = each("on_io_done");
        ours.push(one - empty);
        let stock_programs = ["block_rq_insert", "block_rq_issue", "block_rq_comple"];
        theirs.push(
            stock_programs
                .iter()
                .filter_map(|name| after.keys().find(|own| own.starts_with(name)))
                .map(|name| (each(name).0 - empty) * each(name).1 / requests)
                .sum(),
        );
    }
    fs::write(switch, was).unwrap();
    drop(held);
    vec![Line::new(
        "programs per block request, net of an empty program; stock's three",
        median(ours),
        median(theirs),
        "ns",
        Some(0.1),
    )]
}
