//! pmcd under the highest rate of events that this machine makes.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use crate::Line;
use crate::common;
use crate::common::Scratch;
use crate::common::pmapi::Context;
use crate::common::pmcd::As;
use crate::common::pmcd::Pmcd;
use crate::common::pmcd::StockTree;
use crate::events::pin;
use crate::median;

const ROUNDS: usize = 6;
const WINDOW: Duration = Duration::from_secs(10);

/// New programs, datagrams, wake-ups and direct reads, all on CPU 1, until dropped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    processes: Vec<Child>,
}

impl Load {
    fn start(file: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let talk = thread::spawn(move || {
            pin(1);
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(socket.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 64];
            while !until.load(Relaxed) {
                socket.send(&[0; 64]).unwrap();
                socket.recv(&mut buffer).unwrap();
            }
        });
        let until = Arc::clone(&stop);
        let sleep = thread::spawn(move || {
            pin(1);
            while !until.load(Relaxed) {
                thread::sleep(Duration::from_micros(50));
            }
        });
        let on_one = |words: &[&str]| {
            let mut command = Command::new("taskset");
            command.args(["-c", "1"]).args(words).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
            command.spawn().unwrap()
        };
        let execs = "while :; do /bin/true; done";
        let processes = vec![
            on_one(&["sh", "-c", execs]),
            on_one(&["sh", "-c", execs]),
            // in one process: what fio forks leaves the process group
            on_one(&[
                "fio",
                "--name=load",
                &format!("--filename={file}"),
                "--rw=randread",
                "--bs=4k",
                "--direct=1",
                "--ioengine=psync",
                "--size=64M",
                "--thread",
                "--time_based",
                "--runtime=3600",
                "--output=/dev/null",
            ]),
        ];
        Self { stop, threads: vec![talk, sleep], processes }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        for process in &mut self.processes {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", process.id())]).status();
            let _ = process.wait();
        }
    }
}

/// Microseconds of pmcd's bare round trip, over a while, with pmcd and client on CPU 0.
fn round_trips(pmcd: &Pmcd) -> f64 {
    assert!(
        Command::new("taskset")
            .args(["-acp", "0", &pmcd.pid().to_string()])
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    pin(0);
    let context = Context::host(&format!("unix://{}", pmcd.path("run/pmcd.socket").display()));
    // pmcd.numagents
    let mut metric = [2 << 22 | 3];
    let mut times = Vec::new();
    let end = Instant::now() + WINDOW;
    while Instant::now() < end {
        for _ in 0..50 {
            let start = Instant::now();
            drop(context.fetch(&mut metric));
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        thread::sleep(Duration::from_millis(20));
    }
    median(times)
}

pub fn heavy(_: &StockTree) -> Vec<Line> {
    let scratch = Scratch::new("bench-load");
    let file = scratch.path().join("data");
    fs::write(&file, vec![0; 64 << 20]).unwrap();
    let config = scratch.file("bpf.conf", "[execsnoop]\nenabled = true\n");
    let with_plugin = || Pmcd::with("bench-load", &common::plugin(), As::Foreground, Some(&config));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let load = Load::start(file.to_str().unwrap());
    for _ in 0..ROUNDS {
        let bare = Pmcd::start("bench-bare", &[], &[], As::Foreground, None);
        without.push(round_trips(&bare));
        drop(bare);
        let pmcd = with_plugin();
        with.push(round_trips(&pmcd));
    }
    // a minute in one go
    let pmcd = with_plugin();
    let names =
        ["bpf.runq.latency_count", "bpf.disk.all.total_count", "bpf.execsnoop.count", "bpf.net.udp.send.packets"];
    let read = || {
        let values = pmcd.values(&names);
        names.map(|name| common::number(&values, name, "") as f64)
    };
    let usage = || {
        let resident: f64 = pmcd.status("VmRSS").trim_end_matches(" kB").parse().unwrap();
        (resident, pmcd.descriptors().len() as f64)
    };
    pmcd.values(&["bpf"]);
    thread::sleep(Duration::from_secs(10));
    pmcd.values(&["bpf"]);
    let (before, start) = (usage(), Instant::now());
    let first = read();
    thread::sleep(Duration::from_secs(60));
    let last = read();
    let seconds = start.elapsed().as_secs_f64();
    pmcd.values(&["bpf"]);
    let after = usage();
    let lost = common::number(&pmcd.values(&["bpf.execsnoop.lost"]), "bpf.execsnoop.lost", "") as f64;
    drop(load);
    let mut lines = vec![Line::new(
        "pmcd's bare round trip under load, four modules; without the plugin",
        median(with),
        median(without),
        "us",
        Some(1.1),
    )];
    let what = ["waits for a CPU", "block requests", "new programs", "datagrams"];
    for (what, (first, last)) in what.iter().zip(first.iter().zip(last)) {
        lines.push(Line::alone(format!("under that load: {what}"), (last - first) / seconds, "a second", None));
    }
    lines.push(Line::alone("the same: events of execsnoop that were lost", lost, "events", Some(0.0)));
    lines.push(Line::new(
        "pmcd's resident memory after a minute of it; before",
        after.0 / 1e3,
        before.0 / 1e3,
        "MB",
        None,
    ));
    lines.push(Line::new("pmcd's descriptors after it; before", after.1, before.1, "", None));
    lines
}
