//! Events one by one: programs of our own, counted and shown.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use common::Scratch;
use common::Values;
use common::alone;
use common::number;
use common::plugin;
use common::pmcd::As;
use common::pmcd::Pmcd;
use common::run;
use common::slow;
use common::wait_for;

/// A program with a name that nobody else runs, and a pmcd whose execsnoop sees only that.
struct Bench {
    pmcd: Pmcd,
    program: PathBuf,
    _scratch: Scratch,
}

impl Bench {
    fn new(options: &str) -> Self {
        Self::with(&format!("[execsnoop]\nenabled = true\ncommand = xsnoop\n{options}"))
    }

    fn with(config: &str) -> Self {
        let scratch = Scratch::new("exec");
        let program = scratch.path().join("xsnoop-true");
        fs::copy("/bin/true", &program).unwrap();
        // user nobody runs it too
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(scratch.path()));
        let file = scratch.file("bpf.conf", config);
        let pmcd = Pmcd::with("exec", &plugin(), As::Foreground, Some(&file));
        pmcd.wait_for_module("execsnoop");
        Self { pmcd, program, _scratch: scratch }
    }

    /// Runs the program so many times, each time with its number, as fast as a shell can.
    fn burst(&self, times: u64) {
        let script = format!("i=0; while [ $i -lt {times} ]; do i=$((i+1)); {} $i; done", self.program.display());
        assert!(run(Command::new("sh").args(["-c", &script])).status.success());
    }

    fn count(&self) -> u64 {
        number(&self.values(), "bpf.execsnoop.count", "")
    }

    fn values(&self) -> Values {
        self.pmcd.values(&["bpf.execsnoop"])
    }

    /// What is shown when that many events are.
    fn when_shown(&self, events: u64) -> Values {
        wait_for("the events to be shown", || {
            let values = self.values();
            (last(&values) == events).then_some(values)
        })
    }

    /// The arguments of the only event there is.
    fn only(&self) -> String {
        self.when_shown(1)["bpf.execsnoop.args"]["0"].clone()
    }
}

/// The greatest sequence number.
fn last(values: &Values) -> u64 {
    values["bpf.execsnoop.seq"].values().map(|seq| seq.parse().unwrap()).max().unwrap_or(0)
}

/// The rows' values of a metric by sequence number.
fn by_sequence<'v>(values: &'v Values, metric: &str) -> BTreeMap<u64, &'v str> {
    let column = &values[metric];
    let sequences = values["bpf.execsnoop.seq"].iter();
    sequences.map(|(row, seq)| (seq.parse().unwrap(), column[row].as_str())).collect()
}

#[test]
fn a_burst_is_counted_and_its_last_rows_are_right() {
    let _alone = alone();
    let bench = Bench::new("process_count = 50\n");
    let times = 5_000 / slow();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    bench.burst(times);
    let values = bench.when_shown(times);
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    assert_eq!(number(&values, "bpf.execsnoop.count", ""), times);
    assert_eq!(number(&values, "bpf.execsnoop.lost", ""), 0);
    let arguments = by_sequence(&values, "bpf.execsnoop.args");
    assert_eq!(arguments.len(), 50);
    for (seq, text) in &arguments {
        assert_eq!(*text, format!("{} {seq}", bench.program.display()));
        assert!(*seq > times - 50);
    }
    for (row, seq) in &values["bpf.execsnoop.seq"] {
        assert_eq!((seq.parse::<u64>().unwrap() - 1) % 50, row.parse::<u64>().unwrap(), "an event keeps its row");
    }
    let shell = by_sequence(&values, "bpf.execsnoop.ppid");
    assert!(shell.values().all(|ppid| *ppid == shell[&times] && *ppid != "0"));
    let times_of = by_sequence(&values, "bpf.execsnoop.time");
    let moments: Vec<u128> = times_of.values().map(|time| time.parse().unwrap()).collect();
    assert!(moments.is_sorted() && moments[0] > before && moments[49] < after, "{before} {moments:?} {after}");
    for (metric, expected) in [("comm", "xsnoop-true"), ("ret", "0"), ("uid", "0")] {
        let column = by_sequence(&values, &format!("bpf.execsnoop.{metric}"));
        assert!(column.values().all(|value| *value == expected), "{metric}: {column:?}");
    }
}

#[test]
fn what_a_full_ring_loses_is_counted() {
    let _alone = alone();
    let bench = Bench::new("ring_kilobytes = 4\n");
    let pid = bench.pmcd.pid().to_string();
    // nobody reads the ring while pmcd is stopped
    assert!(run(Command::new("kill").args(["-STOP", &pid])).status.success());
    bench.burst(200);
    assert!(run(Command::new("kill").args(["-CONT", &pid])).status.success());
    wait_for("the count of all", || (bench.count() == 200).then_some(()));
    bench.burst(1);
    let values = wait_for("the rest to be shown", || {
        let values = bench.values();
        let lost = number(&values, "bpf.execsnoop.lost", "");
        (number(&values, "bpf.execsnoop.count", "") == 201 && last(&values) + lost == 201).then_some(values)
    });
    let lost = number(&values, "bpf.execsnoop.lost", "");
    assert!((100..195).contains(&lost), "{lost}");
    assert_eq!(number(&bench.pmcd.values(&["bpf.module.lost"]), "bpf.module.lost", "execsnoop"), lost);
}

#[test]
fn arguments_are_cut_and_marked_and_made_printable() {
    let _alone = alone();
    let bench = Bench::new("");
    let long = "x".repeat(100_000);
    assert!(run(Command::new(&bench.program).arg(&long)).status.success());
    let text = bench.only();
    let name = bench.program.display().to_string();
    assert_eq!(text.len(), 4096 + 3, "4096 bytes and the mark");
    assert!(text.starts_with(&format!("{name} xxx")) && text.ends_with("xx..."));
    let odd = std::ffi::OsStr::from_bytes(b"a\nb\xffc\x1b[31m");
    assert!(run(Command::new(&bench.program).args([odd, "".as_ref(), "end".as_ref()])).status.success());
    let values = bench.when_shown(2);
    assert_eq!(values["bpf.execsnoop.args"]["1"], format!("{name} a?b\u{fffd}c?[31m  end"));
    assert!(run(Command::new(&bench.program).arg0("")).status.success());
    assert_eq!(bench.when_shown(3)["bpf.execsnoop.args"]["2"], "");
}

#[test]
fn how_much_leaves_the_kernel_is_an_option() {
    let _alone = alone();
    for (options, shown) in [
        ("args = name", "{} "),
        ("args = off", ""),
        ("max_args = 2", "{} one ..."),
        ("args_bytes = 16", "{16}..."),
        ("args = full", "{} one two three"),
    ] {
        let bench = Bench::new(&format!("{options}\n"));
        assert!(run(Command::new(&bench.program).args(["one", "two", "three"])).status.success());
        let name = bench.program.display().to_string();
        let expected = shown.replace("{}", &name).replace("{16}", &name[..16]);
        assert_eq!(bench.only(), expected.trim_end(), "{options}");
    }
}

#[test]
fn filters_by_user_and_by_arguments() {
    let _alone = alone();
    let bench = Bench::new("uid = 65534\nline = needle\n");
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups"]).arg(&bench.program).args(arguments);
        assert!(run(&mut command).status.success());
    };
    assert!(run(Command::new(&bench.program).arg("needle")).status.success());
    as_nobody(&["haystack"]);
    as_nobody(&["hay", "x needle y", "stack"]);
    as_nobody(&["need", "le"]);
    assert_eq!(bench.only(), format!("{} hay x needle y stack", bench.program.display()));
    assert_eq!(bench.count(), 1);
}

#[test]
fn calls_that_failed_when_asked() {
    let _alone = alone();
    let bench = Bench::with("[execsnoop]\nenabled = true\nline = xsnoop-\ninclude_failed = 1\nprocess_count = 500\n");
    let absent = bench.program.with_file_name("xsnoop-absent");
    let script = "import os,sys\ntry: os.execv(sys.argv[1], [sys.argv[1], 'one', 'two'])\nexcept OSError: pass";
    assert!(run(Command::new("python3").args(["-c", script]).arg(&absent)).status.success());
    // arguments that nobody can read
    let script = "import ctypes,sys\nctypes.CDLL(None).execve(sys.argv[1].encode(), ctypes.c_void_p(8), None)";
    assert!(run(Command::new("python3").args(["-c", script]).arg(&bench.program)).status.success());
    assert!(run(Command::new(&bench.program).arg("fine")).status.success());
    let values = wait_for("all calls", || {
        let values = bench.values();
        let rows = by_sequence(&values, "bpf.execsnoop.args");
        // python3 itself was called with the path, too
        rows.values().any(|args| args.ends_with("fine")).then(|| values.clone())
    });
    let arguments = by_sequence(&values, "bpf.execsnoop.args");
    let returned = by_sequence(&values, "bpf.execsnoop.ret");
    let of = |text: &str| {
        let seq =
            arguments.iter().find(|(_, args)| **args == text).unwrap_or_else(|| panic!("{text}: {arguments:?}")).0;
        returned[seq]
    };
    assert_eq!(of(&format!("{} one two", absent.display())), "-2");
    assert_eq!(of(&bench.program.display().to_string()), "-14", "the name alone is known");
    assert_eq!(of(&format!("{} fine", bench.program.display())), "0");
}

#[test]
fn arguments_are_for_those_who_are_named() {
    let _alone = alone();
    let ask = |bench: &Bench, user: &str, host: &str| {
        run(Command::new("chmod").arg("a+rx").arg(bench.pmcd.path("")));
        let mut command = bench.pmcd.command("setpriv");
        command.args(["--reuid", user, "--clear-groups", "pminfo", "-h", host, "-f", "bpf.execsnoop.args"]);
        String::from_utf8_lossy(&run(&mut command).stdout).into_owned()
    };
    const REFUSED: &str = "No permission to perform requested operation";
    let bench = Bench::new("");
    bench.burst(1);
    bench.when_shown(1);
    assert!(ask(&bench, "0", "unix:").contains("xsnoop-true 1"));
    let refused = ask(&bench, "65534", "unix:");
    assert!(refused.contains(REFUSED) && !refused.contains("xsnoop"), "{refused}");
    // who asks over the network is not known, whatever was asked before over the same number
    for host in ["unix:", "127.0.0.1"] {
        let text = ask(&bench, "0", host);
        assert_eq!(text.contains(REFUSED), host != "unix:", "{text}");
    }
    assert_eq!(bench.pmcd.log().matches("option readers in section [pmda]").count(), 1);
    // all but the protected column is for everybody
    let mut others = bench.pmcd.command("pminfo");
    let shown = run(others.args(["-h", "127.0.0.1", "-f", "bpf.execsnoop"])).stdout;
    assert!(String::from_utf8_lossy(&shown).contains("xsnoop-true"));
    drop(bench);
    let named = "[pmda]\nreaders = user:nobody\n[execsnoop]\nenabled = true\ncommand = xsnoop\n";
    let bench = Bench::with(named);
    bench.burst(1);
    bench.when_shown(1);
    assert!(ask(&bench, "65534", "unix:").contains("xsnoop-true 1"));
    assert!(ask(&bench, "1", "unix:").contains(REFUSED));
}
