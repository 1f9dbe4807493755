//! What an event costs in the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::FromRawFd as _;
use std::thread;
use std::time::Instant;

use libbpf_rs::query::ProgInfoIter;

use crate::Line;
use crate::common;
use crate::common::Scratch;
use crate::common::block::direct_reads;
use crate::common::block::reads;
use crate::common::pmcd::StockTree;
use crate::median;
use crate::processes::Held;

const TRIPS: usize = 5_000;
const ROUNDS: usize = 40;

/// Keeps the calling thread on one CPU.
pub fn pin(cpu: usize) {
    // SAFETY: the set is plain data; the calling thread pins itself.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
    }
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: there is place for two descriptors, and nobody else owns them.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

/// Nanoseconds per round trip of a byte between two threads on one CPU.
fn ping_pong() -> f64 {
    let (mut here, mut to_there) = pipe();
    let (mut back, mut to_here) = pipe();
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
    let config = scratch.file("bpf.conf", "[biolatency]\nenabled = false\n[netatop]\nenabled = false\n");
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

/// Name, nanoseconds and runs of every program by its number, as the kernel measures them.
fn programs() -> BTreeMap<u32, (String, f64, f64)> {
    let all = ProgInfoIter::default();
    all.map(|own| (own.id, (own.name.to_string_lossy().into_owned(), own.run_time_ns as f64, own.run_cnt as f64)))
        .collect()
}

/// Each attached alone, in turn, since programs on one hook warm the caches for those behind
/// them. What measuring itself costs is what a program that does nothing reads.
pub fn block(_: &StockTree) -> Vec<Line> {
    const READS: u64 = 10_000;
    let stock = StockTree::new(&["biolatency"]);
    let scratch = Scratch::new("bench-block");
    let config = scratch.file("bpf.conf", "[runqlat]\nenabled = false\n[netatop]\nenabled = false\n");
    let file = scratch.path().join("data");
    let file = file.to_str().unwrap();
    let switch = "/proc/sys/kernel/bpf_stats_enabled";
    let was = fs::read_to_string(switch).unwrap();
    fs::write(switch, "1").unwrap();
    direct_reads(file, 2_000);
    // nanoseconds of all programs per read, and programs run per read
    let spent = |held: Held, programs_of: &str, depth: u32| {
        let before = programs();
        reads(file, READS, depth);
        let after = programs();
        drop(held);
        let mut sum = (0.0, 0.0);
        for (id, (name, time, runs)) in after {
            if name.starts_with(programs_of) {
                let (_, time_then, runs_then) = before.get(&id).cloned().unwrap_or_default();
                sum = (sum.0 + time - time_then, sum.1 + runs - runs_then);
            }
        }
        // the block layer may merge some of what is in flight
        assert!(sum.1 >= 0.9 * READS as f64, "{programs_of} did not run");
        (sum.0 / READS as f64, sum.1 / READS as f64)
    };
    let mut lines = Vec::new();
    for depth in [1, 32] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            let empty = Held::with_entry(&common::test_agent(), "empty_init", &stock, "/nonexistent");
            let (empty, runs) = spent(empty, "on_io_empty", depth);
            let net = |(time, count): (f64, f64)| time - count * empty / runs;
            let held = Held::new(&common::plugin(), &stock, config.to_str().unwrap());
            ours.push(net(spent(held, "on_io_done", depth)));
            let held = Held::new(&stock.plugin(), &stock, "/nonexistent");
            theirs.push(net(spent(held, "block_rq_", depth)));
        }
        let what = format!("programs per block request, {depth} in flight, net of an empty program; stock's three");
        lines.push(Line::new(what, median(ours), median(theirs), "ns", Some(0.1)));
    }
    fs::write(switch, was).unwrap();
    lines
}

/// What execsnoop's programs take for a new program, as the kernel measures them, measuring
/// itself taken off.
pub fn execs(_: &StockTree) -> Vec<Line> {
    const TIMES: u32 = 1_000;
    let only = "[runqlat]\nenabled = false\n[biolatency]\nenabled = false\n[netatop]\nenabled = false\n\
                [execsnoop]\nenabled = true\n";
    let scratch = Scratch::new("bench-execs");
    let config = scratch.file("bpf.conf", only);
    let tree = StockTree::new(&["execsnoop"]);
    let switch = "/proc/sys/kernel/bpf_stats_enabled";
    let was = fs::read_to_string(switch).unwrap();
    fs::write(switch, "1").unwrap();
    let spent = |held: Held, names: &[&str]| {
        let before = programs();
        for _ in 0..TIMES {
            assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        }
        let after = programs();
        drop(held);
        let mut sum = 0.0;
        for (id, (name, time, runs)) in after {
            if names.iter().any(|own| name.starts_with(own)) {
                let (_, time_then, runs_then) = before.get(&id).cloned().unwrap_or_default();
                // what a program that does nothing reads
                sum += time - time_then - 75.0 * (runs - runs_then);
            }
        }
        sum / f64::from(TIMES)
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        let held = Held::new(&common::plugin(), &tree, config.to_str().unwrap());
        ours.push(spent(held, &["on_exec"]));
        let held = Held::new(&tree.plugin(), &tree, "/nonexistent");
        theirs.push(spent(held, &["tracepoint__sys", "tracepoint__"]));
    }
    fs::write(switch, was).unwrap();
    vec![Line::new("programs per new program; stock's two", median(ours), median(theirs), "ns", None)]
}

/// Datagrams to oneself.
pub fn traffic(_: &StockTree) -> Vec<Line> {
    let once = || {
        const TIMES: u32 = 20_000;
        pin(1);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(socket.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 64];
        let start = Instant::now();
        for _ in 0..TIMES {
            socket.send(&[0; 64]).unwrap();
            socket.recv(&mut buffer).unwrap();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
    };
    let stock = StockTree::new(&[]);
    let scratch = Scratch::new("bench-traffic");
    let config = scratch.file("bpf.conf", "[runqlat]\nenabled = false\n[biolatency]\nenabled = false\n");
    let (mut with, mut without) = (Vec::new(), Vec::new());
    once();
    for _ in 0..15 {
        without.push(once());
        let held = Held::new(&common::plugin(), &stock, config.to_str().unwrap());
        with.push(once());
        drop(held);
    }
    vec![Line::new("a send and a receive over UDP with the plugin; without", median(with), median(without), "ns", None)]
}
