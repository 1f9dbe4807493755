//! The plugin as its hosts see it: in a client, in pmcd, under dbpmda, on bad days.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::Scratch;
use common::client;
use common::needs_root;
use common::number;
use common::parse;
use common::plugin;
use common::pmcd::As;
use common::pmcd::Pmcd;
use common::root;
use common::run;
use common::stdout;
use common::test_agent;

fn shell(command: &str) -> String {
    let output = run(Command::new("sh").args(["-c", command]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {}\n{text}", output.status);
    text
}

/// A client line for `sh -c` with the plugin in a local context.
fn local_line(program: &str, rest: &str) -> String {
    let options = common::local(&plugin()).join(" ");
    format!("PMDA_BPFRS_CONFIG=/nonexistent {program} {options} {rest} 2>&1")
}

#[test]
fn the_library_needs_exports_and_keeps_what_it_should() {
    let dynamic = shell(&format!("readelf -d {}", plugin().display()));
    let needed: BTreeSet<&str> = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.split_once(']').map(|(name, _)| name))
        .collect();
    let expected = ["libpcp_pmda.so.3", "libelf.so.1", "libz.so.1", "libgcc_s.so.1", "libc.so.6"];
    let loader = |name: &&str| name.starts_with("ld-linux");
    assert_eq!(needed.iter().filter(|name| !loader(name)).copied().collect::<BTreeSet<_>>(), expected.into());
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    let exported = shell(&format!("nm -D --defined-only {}", plugin().display()));
    let names: Vec<&str> = exported.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, ["bpf_init"]);
}

#[test]
fn a_client_shows_everything_without_pmcd() {
    needs_root();
    let text = stdout(client("pminfo", &plugin(), None).args(["-fmdtTl", "bpf"]));
    let metrics: Vec<&str> = text.lines().filter(|line| line.starts_with("bpf.") && line.contains(" PMID: ")).collect();
    assert_eq!(metrics.len(), fs::read_to_string(root().join("pmns/root_bpf")).unwrap().matches("\t157:").count());
    for metric in &metrics {
        assert!(metric.contains("PMID: 157.") && metric.ends_with(']'), "{metric}: no line of help");
    }
    assert_eq!(text.matches("Help:").count(), metrics.len());
    assert_eq!(text.matches("Data Type:").count(), metrics.len());
    assert!(!text.contains("Error:"), "{text}");
    assert!(text.contains(r#""le":"+Inf""#) && text.contains(r#""lower_bound":"1024""#));
    let values = parse(&text);
    assert_eq!(values["bpf.runq.latency"].len(), 63);
    assert_eq!(values["bpf.runq.latency_bucket"].len(), 41);
    assert_eq!(values["bpf.disk.all.latency_bucket"].len(), 28);
    assert_eq!(number(&values, "bpf.module.state", "runqlat"), 1);
    assert_eq!(values["bpf.module.reason"]["biolatency"], "ok");
}

#[test]
fn one_answer_is_consistent() {
    needs_root();
    let pmcd = Pmcd::with("consistent", &plugin(), As::Foreground, None);
    for _ in 0..20 {
        let values = pmcd.values(&["bpf.runq"]);
        let sum: u64 = common::buckets(&values, "bpf.runq.latency", "").iter().sum();
        assert_eq!(sum, number(&values, "bpf.runq.latency_count", ""));
        assert_eq!(sum, number(&values, "bpf.runq.latency_bucket", "+Inf"));
        let below: u64 = common::buckets(&values, "bpf.runq.latency", "").iter().take(11).sum();
        assert_eq!(below, number(&values, "bpf.runq.latency_bucket", "2047"));
    }
}

#[test]
fn names_resolve_through_the_dynamic_root_too() {
    needs_root();
    let agents = [("bpf", 157, "bpf_init", plugin()), ("scale", 158, "scale_init", test_agent())];
    let agents = agents.each_ref().map(|(name, domain, init, dso)| (*name, *domain, *init, dso.as_path()));
    let pmcd = Pmcd::start("dynamic", &agents, &[&root().join("tests/agents.pmns")], As::Foreground, None);
    let names = stdout(pmcd.command("pminfo").arg("bpf"));
    assert_eq!(
        names.lines().count(),
        fs::read_to_string(root().join("pmns/root_bpf")).unwrap().matches("\t157:").count()
    );
    assert_eq!(pmcd.values(&["bpf.runq.latency"])["bpf.runq.latency"].len(), 63);
    assert!(stdout(pmcd.command("pminfo").arg("scale")).lines().count() == 9);
    let unknown = run(pmcd.command("pminfo").args(["-f", "bpf.nonsense"]));
    assert!(!unknown.status.success());
}

#[test]
fn every_type_arrives_and_a_panic_costs_one_metric() {
    needs_root();
    let agents = [("scale", 158, "scale_init", test_agent())];
    let agents = agents.each_ref().map(|(name, domain, init, dso)| (*name, *domain, *init, dso.as_path()));
    let pmcd = Pmcd::start("scale", &agents, &[&root().join("tests/agents.pmns")], As::Foreground, None);
    let values = parse(&stdout(pmcd.command("pminfo").args(["-f", "scale"])));
    assert_eq!(values["scale.one"][""], "7");
    assert_eq!(values["scale.one_text"][""], "one");
    assert_eq!(values["scale.half"].len(), 32);
    assert_eq!(values["scale.half"]["i62"], "62");
    assert_eq!(values["scale.text"]["i5"], "xxxxx");
    assert_eq!(values["scale.n1000"].len(), 1000);
    assert_eq!(values["scale.n1000"]["i999"], (999 * 17).to_string());
    assert!(values["scale.panic"].is_empty());
    assert!(pmcd.log().contains("scale.panic: a defect of metric 8"), "{}", pmcd.log());
    let one = stdout(pmcd.command("pmval").args(["-r", "-s", "1", "-i", "i3,i900", "scale.n1000"]));
    let last: Vec<&str> = one.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(last, ["51", "15300"]);
}

#[test]
fn dbpmda_drives_it() {
    needs_root();
    let script = format!(
        "open dso {} bpf_init 157\ndesc 157.1.0\ninstance 157.64\ntext 157.1.0\nfetch 157.1.0\nquit\n",
        plugin().display()
    );
    let scratch = Scratch::new("dbpmda");
    let file = scratch.file("script", script);
    let pmns = root().join("pmns/root_bpf");
    let text =
        shell(&format!("PMDA_BPFRS_CONFIG=/nonexistent dbpmda -ie -n {} < {} 2>&1", pmns.display(), file.display()));
    assert!(text.contains("64-bit unsigned int"), "{text}");
    assert!(text.contains("1024-2047"), "{text}");
    assert!(text.contains("numval: 63"), "{text}");
}

#[test]
fn nothing_can_be_stored() {
    needs_root();
    let pmcd = Pmcd::with("store", &plugin(), As::Foreground, None);
    let refused = run(pmcd.command("pmstore").args(["bpf.runq.latency_count", "1"]));
    let said = String::from_utf8_lossy(&refused.stdout).into_owned() + &String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("No permission to perform requested operation"), "{said}");
}

#[test]
fn as_user_pcp_values_still_move() {
    needs_root();
    let pmcd = Pmcd::with("daemon", &plugin(), As::Daemon, None);
    let (uid, _) = common::pmcd::user("pcp");
    assert!(pmcd.status("Uid").split_whitespace().all(|id| id == uid.to_string()), "pmcd did not become pcp");
    assert_eq!(pmcd.status("CapEff"), "0000000000000000");
    let before = pmcd.values(&["bpf"]);
    thread::sleep(Duration::from_secs(2));
    let after = pmcd.values(&["bpf"]);
    let count = |values| number(values, "bpf.runq.latency_count", "");
    assert!(count(&after) > count(&before), "{} {}", count(&before), count(&after));
    assert_eq!(number(&after, "bpf.module.state", "biolatency"), 1);
}

#[test]
fn our_descriptors_are_out_of_pmcds_way() {
    needs_root();
    let pmcd = Pmcd::with("descriptors", &plugin(), As::Foreground, None);
    let ours: Vec<u32> = pmcd.descriptors().into_iter().filter(|fd| *fd >= 1024).collect();
    // runqlat 3, biolatency 1, netatop 3; a worker each that loads, reads rings, looks through tables
    assert_eq!(
        ours.len(),
        2 * 7 + 3,
        "a link and a program for each of seven hooks, what wakes three workers: {ours:?}"
    );
    for fd in &ours {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", pmcd.pid())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        assert_ne!(flags & libc::O_CLOEXEC, 0, "descriptor {fd} would be inherited");
    }
    let bare = Pmcd::start("bare", &[], &[], As::Foreground, None);
    let low = |pmcd: &Pmcd| pmcd.descriptors().into_iter().filter(|fd| *fd < 1024).count();
    // a client that has gone is noticed some time later
    common::wait_for("no descriptor below 1024 beside pmcd's own", || (low(&pmcd) == low(&bare)).then_some(()));
    let limits = |pmcd: &Pmcd| {
        let text = fs::read_to_string(format!("/proc/{}/limits", pmcd.pid())).unwrap();
        text.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned()
    };
    assert_eq!(limits(&pmcd), limits(&bare));
}

#[test]
fn without_privileges_the_reason_is_told() {
    needs_root();
    // a place that user nobody can reach
    let scratch = Scratch::new("nobody");
    for (file, name) in [(plugin(), "plugin.so"), (root().join("pmns/root_bpf"), "root_bpf")] {
        fs::copy(file, scratch.path().join(name)).unwrap();
    }
    let dir = scratch.path().display();
    shell(&format!("chmod -R a+rX {dir}"));
    let text = shell(&format!(
        "PMDA_BPFRS_CONFIG=/nonexistent setpriv --reuid nobody --regid nogroup --clear-groups \
         pminfo -L -K clear -K add,157,{dir}/plugin.so,bpf_init -n {dir}/root_bpf -f bpf 2>&1"
    ));
    let values = parse(&text);
    for module in ["runqlat", "biolatency"] {
        assert_eq!(number(&values, "bpf.module.state", module), 3);
        let reason = &values["bpf.module.reason"][module];
        assert!(reason.contains("no privileges: uid 65534") && reason.contains("CAP_BPF"), "{reason}");
        assert_eq!(text.matches(&format!("module {module} is unavailable: no privileges")).count(), 1, "{text}");
    }
    assert!(text.contains("bpf.runq.latency\nError: No permission to perform requested operation"), "{text}");
}

#[test]
fn without_btf_the_reason_is_told() {
    needs_root();
    let scratch = Scratch::new("nobtf");
    let empty = scratch.file("empty", "");
    let show = local_line("pminfo", "-f bpf");
    let text = shell(&format!("unshare -m sh -c 'mount --bind {} /sys/kernel/btf/vmlinux && {show}'", empty.display()));
    let values = parse(&text);
    assert_eq!(number(&values, "bpf.module.state", "runqlat"), 3);
    assert!(values["bpf.module.reason"]["runqlat"].contains("CONFIG_DEBUG_INFO_BTF"), "{text}");
    assert!(text.contains("bpf.runq.latency\nError: Metric not supported by this version"), "{text}");
}

#[test]
fn a_module_that_cannot_run_leaves_the_others_alone() {
    needs_root();
    let spec = format!("add,157,{},testagent_init", test_agent().display());
    let scratch = Scratch::new("refused");
    let pmns = scratch.file(
        "pmns",
        "root {\n bpf\n}\nbpf {\n module\n runq 157:*:*\n test 157:*:*\n}\nbpf.module {\n state 157:0:0\n reason 157:0:1\n hooks 157:0:2\n}\n",
    );
    let mut command = Command::new("pminfo");
    command.args(["-L", "-K", "clear", "-K", &spec, "-n"]).arg(pmns).args(["-f", "bpf"]);
    let output = run(command.env("PMDA_BPFRS_CONFIG", "/nonexistent"));
    let (text, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let values = parse(&text);
    let states: Vec<u64> =
        ["runqlat", "absent", "refused", "second"].map(|m| number(&values, "bpf.module.state", m)).into();
    assert_eq!(states, [1, 3, 3, 1], "{text}");
    assert_eq!(values["bpf.module.reason"]["absent"], "kernel lacks a hook; needs one of: tp_btf/no_such_tracepoint");
    let refused = &values["bpf.module.reason"]["refused"];
    assert!(refused.contains("kernel refused: on_refused: ") && refused.contains("unbounded"), "{refused}");
    assert_eq!(values["bpf.module.hooks"]["second"], "tp_btf/sched_switch");
    assert!(number(&values, "bpf.test.second", "") > 0);
    assert!(number(&values, "bpf.runq.latency_count", "") > 0);
    assert_eq!(log.matches("is unavailable").count(), 2, "{log}");
    assert!(!log.contains("ulimit"), "{log}");
}

#[test]
fn mistakes_in_the_configuration_are_lines_in_the_log() {
    needs_root();
    let scratch = Scratch::new("config");
    let file =
        scratch.file("bpf.conf", b"[runqlat]\nenabled = maybe\n[biolatency]\ndisks = 0\n\xff\n[nonsense]\n".as_slice());
    let output = run(client("pminfo", &plugin(), Some(&file)).args(["-f", "bpf.module.state"]));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let path = file.display();
    for line in [
        format!("{path}:2: found enabled = \"maybe\" in [runqlat]; accepted: true, false"),
        format!("{path}:4: found disks = \"0\" in [biolatency]; accepted: a whole number from 1 to 1024"),
        format!("{path}:5: found "),
        format!("{path}:6: found section \"nonsense\"; accepted: "),
    ] {
        assert_eq!(log.matches(&line).count(), 1, "{line} in {log}");
    }
    let values = parse(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(number(&values, "bpf.module.state", "runqlat"), 1);
    assert_eq!(number(&values, "bpf.module.state", "biolatency"), 1);
}

#[test]
fn pmdabpfs_own_configuration_works_unchanged() {
    needs_root();
    let file = root().join("tests/data/pmdabpf.conf");
    let output = run(client("pminfo", &plugin(), Some(&file)).args(["-f", "bpf.module.state"]));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!log.contains("Error"), "{log}");
    assert_eq!(log.matches("switched on but not part of this version: oomkill").count(), 1, "{log}");
    let values = parse(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(number(&values, "bpf.module.state", "runqlat"), 1);
}

#[test]
fn a_disabled_module_keeps_its_names_and_has_no_values() {
    needs_root();
    let scratch = Scratch::new("disabled");
    let file = scratch.file("bpf.conf", "[runqlat.so]\nenabled = FALSE\n");
    let output = run(client("pminfo", &plugin(), Some(&file)).args(["-f", "bpf"]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let values = parse(&text);
    assert_eq!(number(&values, "bpf.module.state", "runqlat"), 0);
    assert_eq!(values["bpf.module.reason"]["runqlat"], format!("disabled in {}", file.display()));
    assert!(text.contains("bpf.runq.latency\nNo value(s) available!"), "{text}");
    assert_eq!(number(&values, "bpf.module.state", "biolatency"), 1);
}

#[test]
fn recorded_and_replayed() {
    needs_root();
    let pmcd = Pmcd::with("logger", &plugin(), As::Foreground, None);
    let archive = pmcd.path("archive");
    let config = pmcd.path("pmlogger.conf");
    fs::write(&config, "log mandatory on 200 msec { bpf }\n").unwrap();
    let log = pmcd.path("pmlogger.log");
    let mut logger = pmcd.command("pmlogger");
    logger.arg("-c").arg(&config).arg("-l").arg(&log).args(["-T", "3sec"]).arg(&archive);
    let outcome = run(&mut logger);
    assert!(outcome.status.success(), "{}", fs::read_to_string(&log).unwrap_or_default());
    let check = run(pmcd.command("pmlogcheck").arg(&archive));
    let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success() && said.trim().is_empty(), "pmlogcheck: {said}");
    let replay = stdout(pmcd.command("pmval").arg("-a").arg(&archive).args([
        "-s",
        "5",
        "-t",
        "200msec",
        "bpf.runq.latency_count",
    ]));
    assert!(
        replay.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit())).count() >= 4,
        "{replay}"
    );
    let report = stdout(pmcd.command("pmrep").args(["-s", "2", "-t", "0.1", "bpf.runq.latency_count"]));
    assert!(report.lines().count() >= 3, "{report}");
    let old = stdout(pmcd.command("pmrep").arg("-a").arg(&archive).args([
        "-s",
        "2",
        "-t",
        "0.2",
        "bpf.disk.all.latency_count",
    ]));
    assert!(old.lines().count() >= 3, "{old}");
    let live = stdout(pmcd.command("pmval").args(["-s", "1000", "-t", "10msec", "bpf.runq.latency_count"]));
    assert!(live.lines().count() >= 1000);
    assert!(!live.contains("No values"), "{live}");
}

#[test]
fn valgrind_finds_nothing() {
    needs_root();
    let supp = root().join("tests/valgrind.supp");
    let valgrind = format!(
        "valgrind --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
         --suppressions={} pminfo",
        supp.display()
    );
    let text = shell(&local_line(&valgrind, "-fdtTl bpf"));
    assert!(text.contains("ERROR SUMMARY: 0 errors"), "{text}");
    assert!(text.contains("definitely lost: 0 bytes") || text.contains("no leaks are possible"), "{text}");
    assert!(text.contains("bpf.runq.latency"), "{text}");
}
