//! What the tests of the built plugin share: where it is, how to ask it, a pmcd of our own.

#![allow(
    dead_code,
    missing_docs,
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod block;
pub mod load;
pub mod pmapi;
pub mod pmcd;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The release build of the plugin, which `make test` has made.
pub fn plugin() -> PathBuf {
    let plugin = target().join("release/libpmda_bpf.so");
    assert!(plugin.exists(), "{} is missing: run cargo build --release first", plugin.display());
    plugin
}

pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// An example built as an agent of its own.
pub fn test_agent() -> PathBuf {
    let agent = target().join("release/examples/libtestagent.so");
    assert!(agent.exists(), "{} is missing: run cargo build --release --examples first", agent.display());
    agent
}

/// Live tests load BPF programs.
pub fn needs_root() {
    // SAFETY: cannot fail.
    let uid = unsafe { libc::geteuid() };
    assert_eq!(uid, 0, "this test loads BPF programs and must run as root");
}

/// Live tests put the host under a load of their own: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    needs_root();
    ALONE.lock().unwrap_or_else(|broken| broken.into_inner())
}

/// A directory that is gone with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = env::temp_dir().join(format!("pmdabpfrs-{name}-{pid}-{number}"));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The options that make a PCP client load this agent into itself.
pub fn local(agent: &Path) -> Vec<String> {
    let spec = format!("add,157,{},bpf_init", agent.display());
    let pmns = root().join("pmns/root_bpf").display().to_string();
    ["-L", "-K", "clear", "-K", &spec, "-n", &pmns].map(str::to_owned).to_vec()
}

/// A client in a local context. No configuration is read but what `config` names.
pub fn client(program: &str, agent: &Path, config: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    command.args(local(agent));
    command.env("PMDA_BPFRS_CONFIG", config.unwrap_or(Path::new("/nonexistent/bpf.conf")));
    command
}

pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; is PCP installed?"))
}

pub fn stdout(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `pminfo -f` printed: metric -> instance -> value; a single value under "".
pub type Values = BTreeMap<String, BTreeMap<String, String>>;

pub fn parse(text: &str) -> Values {
    let mut values = Values::new();
    let mut metric = String::new();
    for line in text.lines() {
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("    inst [") {
            let Some((inst, value)) = rest.split_once("] value ") else { continue };
            let name = inst.split_once(" or ").map_or(inst, |(_, name)| name).trim_matches('"');
            values.get_mut(&metric).unwrap().insert(name.to_owned(), value.trim_matches('"').to_owned());
        } else if let Some(value) = line.strip_prefix("    value ") {
            values.get_mut(&metric).unwrap().insert(String::new(), value.trim_matches('"').to_owned());
        } else if line.starts_with(|c: char| c.is_ascii_lowercase())
            && (line.contains(" PMID: ") || !line.contains(' '))
        {
            metric = line.split(' ').next().unwrap().to_owned();
            values.insert(metric.clone(), BTreeMap::new());
        }
    }
    values
}

pub fn number(values: &Values, metric: &str, instance: &str) -> u64 {
    let found = values.get(metric).and_then(|own| own.get(instance));
    found.unwrap_or_else(|| panic!("no value of {metric}[{instance}] in {values:?}")).parse().unwrap()
}

/// Buckets in ascending order of their lower bounds.
pub fn buckets(values: &Values, metric: &str, prefix: &str) -> Vec<u64> {
    let mut found: Vec<(u64, u64)> = values[metric]
        .iter()
        .filter_map(|(name, value)| {
            let bounds = name.strip_prefix(prefix)?;
            Some((bounds.split_once('-')?.0.parse().ok()?, value.parse().unwrap()))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, value)| value).collect()
}

/// How many times slower than hardware this machine is: 1, or what SLOW says where it is emulated.
pub fn slow() -> u64 {
    env::var("SLOW").map_or(1, |text| text.parse().expect("SLOW is a number"))
}

/// Waits until `ready` says something. The limit is only there to end a hopeless run: it has to
/// be beyond what a machine under any load takes.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let limit = Duration::from_secs(180 * slow());
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(Instant::now() < end, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
