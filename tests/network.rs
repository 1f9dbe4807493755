//! Traffic of each process: as many bytes and calls as the process itself counts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::process::Command;

use common::Scratch;
use common::Values;
use common::alone;
use common::number;
use common::plugin;
use common::pmcd::As;
use common::pmcd::Pmcd;
use common::slow;
use common::stdout;
use common::wait_for;

/// The leaves below bpf.proc.net, bpf.net and bpf.net.other.
const LEAVES: [&str; 8] = [
    "tcp.send.packets",
    "tcp.send.bytes",
    "tcp.recv.packets",
    "tcp.recv.bytes",
    "udp.send.packets",
    "udp.send.bytes",
    "udp.recv.packets",
    "udp.recv.bytes",
];

/// Client and server over both protocols and both families; what is not traffic is in between:
/// calls that fail, that only look, that find the end. Each prints its pid and its own count.
const TRAFFIC: &str = r#"
import os, socket
pairs = []
for family, address in (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"):
    tcp = socket.socket(family, socket.SOCK_STREAM); tcp.bind((address, 0)); tcp.listen(1)
    udp = socket.socket(family, socket.SOCK_DGRAM); udp.bind((address, 0))
    pairs.append((family, tcp, udp))
client = os.fork() == 0
done = [0] * 8
def count(at, size):
    done[at] += 1
    done[at + 1] += size
    return size
for family, tcp, udp in pairs:
    if client:
        stream = socket.socket(family, socket.SOCK_STREAM); stream.connect(tcp.getsockname()[:2])
        gram = socket.socket(family, socket.SOCK_DGRAM); gram.connect(udp.getsockname()[:2])
        for size in range(1, 301):
            stream.sendall(b"x" * size * 10); count(0, size * 10)
            assert count(2, len(stream.recv(100, socket.MSG_WAITALL))) == 100
            gram.send(b"x" * size); count(4, size)
            count(6, len(gram.recv(4096)))
        try: gram.send(b"x" * 70000)
        except OSError: pass
        gram.send(b""); count(4, 0)
        stream.shutdown(socket.SHUT_WR)
        try: stream.send(b"x")
        except OSError: pass
        stream.recv(1)
        stream.close()
    else:
        stream, _ = tcp.accept()
        for size in range(1, 301):
            got = 0
            while got < size * 10:
                stream.recv(1, socket.MSG_PEEK)
                got += count(2, len(stream.recv(4096)))
            stream.sendall(b"y" * 100); count(0, 100)
            data, peer = udp.recvfrom(4096); count(6, len(data))
            udp.sendto(b"y" * 50, peer); count(4, 50)
        data, peer = udp.recvfrom(4096); assert data == b""; count(6, 0)
        assert stream.recv(1) == b""
        try: stream.recv(1, socket.MSG_DONTWAIT)
        except OSError: pass
        stream.close()
os.write(1, (" ".join(map(str, [os.getpid()] + done)) + "\n").encode())
import sys, time
if "wait" in sys.argv: time.sleep(3600)
if not client: os.wait()
"#;

/// A child that is killed with its group when the value goes.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

/// Calls that the kernel left out: from 7.0 on programs are preempted, and a run that meets
/// another of its program on its CPU does not take place.
fn left_out(pmcd: &Pmcd) -> u64 {
    number(&pmcd.values(&["bpf.module.lost"]), "bpf.module.lost", "netatop")
}

/// How often a number was seen in a row.
#[derive(Default)]
struct Unchanged(u64, u32);

impl Unchanged {
    fn look(&mut self, number: u64) -> u32 {
        *self = if self.0 == number { Self(number, self.1 + 1) } else { Self(number, 0) };
        self.1
    }
}

fn counts(line: &str) -> (String, Vec<u64>) {
    let mut words = line.split_whitespace();
    let pid = words.next().unwrap().to_owned();
    (pid, words.map(|word| word.parse().unwrap()).collect())
}

fn of_process(values: &Values, pid: &str) -> Option<Vec<u64>> {
    LEAVES.iter().map(|leaf| values[&format!("bpf.proc.net.{leaf}")].get(pid)?.parse().ok()).collect()
}

fn totals(pmcd: &Pmcd, root: &str) -> Vec<u64> {
    let names: Vec<String> = LEAVES.iter().map(|leaf| format!("{root}.{leaf}")).collect();
    let values = pmcd.values(&names.iter().map(String::as_str).collect::<Vec<_>>());
    names.iter().map(|name| number(&values, name, "")).collect()
}

/// A pmcd with these options of netatop. Clients talk to it over its socket in the file system,
/// which is no traffic.
fn netatop(name: &str, options: &str) -> Pmcd {
    let scratch = Scratch::new(name);
    let file = scratch.file("bpf.conf", format!("[netatop]\nenabled = true\n{options}"));
    let pmcd = Pmcd::with(name, &plugin(), As::Foreground, Some(&file));
    pmcd.wait_for_module("netatop");
    pmcd
}

#[test]
fn bytes_and_calls_of_each_process() {
    use std::io::BufRead as _;
    use std::os::unix::process::CommandExt as _;
    let _alone = alone();
    let pmcd = netatop("traffic", "");
    let before = totals(&pmcd, "bpf.net");
    let mut command = Command::new("python3");
    command.args(["-c", TRAFFIC, "wait"]).stdout(std::process::Stdio::piped()).process_group(0);
    let mut child = Child(command.spawn().unwrap());
    let lines = std::io::BufReader::new(child.0.stdout.take().unwrap()).lines();
    let both: Vec<(String, Vec<u64>)> = lines.take(2).map(|line| counts(&line.unwrap())).collect();
    for (pid, expected) in &both {
        assert_eq!(expected.len(), 8);
        let mut unchanged = Unchanged::default();
        wait_for("the process's row to be complete", || {
            let found = of_process(&pmcd.values(&["bpf.proc.net"]), pid)?;
            println!("{pid}: {found:?}, expected {expected:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found <= expected, "{pid}: {found}, expected {expected}");
            }
            let calls = |counts: &[u64]| counts.iter().step_by(2).sum::<u64>();
            let missing = calls(expected) - calls(&found);
            let told = unchanged.look(missing) > 10 && missing <= left_out(&pmcd);
            (&found == expected || told).then_some(())
        });
    }
    let after = totals(&pmcd, "bpf.net");
    for at in 0..8 {
        let own: u64 = both.iter().map(|(_, counts)| counts[at]).sum();
        let found = after[at] - before[at];
        assert!(found >= own || left_out(&pmcd) > 0, "{}: {found} of {own}", LEAVES[at]);
    }
    // as pcp-atop asks: the domain with serial number 2, the number is the process id
    let text = stdout(pmcd.command("pminfo").args(["-df", "bpf.proc.net.tcp.send.bytes"]));
    assert!(
        text.contains("InDom: 157.2 0x27400002") && text.contains(&format!("inst [{0} or \"{0}\"]", both[0].0)),
        "{text}"
    );
    assert!(text.contains("Semantics: counter  Units: byte"), "{text}");
}

#[test]
fn processes_that_exit_leave_and_their_bytes_stay() {
    let _alone = alone();
    let pmcd = netatop("exit", "linger = 3\n");
    let before = totals(&pmcd, "bpf.net");
    let text = stdout(Command::new("python3").args(["-c", TRAFFIC]));
    let both: Vec<(String, Vec<u64>)> = text.lines().map(counts).collect();
    for (pid, expected) in &both {
        wait_for("the row of a process that ended to leave", || {
            let values = pmcd.values(&["bpf.proc.net"]);
            let row = of_process(&values, pid);
            assert!(row.as_ref().is_none_or(|row| row == expected || row.iter().sum::<u64>() <= expected.iter().sum()));
            row.is_none().then_some(())
        });
    }
    let after = totals(&pmcd, "bpf.net");
    for at in 0..8 {
        let own: u64 = both.iter().map(|(_, counts)| counts[at]).sum();
        assert!(after[at] - before[at] >= own || left_out(&pmcd) > 0, "{}", LEAVES[at]);
    }
}

/// One row for many processes: each is counted, in its row or with the others.
#[test]
fn what_finds_no_row_is_counted_all_the_same() {
    let _alone = alone();
    let pmcd = netatop("other", "process_count = 4\nlinger = 60\n");
    let (all_before, other_before) = (totals(&pmcd, "bpf.net"), totals(&pmcd, "bpf.net.other"));
    let script = r#"
import os, socket, time
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sink.bind(("127.0.0.1", 0))
children = []
for n in range(12):
    pid = os.fork()
    if pid == 0:
        for _ in range(100): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x" * 10, sink.getsockname())
        time.sleep(3600)
    children.append(pid)
time.sleep(3)
for pid in children: os.kill(pid, 9); os.wait()
"#;
    assert!(Command::new("python3").args(["-c", script]).status().unwrap().success());
    let (all, other) = (totals(&pmcd, "bpf.net"), totals(&pmcd, "bpf.net.other"));
    let sent = all[5] - all_before[5];
    let without_row = other[5] - other_before[5];
    let lost = left_out(&pmcd);
    assert!(sent + 10 * lost >= 12_000, "{sent} and {lost} calls left out");
    assert!((8_000..=sent).contains(&(without_row + 10 * lost).min(sent)), "{without_row} of {sent}");
    assert!(pmcd.values(&["bpf.proc.net.udp.send.bytes"])["bpf.proc.net.udp.send.bytes"].len() <= 4);
}

/// Thousands of processes, one after the other: none is missing in the totals, and the table
/// stays as small as it was made.
#[test]
fn many_short_processes() {
    let _alone = alone();
    let processes = 20_000 / slow();
    let pmcd = netatop("many", "process_count = 256\nlinger = 1\n");
    let before = totals(&pmcd, "bpf.net");
    let script = format!(
        r#"
import os, socket
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sink.bind(("127.0.0.1", 0))
source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range({processes}):
    pid = os.fork()
    if pid == 0:
        source.sendto(b"x" * 7, sink.getsockname())
        os._exit(0)
    os.waitpid(pid, 0)
"#
    );
    assert!(Command::new("python3").args(["-c", &script]).status().unwrap().success());
    let after = totals(&pmcd, "bpf.net");
    let lost = left_out(&pmcd);
    assert!(after[4] - before[4] + lost >= processes, "{before:?} {after:?}, {lost} left out");
    assert!(after[5] - before[5] + 7 * lost >= processes * 7, "{before:?} {after:?}, {lost} left out");
    assert!(after[4] - before[4] < processes + 1_000, "{before:?} {after:?}");
    let rows = pmcd.values(&["bpf.proc.net.udp.send.bytes"])["bpf.proc.net.udp.send.bytes"].len();
    assert!(rows <= 256, "{rows}");
}

/// A process with the number of one that ended begins at nothing.
#[test]
fn a_process_id_that_is_used_again_is_another_process() {
    let _alone = alone();
    let pmcd = netatop("reuse", "linger = 60\n");
    let script = r#"
import os, socket, sys, time
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sink.bind(("127.0.0.1", 0))
def child(size):
    pid = os.fork()
    if pid == 0:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x" * size, sink.getsockname())
        time.sleep(3600 if size == 11 else 0)
        os._exit(0)
    return pid
first = child(1000)
os.waitpid(first, 0)
for _ in range(1000):
    open("/proc/sys/kernel/ns_last_pid", "w").write(str(first - 1))
    pid = child(11)
    if pid == first: break
    os.kill(pid, 9); os.waitpid(pid, 0)
else: sys.exit("no process got the number again")
print(first, flush=True)
time.sleep(3600)
"#;
    use std::io::BufRead as _;
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new("python3");
    command.args(["-c", script]).stdout(std::process::Stdio::piped()).process_group(0);
    let mut child = Child(command.spawn().unwrap());
    let mut line = String::new();
    std::io::BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = line.trim();
    assert!(!pid.is_empty(), "no process got the number again");
    wait_for("the second process alone", || {
        let values = pmcd.values(&["bpf.proc.net.udp.send.bytes"]);
        (values["bpf.proc.net.udp.send.bytes"].get(pid).map(String::as_str) == Some("11")).then_some(())
    });
}

/// Processes that begin and end on all CPUs at once, while others live on: each of these keeps
/// a row of its own with its own bytes.
#[test]
fn rows_are_nobody_elses() {
    use std::io::BufRead as _;
    use std::os::unix::process::CommandExt as _;
    let _alone = alone();
    let pmcd = netatop("churn", "process_count = 64\nlinger = 1\n");
    let script = format!(
        r#"
import os, socket, sys, time
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sink.bind(("127.0.0.1", 0))
def send(size):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x" * size, sink.getsockname())
def churn(times):
    for _ in range(times):
        if os.fork() == 0:
            send(1)
            os._exit(0)
        os.wait()
lasting = []
for n in range(30):
    pid = os.fork()
    if pid == 0:
        send(100 + n)
        time.sleep(2)
        for _ in range(20):
            send(1000); time.sleep(0.01)
        time.sleep(3600)
    lasting.append((pid, 20100 + n))
churning = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        churn({}); os._exit(0)
    churning.append(pid)
for pid in churning: os.waitpid(pid, 0)
time.sleep(3)
for pid, size in lasting: os.write(1, ("%d %d\n" % (pid, size)).encode())
time.sleep(3600)
"#,
        2_000 / slow()
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]).stdout(std::process::Stdio::piped()).process_group(0);
    let mut child = Child(command.spawn().unwrap());
    let lines = std::io::BufReader::new(child.0.stdout.take().unwrap()).lines();
    let lasting: Vec<(String, Vec<u64>)> = lines.take(30).map(|line| counts(&line.unwrap())).collect();
    let mut unchanged = Unchanged::default();
    wait_for("the rows of those that live", || {
        let values = pmcd.values(&["bpf.proc.net.udp.send.bytes"]);
        let rows = &values["bpf.proc.net.udp.send.bytes"];
        let found = |pid: &str| rows.get(pid).and_then(|value| value.parse::<u64>().ok());
        for (pid, bytes) in &lasting {
            assert!(found(pid).unwrap_or(0) <= bytes[0], "{pid}: {:?}, expected {bytes:?}", found(pid));
        }
        let missing: u64 = lasting.iter().map(|(pid, bytes)| bytes[0] - found(pid).unwrap_or(0)).sum();
        let told = unchanged.look(missing) > 10 && missing <= 1000 * left_out(&pmcd);
        (missing == 0 || told).then_some(())
    });
    assert_eq!(totals(&pmcd, "bpf.net.other")[5], 0, "the table was never full");
}
