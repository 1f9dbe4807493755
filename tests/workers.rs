//! The threads behind the plugin: what they may do, and what happens when they fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::Scratch;
use common::alone;
use common::number;
use common::plugin;
use common::pmcd::As;
use common::pmcd::Pmcd;
use common::root;
use common::run;
use common::stdout;
use common::test_agent;
use common::wait_for;

/// CAP_BPF and CAP_PERFMON.
const LOADING: u64 = 1 << 39 | 1 << 38;

const ALL_ON: &str = "[execsnoop]\nenabled = true\n";

/// A pmcd with the plugin's modules in an agent that can be told to switch them.
fn switched(name: &str, how: As, config: &Path) -> Pmcd {
    let agents = [("bpf", 157, "switched_init", &*test_agent())];
    Pmcd::start(name, &agents, &[&root().join("pmns/root_bpf")], how, Some(config))
}

fn state(pmcd: &Pmcd, module: &str) -> u64 {
    number(&pmcd.values(&["bpf.module.state"]), "bpf.module.state", module)
}

fn reason(pmcd: &Pmcd, module: &str) -> String {
    pmcd.values(&["bpf.module.reason"])["bpf.module.reason"][module].clone()
}

fn waits(pmcd: &Pmcd) -> u64 {
    number(&pmcd.values(&["bpf.runq.latency_count"]), "bpf.runq.latency_count", "")
}

fn counts_on(pmcd: &Pmcd) {
    let before = waits(pmcd);
    wait_for("runqlat to count on", || (waits(pmcd) > before).then_some(()));
}

#[test]
fn one_thread_keeps_two_capabilities_and_the_others_none() {
    let _alone = alone();
    let scratch = Scratch::new("keep");
    let config = scratch.file("bpf.conf", ALL_ON);
    let pmcd = switched("keep", As::Daemon, &config);
    let (uid, _) = common::pmcd::user("pcp");
    assert!(pmcd.status("Uid").split_whitespace().all(|id| id == uid.to_string()), "pmcd did not become pcp");
    // the loader gives up the rest when it next wakes
    let threads = wait_for("one thread to have what loading needs and the others nothing", || {
        let threads = pmcd.threads();
        threads.iter().all(|(name, held)| *held == if name == "bpf-load" { LOADING } else { 0 }).then_some(threads)
    });
    let mut names: Vec<&str> = threads.iter().map(|(name, _)| name.as_str()).collect();
    names.retain(|name| name.starts_with("bpf-"));
    names.sort_unstable();
    assert_eq!(names, ["bpf-events", "bpf-load", "bpf-log", "bpf-poll"]);
    // and that is enough to switch each module off and on again
    for module in ["runqlat", "biolatency", "execsnoop", "netatop"] {
        pmcd.tell(&format!("off {module}"));
        wait_for("the module to stop", || (state(&pmcd, module) == 0).then_some(()));
        assert_eq!(reason(&pmcd, module), "switched off");
    }
    let off = pmcd.values(&["bpf.runq.latency", "bpf.proc.net"]);
    assert!(off.values().all(|own| own.is_empty()), "{off:?}");
    assert_eq!(pmcd.descriptors().iter().filter(|fd| **fd >= 1024).count(), 3, "an eventfd per worker");
    for module in ["runqlat", "biolatency", "execsnoop", "netatop"] {
        pmcd.tell(&format!("on {module}"));
        wait_for("the module to run again", || (state(&pmcd, module) == 1).then_some(()));
    }
    counts_on(&pmcd);
    let execs = |pmcd: &Pmcd| number(&pmcd.values(&["bpf.execsnoop.count"]), "bpf.execsnoop.count", "");
    let before = execs(&pmcd);
    wait_for("execsnoop to count again", || (execs(&pmcd) > before).then_some(()));
}

#[test]
fn privileges_can_be_dropped() {
    let _alone = alone();
    let scratch = Scratch::new("drop");
    let config = scratch.file("bpf.conf", "[pmda]\nprivileges = drop\n");
    let pmcd = switched("drop", As::Daemon, &config);
    assert!(pmcd.threads().iter().all(|(_, held)| *held == 0), "{:?}", pmcd.threads());
    counts_on(&pmcd);
    pmcd.tell("off runqlat");
    wait_for("the module to stop", || (state(&pmcd, "runqlat") == 0).then_some(()));
    pmcd.tell("on runqlat");
    wait_for("the load to be refused", || (state(&pmcd, "runqlat") == 3).then_some(()));
    assert!(reason(&pmcd, "runqlat").contains("no privileges"), "{}", reason(&pmcd, "runqlat"));
    assert_eq!(state(&pmcd, "biolatency"), 1, "the others go on");
}

#[test]
fn pmcds_start_does_not_wait_for_modules() {
    let _alone = alone();
    let scratch = Scratch::new("wait");
    let config = scratch.file("bpf.conf", format!("[pmda]\nstart_wait = 0\n{ALL_ON}"));
    let pmcd = Pmcd::with("wait", &plugin(), As::Daemon, Some(&config));
    // Pmcd::with has waited for what the worker then did
    for module in ["runqlat", "biolatency", "execsnoop", "netatop"] {
        pmcd.wait_for_module(module);
        assert_eq!(reason(&pmcd, module), "ok", "{module}");
    }
    wait_for("the worker's report", || {
        pmcd.log()
            .contains("bpf pmda init complete, loaded modules (4): runqlat biolatency execsnoop netatop")
            .then_some(())
    });
}

#[test]
fn a_worker_that_panics_goes_on_and_in_the_end_gives_up() {
    let _alone = alone();
    let scratch = Scratch::new("panic");
    let config = scratch.file("bpf.conf", ALL_ON);
    let pmcd = switched("panic", As::Foreground, &config);
    for worker in ["load", "events", "poll"] {
        pmcd.tell(&format!("panic {worker}"));
    }
    wait_for("three panics in the log", || (pmcd.log().matches("a job panicked: told to").count() == 3).then_some(()));
    for module in ["runqlat", "biolatency", "execsnoop", "netatop"] {
        pmcd.wait_for_module(module);
    }
    let sequence = |pmcd: &Pmcd| {
        let values = pmcd.values(&["bpf.execsnoop.seq"]);
        values["bpf.execsnoop.seq"].values().map(|seq| seq.parse::<u64>().unwrap()).max().unwrap_or(0)
    };
    let before = sequence(&pmcd);
    wait_for("events after a panic", || (sequence(&pmcd) > before).then_some(()));
    (0..4).for_each(|_| pmcd.tell("panic events"));
    wait_for("the worker to give up", || (state(&pmcd, "execsnoop") == 4).then_some(()));
    assert_eq!(reason(&pmcd, "execsnoop"), "worker bpf-events has given up: told to");
    pmcd.wait_for_module("netatop");
    counts_on(&pmcd);
}

#[test]
fn a_stuck_worker_is_told_and_delays_nobody() {
    let _alone = alone();
    let scratch = Scratch::new("stuck");
    let config = scratch.file("bpf.conf", ALL_ON);
    let pmcd = switched("stuck", As::Foreground, &config);
    pmcd.tell("hang poll 40");
    let values = wait_for("the worker to count as stuck", || {
        let values = pmcd.values(&["bpf.module.state", "bpf.module.reason", "bpf.module.age"]);
        (number(&values, "bpf.module.state", "netatop") == 4).then_some(values)
    });
    let reason = &values["bpf.module.reason"]["netatop"];
    assert!(reason.starts_with("worker bpf-poll is stuck for "), "{reason}");
    assert!(number(&values, "bpf.module.age", "netatop") > 9_000_000, "{values:?}");
    pmcd.wait_for_module("execsnoop");
    counts_on(&pmcd);
    wait_for("the worker to recover", || (state(&pmcd, "netatop") == 1).then_some(()));
}

/// Added to a running pmcd, which has left root, the plugin says what it lacks.
#[test]
fn an_agent_added_to_a_running_pmcd_says_what_it_lacks() {
    let _alone = alone();
    let pmcd = Pmcd::start("hup", &[], &[&root().join("pmns/root_bpf")], As::Daemon, None);
    // where user pcp can open it
    let copy = pmcd.path("pmda_bpf.so");
    fs::copy(plugin(), &copy).unwrap();
    let conf = pmcd.path("pmcd.conf");
    let text = fs::read_to_string(&conf).unwrap();
    let line = format!("bpf\t157\tdso\tbpf_init\t{}\n\n[access]", copy.display());
    fs::write(&conf, text.replacen("\n[access]", &line, 1)).unwrap();
    assert!(run(Command::new("kill").args(["-HUP", &pmcd.pid().to_string()])).status.success());
    wait_for("the agent", || {
        let shown = run(pmcd.command("pminfo").args(["-f", "bpf.module.state"]));
        String::from_utf8_lossy(&shown.stdout).contains("value").then_some(())
    });
    pmcd.wait_for_modules();
    assert_eq!(state(&pmcd, "runqlat"), 3);
    assert!(reason(&pmcd, "runqlat").contains("restart it to load the module"), "{}", reason(&pmcd, "runqlat"));
    let refused = stdout(pmcd.command("sh").args(["-c", "pminfo -f bpf.runq.latency 2>&1 || :"]));
    assert!(refused.contains("No permission to perform requested operation"), "{refused}");
}

/// Programs of ours that the kernel holds.
fn programs() -> usize {
    use libbpf_rs::query::ProgInfoIter;
    ProgInfoIter::default().filter(|info| info.name.to_string_lossy().starts_with("on_")).count()
}

#[test]
fn a_pmcd_that_is_killed_leaves_nothing_behind() {
    let _alone = alone();
    let scratch = Scratch::new("kill");
    let config = scratch.file("bpf.conf", ALL_ON);
    // those of the tests before go some time after their pmcd
    let before = wait_for("the kernel to free the programs of others", || {
        let before = programs();
        std::thread::sleep(std::time::Duration::from_millis(1000));
        (programs() == before).then_some(before)
    });
    for round in 0..4 {
        let pmcd = Pmcd::with("kill", &plugin(), As::Daemon, Some(&config));
        assert!(programs() > before);
        // in the midst of loading, too
        let signal = if round % 2 == 0 { "-KILL" } else { "-TERM" };
        assert!(run(Command::new("kill").args([signal, &pmcd.pid().to_string()])).status.success());
        pmcd.gone();
    }
    wait_for("the kernel to free our programs", || (programs() == before).then_some(()));
}
