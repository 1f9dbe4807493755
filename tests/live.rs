//! Values against other sources of the same truth: fio, /proc/diskstats, /proc/*/schedstat,
//! the stock plugin. One test at a time: each puts the host under a load of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use common::Scratch;
use common::Values;
use common::alone;
use common::block::Diskstats;
use common::block::Loop;
use common::block::buffered_writes;
use common::block::direct_reads;
use common::block::diskstats;
use common::block::settle;
use common::buckets;
use common::load::Scheduling;
use common::number;
use common::plugin;
use common::pmcd::As;
use common::pmcd::Pmcd;
use common::pmcd::StockTree;
use common::slow;
use common::wait_for;

fn near(what: &str, found: u64, expected: u64, share: f64) {
    let off = found.abs_diff(expected) as f64 / expected.max(1) as f64;
    println!("{what}: {found}, expected {expected}, off by {:.3} %", off * 100.0);
    assert!(off <= share, "{what}: {found}, expected {expected}");
}

fn of_disk(values: &Values, metric: &str, disk: &str) -> u64 {
    values.get(metric).and_then(|own| own.get(disk)).map_or(0, |value| value.parse().unwrap())
}

#[test]
fn direct_reads_are_counted_one_by_one() {
    let _alone = alone();
    let scratch = Scratch::new("reads");
    let image = scratch.file("image", vec![0; 64 << 20]);
    let device = Loop::new(101, &image);
    let pmcd = Pmcd::with("reads", &plugin(), As::Foreground, None);
    let name = device.name();
    let before = pmcd.values(&["bpf.disk.dev"]);
    direct_reads(&device.device(), 3_000);
    let after = pmcd.values(&["bpf.disk.dev"]);
    for stage in ["latency", "queue", "total"] {
        let metric = format!("bpf.disk.dev.{stage}_count");
        assert_eq!(of_disk(&after, &metric, &name) - of_disk(&before, &metric, &name), 3_000, "{metric}");
    }
    let counted: u64 = buckets(&after, "bpf.disk.dev.latency", &format!("{name}::")).iter().sum();
    assert_eq!(counted, of_disk(&after, "bpf.disk.dev.latency_count", &name));
    assert_eq!(of_disk(&after, "bpf.disk.dev.unstamped", &name), 0);
    // queue and device add up to the total, but for the rounding of each to microseconds
    let sum = |stage: &str| of_disk(&after, &format!("bpf.disk.dev.{stage}_sum"), &name);
    assert!(
        sum("total").abs_diff(sum("queue") + sum("latency")) <= 2,
        "{} {} {}",
        sum("total"),
        sum("queue"),
        sum("latency")
    );
    let labels = common::stdout(pmcd.command("pminfo").args(["-l", "bpf.disk.dev.latency_count"]));
    assert!(labels.lines().any(|line| line.contains(&name) && line.contains(r#""stacked":true"#)), "{labels}");
}

/// Both counts at a moment between two requests: the disk did nothing while we looked.
fn quiet_moment(pmcd: &Pmcd, disk: &str) -> (Diskstats, Values) {
    settle(disk);
    wait_for("a moment without a request", || {
        let before = diskstats(disk);
        let values = pmcd.values(&["bpf.disk", "bpf.module"]);
        (diskstats(disk).requests == before.requests).then_some((before, values))
    })
}

/// So many that what this kind of machine hides stays far below the bound. An emulated one is
/// alone with its disk and hides nothing.
fn many_reads() -> u64 {
    if slow() > 1 { 3_000 } else { 12_000 }
}

#[test]
fn the_population_is_that_of_diskstats() {
    let _alone = alone();
    let scratch = Scratch::new("diskstats");
    let file = scratch.path().join("file");
    let disk = "vda";
    let pmcd = Pmcd::with("diskstats", &plugin(), As::Foreground, None);
    let total = |values: &Values, what: &str| of_disk(values, &format!("bpf.disk.dev.total_{what}"), disk);
    let (stats, values) = quiet_moment(&pmcd, disk);
    buffered_writes(file.to_str().unwrap());
    direct_reads(file.to_str().unwrap(), many_reads());
    let (stats_after, values_after) = quiet_moment(&pmcd, disk);
    let requests = stats_after.requests - stats.requests;
    assert!(requests > many_reads(), "only {requests} requests");
    near("requests", total(&values_after, "count") - total(&values, "count"), requests, 0.01);
    let lost = |values: &Values| number(values, "bpf.module.lost", "biolatency");
    println!("counted as lost: {}", lost(&values_after) - lost(&values));
    // diskstats keeps nanoseconds per request and shows milliseconds
    let milliseconds = (total(&values_after, "sum") - total(&values, "sum")) / 1000;
    near("milliseconds", milliseconds, stats_after.milliseconds - stats.milliseconds, 0.03);
    // no stacked disk had a request: the host is the sum of its disks
    for stage in ["latency", "queue", "total"] {
        let host = number(&values_after, &format!("bpf.disk.all.{stage}_count"), "");
        let disks = values_after[&format!("bpf.disk.dev.{stage}_count")].iter();
        let sum: u64 =
            disks.filter(|(name, _)| !name.starts_with("loop")).map(|(_, n)| n.parse::<u64>().unwrap()).sum();
        assert_eq!(host, sum, "{stage}");
    }
}

#[test]
fn the_tracepoint_of_older_kernels_counts_the_same() {
    let _alone = alone();
    let scratch = Scratch::new("older");
    let file = scratch.path().join("file");
    let agent = common::test_agent();
    let pmns = common::root().join("pmns/root_bpf");
    let pmcd = Pmcd::start("older", &[("bpf", 157, "older_init", &agent)], &[&pmns], As::Foreground, None);
    let count = |values: &Values| of_disk(values, "bpf.disk.dev.total_count", "vda");
    let (stats, values) = quiet_moment(&pmcd, "vda");
    assert_eq!(values["bpf.module.hooks"]["biolatency"], "tp_btf/block_rq_complete");
    buffered_writes(file.to_str().unwrap());
    direct_reads(file.to_str().unwrap(), many_reads());
    let (stats_after, values_after) = quiet_moment(&pmcd, "vda");
    near("requests", count(&values_after) - count(&values), stats_after.requests - stats.requests, 0.01);
}

#[test]
fn disks_come_and_go_and_the_rest_is_added_up() {
    let _alone = alone();
    let scratch = Scratch::new("disks");
    let image = scratch.file("image", vec![0; 64 << 20]);
    let config = scratch.file("bpf.conf", "[biolatency]\ndisks = 2\n");
    let pmcd = Pmcd::with("disks", &plugin(), As::Foreground, Some(&config));
    let count = |name: &str| of_disk(&pmcd.values(&["bpf.disk.dev.total_count"]), "bpf.disk.dev.total_count", name);
    let id = |name: &str| {
        let text = common::stdout(pmcd.command("pminfo").args(["-f", "bpf.disk.dev.total_count"]));
        let line = text.lines().find(|line| line.contains(&format!("\"{name}\""))).unwrap_or_else(|| panic!("{text}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let first = Loop::new(101, &image);
    direct_reads(&first.device(), 100);
    let before = id("loop101");
    assert_eq!(count("loop101"), 100);
    drop(first);
    assert_eq!(count("loop101"), 100, "a disk that went keeps its counts");
    let again = Loop::new(101, &image);
    direct_reads(&again.device(), 50);
    assert_eq!(count("loop101"), 150, "the same name is the same disk");
    assert_eq!(id("loop101"), before);
    // a second and a third disk: two have rows, the third does not
    let second = Loop::new(102, &image);
    direct_reads(&second.device(), 30);
    let third = Loop::new(103, &image);
    direct_reads(&third.device(), 20);
    let values = pmcd.values(&["bpf.disk.dev.total_count", "bpf.disk.all.total_count"]);
    let own = &values["bpf.disk.dev.total_count"];
    let loops: u64 = own
        .iter()
        .filter(|(name, _)| name.contains("loop") || name.contains("stacked"))
        .map(|(_, n)| n.parse::<u64>().unwrap())
        .sum();
    assert_eq!(loops, 200, "{own:?}");
    assert!(own.len() <= 4 && own.contains_key("other-stacked"), "{own:?}");
    assert!(!own.contains_key("loop103"), "{own:?}");
    let host: u64 = own
        .iter()
        .filter(|(name, _)| !name.contains("loop") && !name.contains("stacked"))
        .map(|(_, n)| n.parse::<u64>().unwrap())
        .sum();
    assert_eq!(number(&values, "bpf.disk.all.total_count", ""), host, "stacked disks are left out of all");
    drop((again, second, third));
}

/// Times that each thread got a CPU: field 3 of schedstat, of every thread there is.
fn arrivals() -> BTreeMap<(String, String), u64> {
    let mut all = BTreeMap::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let process = process.path();
        // not self and thread-self, which are processes over again
        if process.file_name().unwrap().to_str().unwrap().parse::<u32>().is_err() {
            continue;
        }
        let Ok(threads) = fs::read_dir(process.join("task")) else { continue };
        for thread in threads.flatten() {
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            let count = text.split_whitespace().nth(2).and_then(|field| field.parse().ok()).unwrap_or(0);
            let id = |path: std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            all.insert((id(process.clone()), id(thread.path())), count);
        }
    }
    all
}

#[test]
fn as_many_waits_as_schedstat_counts() {
    let _alone = alone();
    let pmcd = Pmcd::with("schedstat", &plugin(), As::Foreground, None);
    let _load = Scheduling::start(3, 12);
    let count = || number(&pmcd.values(&["bpf.runq.latency_count"]), "bpf.runq.latency_count", "");
    // the walk through /proc lies between two readings, and pminfo's first start takes longest
    let look = || (count(), arrivals(), count());
    look();
    // a thread that ends meanwhile takes its count with it, so such a time does not serve, nor
    // does one that is short against a look, which may take seconds where the machine is loaded
    let (found, waits) = (0..8)
        .find_map(|round| {
            let (before, stat, after) = look();
            thread::sleep(Duration::from_secs(5 << round.min(5)));
            let (before_end, stat_end, after_end) = look();
            let stayed = stat.keys().all(|id| stat_end.contains_key(id));
            let since = |(id, count): (&(String, String), &u64)| count - stat.get(id).copied().unwrap_or(0).min(*count);
            let waits: u64 = stat_end.iter().map(since).sum();
            let between = (before_end - after)..=(after_end - before);
            println!("{between:?} waits, schedstat {waits}");
            let exact = (between.end() - between.start()) * 100 <= 3 * waits;
            (stayed && exact).then(|| (waits.clamp(*between.start(), *between.end()), waits))
        })
        .expect("some seconds in which no thread of this machine ends");
    assert!(waits > 20_000, "only {waits} waits");
    near("waits", found, waits, 0.01);
    let lost = number(&pmcd.values(&["bpf.module.lost"]), "bpf.module.lost", "runqlat");
    assert!(lost * 1000 < waits, "{lost} lost of {waits}");
}

/// Total variation distance of two histograms.
fn distance(a: &[u64], b: &[u64]) -> f64 {
    let (all_a, all_b): (u64, u64) = (a.iter().sum(), b.iter().sum());
    let share = |n: u64, all: u64| n as f64 / all as f64;
    a.iter().zip(b).map(|(a, b)| (share(*a, all_a) - share(*b, all_b)).abs()).sum::<f64>() / 2.0
}

fn percentile(histogram: &[u64], share: f64) -> usize {
    let all: u64 = histogram.iter().sum();
    let mut below = 0;
    histogram
        .iter()
        .position(|n| {
            below += n;
            below as f64 >= share * all as f64
        })
        .unwrap()
}

#[test]
fn waits_are_distributed_as_the_stock_plugin_finds() {
    let _alone = alone();
    let ours = Pmcd::with("ours", &plugin(), As::Foreground, None);
    let tree = StockTree::new(&["runqlat"]);
    let stock = tree.pmcd("stock");
    let _load = Scheduling::start(3, 12);
    thread::sleep(Duration::from_millis(500));
    let read = |pmcd: &Pmcd| buckets(&pmcd.values(&["bpf.runq.latency"]), "bpf.runq.latency", "");
    // the other's reading lies between two of ours, and pminfo's first start takes longest
    let look = || (read(&ours), read(&stock), read(&ours));
    look();
    let (ours_before, stock_before, ours_begun) = look();
    thread::sleep(Duration::from_secs(8 + 3 * (slow() - 1)));
    let (ours_ending, stock_after, ours_after) = look();
    let delta = |after: &[u64], before: &[u64]| -> Vec<u64> { after.iter().zip(before).map(|(a, b)| a - b).collect() };
    let (found, expected) = (delta(&ours_after, &ours_before), delta(&stock_after, &stock_before));
    println!("ours  {found:?}\nstock {expected:?}");
    let sum = |histogram: &[u64]| histogram.iter().sum::<u64>();
    let between = (sum(&ours_ending) - sum(&ours_begun), sum(&found));
    near("waits", sum(&expected).clamp(between.0, between.1), sum(&expected), 0.02);
    for share in [0.5, 0.9, 0.99] {
        let (a, b) = (percentile(&found, share), percentile(&expected, share));
        assert!(a.abs_diff(b) <= 1, "percentile {share}: bucket {a}, expected {b}");
    }
    let distance = distance(&found, &expected);
    println!("total variation distance {distance:.4}");
    assert!(distance <= 0.1, "{distance}");
}

/// A task that is kept off its CPU for a known time waits for that time.
#[test]
fn a_known_wait_falls_into_its_bucket() {
    let _alone = alone();
    let pmcd = Pmcd::with("known", &plugin(), As::Foreground, None);
    let read = || buckets(&pmcd.values(&["bpf.runq.latency"]), "bpf.runq.latency", "");
    // 60 times, a real-time task holds CPU 1 for 100 ms while a sleeper there becomes ready
    let sleeper = "taskset -c 1 sh -c 'for i in $(seq 60); do sleep 0.05; done'";
    let holder = "import os,time\nos.sched_setaffinity(0,{1})\nos.sched_setscheduler(0,os.SCHED_FIFO,os.sched_param(50))\n\
                  for i in range(20):\n e=time.monotonic()+0.1\n while time.monotonic()<e: pass\n time.sleep(0.05)";
    let before = read();
    let mut waiting = std::process::Command::new("sh").args(["-c", sleeper]).spawn().unwrap();
    let held = std::process::Command::new("python3").args(["-c", holder]).status().unwrap();
    assert!(held.success());
    let _ = waiting.kill();
    let _ = waiting.wait();
    let after = read();
    // 2^24 to 2^28 ns: 17 to 268 ms
    let long: u64 = (24..28).map(|bucket| after[bucket] - before[bucket]).sum();
    assert!((10..=200).contains(&long), "{long} waits of about 50 to 100 ms");
}

#[test]
fn the_kernels_own_measurements_are_passed_on() {
    let _alone = alone();
    let switch = "/proc/sys/kernel/bpf_stats_enabled";
    let was = fs::read_to_string(switch).unwrap();
    let scratch = Scratch::new("stats");
    let image = scratch.file("image", vec![0; 64 << 20]);
    let device = Loop::new(101, &image);
    let pmcd = Pmcd::with("stats", &plugin(), As::Foreground, None);
    fs::write(switch, "0").unwrap();
    let read = || pmcd.values(&["bpf.module.run_count", "bpf.module.run_time"]);
    // the kernel is asked once a second
    wait_for("no measurements", || read()["bpf.module.run_count"].is_empty().then_some(()));
    fs::write(switch, "1").unwrap();
    let before = wait_for("measurements", || {
        let values = read();
        values["bpf.module.run_count"].contains_key("biolatency").then_some(values)
    });
    direct_reads(&device.device(), 1_000);
    let count = |values: &Values| number(values, "bpf.module.run_count", "biolatency");
    let after = wait_for("the reads among them", || {
        let values = read();
        (count(&values) >= count(&before) + 1_000).then_some(values)
    });
    fs::write(switch, was).unwrap();
    let grown = |metric: &str| number(&after, metric, "biolatency") - number(&before, metric, "biolatency");
    assert!(grown("bpf.module.run_count") >= 1_000);
    let each = grown("bpf.module.run_time") / grown("bpf.module.run_count");
    assert!((20..20_000).contains(&each), "{each} ns per run");
}

#[test]
fn a_cpu_may_leave_and_return() {
    let _alone = alone();
    let switch = "/sys/devices/system/cpu/cpu1/online";
    assert!(std::path::Path::new(switch).exists(), "this machine cannot take CPU 1 offline");
    let pmcd = Pmcd::with("hotplug", &plugin(), As::Foreground, None);
    let count = || number(&pmcd.values(&["bpf.runq.latency_count"]), "bpf.runq.latency_count", "");
    let before = count();
    fs::write(switch, "0").unwrap();
    let off = count();
    fs::write(switch, "1").unwrap();
    let _load = Scheduling::start(2, 8);
    thread::sleep(Duration::from_secs(1));
    let on = count();
    assert!(before < off && off + 1_000 < on, "{before} {off} {on}");
}
