//! The agent as a process of its own, and its command line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::process::Command;

use common::Scratch;
use common::needs_root;
use common::number;
use common::pmcd::As;
use common::pmcd::Pmcd;
use common::root;
use common::run;
use common::target;
use common::wait_for;

fn pmdabpf() -> Command {
    let program = target().join("release/pmdabpf");
    assert!(program.exists(), "{} is missing: run cargo build --release first", program.display());
    Command::new(program)
}

/// Exit status and all that was printed.
fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[test]
fn pmcd_asks_it_through_a_pipe() {
    needs_root();
    let scratch = Scratch::new("pipe");
    let log = scratch.path().join("bpfrs.log");
    let config = scratch.file("bpf.conf", "[execsnoop]\nenabled = true\n");
    let program = pmdabpf().get_program().to_str().unwrap().to_owned();
    let line = format!("bpf\t157\tpipe\tbinary\t{program} -d 157 -l {}\n", log.display());
    let pmcd = Pmcd::start_lines("pipe", &line, &[&root().join("pmns/root_bpf")], As::Foreground, Some(&config), None);
    let values = pmcd.values(&["bpf"]);
    for module in ["runqlat", "biolatency", "execsnoop", "netatop"] {
        assert_eq!(number(&values, "bpf.module.state", module), 1, "{module}");
    }
    assert_eq!(values["bpf.runq.latency"].len(), 63);
    let count = || number(&pmcd.values(&["bpf.runq.latency_count"]), "bpf.runq.latency_count", "");
    let before = count();
    wait_for("values that move", || (count() > before).then_some(()));
    // who asks is told to a daemon too
    run(Command::new("chmod").arg("a+rx").arg(pmcd.path("")));
    let ask = |user: &str| {
        let mut command = pmcd.command("setpriv");
        command.args(["--reuid", user, "--clear-groups", "pminfo", "-h", "unix:", "-f", "bpf.execsnoop.args"]);
        String::from_utf8_lossy(&run(&mut command).stdout).into_owned()
    };
    wait_for("an event", || ask("0").contains("pminfo").then_some(()));
    assert!(ask("65534").contains("No permission"), "{}", ask("65534"));
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("Info: bpf pmda init complete, loaded modules (4)"), "{said}");
    let running = || {
        let found = run(Command::new("pgrep").args(["-f", &log.display().to_string()]));
        !found.stdout.is_empty()
    };
    assert!(running());
    drop(pmcd);
    wait_for("the daemon to end with pmcd", || (!running()).then_some(()));
}

#[test]
fn a_configuration_can_be_tried() {
    needs_root();
    let scratch = Scratch::new("check");
    let good = scratch.file("good.conf", "[runqlat]\nenabled = true\n[netatop.so]\nenabled = false\n");
    for option in ["--check", "--tryload", "-q"] {
        let (status, text) = outcome(pmdabpf().arg(option).arg(&good));
        assert_eq!(status, Some(0), "{text}");
        assert!(text.contains("module runqlat: ok\n") && text.contains("module biolatency: ok\n"), "{text}");
        assert!(!text.contains("module netatop"), "{text}");
    }
    let bad = scratch.file("bad.conf", "[execsnoop]\nenabled = true\nprocess_count = 0\n");
    let (status, text) = outcome(pmdabpf().arg("--check").arg(&bad));
    assert_eq!(status, Some(1), "{text}");
    let line = format!("{}:3: found process_count = \"0\" in [execsnoop]; accepted: a whole number", bad.display());
    assert!(text.contains(&line) && text.contains("module execsnoop: ok"), "{text}");
    // what is not there is wrong, and nothing is called right before it was tried
    let more =
        scratch.file("more.conf", "[pmda]\nstart_wait = 0\nreaders = user:nosuchuser\n[biosnoop]\nenabled = true\n");
    let (status, text) = outcome(pmdabpf().args(["-p", "--check"]).arg(&more));
    assert_eq!(status, Some(1), "{text}");
    for line in ["module biosnoop: not part of this version", "readers: no such user:nosuchuser", "module runqlat: ok"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    let (status, text) = outcome(pmdabpf().args(["--check", "/nonexistent"]));
    assert!(status == Some(1) && text.contains("/nonexistent: No such file"), "{text}");
    // as a user who may not load anything
    let copy = scratch.path().join("pmdabpf");
    fs::copy(pmdabpf().get_program(), &copy).unwrap();
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(scratch.path()));
    let mut as_nobody = Command::new("setpriv");
    as_nobody.args(["--reuid", "65534", "--clear-groups"]).arg(copy).arg("--check").arg(&good);
    let (status, text) = outcome(&mut as_nobody);
    assert!(status == Some(1) && text.contains("module runqlat: no privileges: uid 65534"), "{text}");
}

#[test]
fn the_command_line_is_checked() {
    let (status, text) = outcome(pmdabpf().arg("--help"));
    assert!(status == Some(0) && text.contains("--check") && text.contains("--domain"), "{text}");
    for arguments in [&["--nonsense"][..], &["-d"], &["extra"], &["-d", "x"], &["-p", "extra"]] {
        let (status, text) = outcome(pmdabpf().args(arguments));
        assert!(status == Some(1) && text.contains("Usage"), "{arguments:?}: {status:?} {text}");
    }
}
