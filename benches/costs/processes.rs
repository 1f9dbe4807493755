//! Start-up and memory.

use std::ffi::CString;
use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use crate::Line;
use crate::common;
use crate::common::Scratch;
use crate::common::pmcd::As;
use crate::common::pmcd::Pmcd;
use crate::common::pmcd::StockTree;
use crate::median;

/// Opens an agent and initialises it as pmcd does; the interface lives as long as the process.
fn init(agent: &str) {
    let (path, entry) = agent.split_once(',').unwrap_or((agent, "bpf_init"));
    let (path, entry) = (CString::new(path).unwrap(), CString::new(entry).unwrap());
    // SAFETY: the agent's init function has this type; the interface is larger than PCP's and
    // zeroed but for the domain number, its first field.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null(), "dlopen {path:?}");
        let entry = libc::dlsym(handle, entry.as_ptr());
        assert!(!entry.is_null(), "no init function");
        let entry: unsafe extern "C" fn(*mut i32) = std::mem::transmute(entry);
        let interface: &'static mut [i32; 256] = Box::leak(Box::new([0; 256]));
        interface[0] = 157;
        entry(interface.as_mut_ptr());
    }
}

/// Prints the milliseconds that opening and initialising an agent took.
pub fn startup_child(path: &str) {
    let start = Instant::now();
    init(path);
    println!("{}", start.elapsed().as_secs_f64() * 1e3);
}

/// Holds an agent loaded until its standard input ends.
pub fn hold_child(path: &str) {
    init(path);
    println!("ready");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn child(flag: &str, path: &Path, stock: &StockTree, config: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(flag).arg(path).env("PCP_CONF", stock.pcp_conf()).env("PMDA_BPFRS_CONFIG", config);
    command.stderr(Stdio::null());
    command
}

/// An agent loaded in a process of its own, for as long as the value lives.
pub struct Held(Child);

impl Held {
    pub fn new(path: &Path, stock: &StockTree, config: &str) -> Self {
        Self::with_entry(path, "bpf_init", stock, config)
    }

    pub fn with_entry(path: &Path, entry: &str, stock: &StockTree, config: &str) -> Self {
        let agent = format!("{},{entry}", path.display());
        let mut command = child("--hold", Path::new(&agent), stock, config);
        let mut held = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(held.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "{} did not load", path.display());
        Self(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

pub fn startup(stock: &StockTree) -> Vec<Line> {
    let scratch = Scratch::new("bench-startup");
    let config = scratch.file("bpf.conf", "[netatop]\nenabled = false\n");
    let once = |path: &Path| -> f64 {
        common::stdout(&mut child("--startup", path, stock, config.to_str().unwrap())).trim().parse().unwrap()
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..31 {
        ours.push(once(&common::plugin()));
        theirs.push(once(&stock.plugin()));
    }
    vec![Line::new("dlopen and init, runqlat and biolatency; stock", median(ours), median(theirs), "ms", Some(0.5))]
}

pub fn memory(stock: &StockTree) -> Vec<Line> {
    let resident = |pmcd: &Pmcd, metrics: &[&str]| {
        for _ in 0..20 {
            pmcd.values(metrics);
        }
        let kilobytes: f64 = pmcd.status("VmRSS").trim_end_matches(" kB").parse().unwrap();
        kilobytes / 1024.0
    };
    let scratch = Scratch::new("bench-memory");
    let config = scratch.file("bpf.conf", "[netatop]\nenabled = false\n");
    let bare = Pmcd::start("bench-bare", &[], &[], As::Foreground, None);
    let ours = Pmcd::with("bench-ours", &common::plugin(), As::Foreground, Some(&config));
    let theirs = stock.pmcd("bench-stock");
    let base = resident(&bare, &["pmcd.numagents"]);
    let (own, other) = (resident(&ours, &["bpf"]) - base, resident(&theirs, &["bpf"]) - base);
    let values = ours.values(&["bpf.module.map_bytes"]);
    let maps: f64 = values["bpf.module.map_bytes"].values().map(|bytes| bytes.parse::<f64>().unwrap()).sum();
    let theirs_maps: f64 = theirs
        .descriptors()
        .iter()
        .filter_map(|fd| fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", theirs.pid())).ok())
        .filter(|info| info.contains("map_type:"))
        .filter_map(|info| info.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<f64>().ok()))
        .sum();
    vec![
        Line::alone("pmcd's resident memory, added by the plugin", own, "MB", Some(3.0)),
        Line::new("the same; stock", own, other, "MB", None),
        Line::alone("kernel memory of the maps", maps / 1e6, "MB", Some(2.0)),
        Line::new("the same; stock", maps / 1e6, theirs_maps / 1e6, "MB", None),
    ]
}
