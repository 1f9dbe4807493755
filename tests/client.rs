//! The plugin inside this very process. A local context wants a single thread, so this test
//! has no harness of its own: it runs its steps one after the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, unsafe_code)]

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::needs_root;
use common::plugin;
use common::pmapi::Context;
use common::pmcd::As;
use common::pmcd::Pmcd;
use common::root;
use common::test_agent;

fn main() {
    needs_root();
    // SAFETY: there is no other thread yet.
    unsafe { std::env::set_var("PMDA_BPFRS_CONFIG", "/nonexistent") };
    let steps: &[(&str, fn())] = &[
        ("a_hundred_thousand_fetches_leave_nothing_behind", fetches_leave_nothing_behind),
        ("two_interfaces_share_one_set_of_modules", two_interfaces),
        ("a_closed_library_stays", a_closed_library_stays),
        ("a_profile_picks_exactly_what_was_asked_for", profiles),
        ("results_are_independent_of_each_other", results_are_independent),
        ("a_hundred_thousand_fetches_through_pmcd", fetches_through_pmcd),
    ];
    for (name, step) in steps {
        step();
        println!("test {name} ... ok");
    }
    println!("test result: ok. {} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out", steps.len());
}

fn spec(domain: u32, dso: &std::path::Path, init: &str) -> String {
    format!("add,{domain},{},{init}", dso.display())
}

/// Resident kilobytes and open descriptors.
fn usage(pid: &str) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let rss = rss.trim().trim_end_matches(" kB").parse().unwrap();
    (rss, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

const METRICS: [&str; 5] =
    ["bpf.runq.latency", "bpf.runq.latency_bucket", "bpf.disk.all.latency", "bpf.disk.dev.total", "bpf.module.reason"];

fn fetches_leave_nothing_behind() {
    let local = Context::local(&[&spec(157, &plugin(), "bpf_init")], root().join("pmns/root_bpf").to_str().unwrap());
    let mut pmids = local.lookup(&METRICS);
    (0..5_000).for_each(|_| drop(local.fetch(&mut pmids)));
    let before = usage("self");
    (0..100_000).for_each(|_| drop(local.fetch(&mut pmids)));
    let after = usage("self");
    assert!(after.0 <= before.0 + 128, "resident memory grew from {} to {} kB", before.0, after.0);
    assert_eq!(before.1, after.1, "descriptors");
}

/// A second bpf_init adopts what the first loaded: no program more, and both answer alike.
fn two_interfaces() {
    let pmns = root().join("tests/agents.pmns");
    let before = usage("self").1;
    let specs = [spec(157, &plugin(), "bpf_init"), spec(158, &plugin(), "bpf_init")];
    let local = Context::local(&[&specs[0], &specs[1]], pmns.to_str().unwrap());
    let count = |domain: u32| {
        let mut pmids = [domain << 22 | 1 << 10, domain << 22 | 1 << 10 | 1];
        let answer = local.fetch(&mut pmids);
        assert_eq!(answer.count(0), 63);
        answer.numbers(1)[0].1
    };
    let (first, second) = (count(157), count(158));
    assert!(first > 0 && second >= first, "{first} {second}");
    assert!(usage("self").1 <= before + 1, "a second init opened descriptors");
}

/// libpcp closes the library of an agent that it drops; its code must stay mapped.
fn a_closed_library_stays() {
    let path = std::ffi::CString::new(plugin().to_str().unwrap()).unwrap();
    // SAFETY: the path is a string, the handle is what dlopen returned.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null());
        for _ in 0..16 {
            libc::dlclose(handle);
        }
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.contains("libpmda_bpf.so"), "the library was unmapped");
    let local = Context::local(&[&spec(157, &plugin(), "bpf_init")], root().join("pmns/root_bpf").to_str().unwrap());
    let mut pmids = local.lookup(&["bpf.runq.latency_count"]);
    assert!(local.fetch(&mut pmids).numbers(0)[0].1 > 0);
}

fn profiles() {
    let pmns = root().join("tests/agents.pmns");
    let local = Context::local(&[&spec(158, &test_agent(), "scale_init")], pmns.to_str().unwrap());
    let mut pmids = local.lookup(&["scale.n10000"]);
    let indom = 158 << 22 | 2;
    let all: Vec<(i32, u64)> = (0..10_000).map(|id| (id, id as u64 * 17)).collect();
    assert_eq!(local.fetch(&mut pmids).numbers(0), all);
    let picks: [Vec<i32>; 4] =
        [(0..10_000).filter(|id| id % 2 == 1).collect(), vec![9_999, 0, 5_000], vec![7; 3], vec![20_000, 3]];
    for pick in picks {
        local.pick(indom, &pick);
        let wanted: BTreeSet<i32> = pick.iter().copied().filter(|id| *id < 10_000).collect();
        let answer: Vec<i32> = local.fetch(&mut pmids).numbers(0).iter().map(|(id, _)| *id).collect();
        assert_eq!(answer, wanted.into_iter().collect::<Vec<_>>());
    }
    local.pick_all(indom);
    assert_eq!(local.fetch(&mut pmids).count(0), 10_000);
}

/// Two results live at once: neither may be overwritten by the other.
fn results_are_independent() {
    let pmns = root().join("tests/agents.pmns");
    let local = Context::local(&[&spec(158, &test_agent(), "scale_init")], pmns.to_str().unwrap());
    let mut small = local.lookup(&["scale.n63"]);
    let mut large = local.lookup(&["scale.n1000"]);
    let first = local.fetch(&mut small);
    let second = local.fetch(&mut large);
    assert_eq!(first.numbers(0).len(), 63);
    assert_eq!(first.numbers(0)[62], (62, 62 * 17));
    assert_eq!(second.numbers(0).len(), 1000);
    drop(first);
    assert_eq!(second.numbers(0)[999], (999, 999 * 17));
}

fn fetches_through_pmcd() {
    let pmcd = Pmcd::with("fetches", &plugin(), As::Foreground, None);
    let pid = pmcd.pid().to_string();
    let host = Context::host(&format!("unix://{}", pmcd.path("run/pmcd.socket").display()));
    let mut pmids = host.lookup(&METRICS);
    (0..2_000).for_each(|_| drop(host.fetch(&mut pmids)));
    let before = usage(&pid);
    (0..100_000).for_each(|_| drop(host.fetch(&mut pmids)));
    let after = usage(&pid);
    assert!(after.0 <= before.0 + 128, "pmcd's resident memory grew from {} to {} kB", before.0, after.0);
    assert_eq!(before.1, after.1, "pmcd's descriptors");
}
