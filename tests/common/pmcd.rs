//! A pmcd of our own in a scratch directory: nothing outside it is written, and a system's
//! pmcd is left alone.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use super::Scratch;
use super::Values;
use super::parse;
use super::root;
use super::run;
use super::stdout;
use super::wait_for;

/// The plugin that PCP itself ships, with these of its modules. It reads its configuration in
/// PCP's directory of agents, so that is another one, and so are its cache files.
pub struct StockTree(Scratch);

impl StockTree {
    pub fn new(modules: &[&str]) -> Self {
        let scratch = Scratch::new("stock");
        let dir = scratch.path();
        let own = dir.join("pmdas/bpf");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(dir.join("var/config/pmda")).unwrap();
        std::os::unix::fs::symlink(pcp_conf("PCP_PMDAS_DIR").join("bpf/modules"), own.join("modules")).unwrap();
        let sections: String = modules.iter().map(|module| format!("[{module}.so]\nenabled = true\n")).collect();
        fs::write(own.join("bpf.conf"), sections).unwrap();
        let moved = [("PCP_PMDAS_DIR", dir.join("pmdas")), ("PCP_VAR_DIR", dir.join("var"))];
        scratch.file("pcp.conf", moved_conf(&moved));
        scratch.file("root_bpf", "root {\n\tbpf\t157:*:*\n}\n");
        Self(scratch)
    }

    pub fn plugin(&self) -> PathBuf {
        pcp_conf("PCP_PMDAS_DIR").join("bpf/pmda_bpf.so")
    }

    /// For PCP_CONF of a process that loads it.
    pub fn pcp_conf(&self) -> PathBuf {
        self.0.path().join("pcp.conf")
    }

    /// Has this very process load it so. To be called before libpcp reads its configuration.
    pub fn enter(&self) {
        // SAFETY: no other thread reads the environment yet.
        unsafe { std::env::set_var("PCP_CONF", self.pcp_conf()) };
    }

    /// A pmcd with it alone.
    pub fn pmcd(&self, name: &str) -> Pmcd {
        let agents = [("bpf", 157, "bpf_init", &*self.plugin())];
        let pmdas = self.0.path().join("pmdas");
        Pmcd::start_with(name, &agents, &[&self.0.path().join("root_bpf")], As::Foreground, None, Some(&pmdas))
    }
}

/// The system's pcp.conf with these variables changed.
fn moved_conf(moved: &[(&str, PathBuf)]) -> String {
    let conf = fs::read_to_string("/etc/pcp.conf").expect("/etc/pcp.conf: is PCP installed?");
    let lines = conf.lines().map(|line| {
        let to = moved.iter().find(|(variable, _)| line.starts_with(&format!("{variable}=")));
        to.map_or(format!("{line}\n"), |(variable, path)| format!("{variable}={}\n", path.display()))
    });
    lines.collect()
}

/// How pmcd is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// In the foreground: keeps the identity it is started with.
    Foreground,
    /// As a daemon: becomes user pcp after it has loaded its agents.
    Daemon,
}

pub struct Pmcd {
    scratch: Scratch,
    port: u16,
    child: Option<Child>,
}

/// A variable of /etc/pcp.conf.
pub fn pcp_conf(variable: &str) -> PathBuf {
    let text = fs::read_to_string("/etc/pcp.conf").expect("/etc/pcp.conf: is PCP installed?");
    let value = text.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
    PathBuf::from(value.unwrap_or_else(|| panic!("no {variable} in /etc/pcp.conf")))
}

/// Uid and gid of a user.
pub fn user(name: &str) -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<&str> =
        passwd.lines().find(|line| line.starts_with(&format!("{name}:"))).expect(name).split(':').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

impl Pmcd {
    /// Starts one with these agents (name, domain, init function, DSO) beside pmcd's own.
    pub fn start(
        name: &str,
        agents: &[(&str, u32, &str, &Path)],
        pmns: &[&Path],
        how: As,
        config: Option<&Path>,
    ) -> Self {
        Self::start_with(name, agents, pmns, how, config, None)
    }

    fn start_with(
        name: &str,
        agents: &[(&str, u32, &str, &Path)],
        pmns: &[&Path],
        how: As,
        config: Option<&Path>,
        pmdas: Option<&Path>,
    ) -> Self {
        let line = |(name, domain, init, dso): &(&str, u32, &str, &Path)| {
            format!("{name}\t{domain}\tdso\t{init}\t{}\n", dso.display())
        };
        Self::start_lines(name, &agents.iter().map(line).collect::<String>(), pmns, how, config, pmdas)
    }

    /// One with the agents of these lines of pmcd.conf beside pmcd's own.
    pub fn start_lines(
        name: &str,
        agents: &str,
        pmns: &[&Path],
        how: As,
        config: Option<&Path>,
        pmdas: Option<&Path>,
    ) -> Self {
        let scratch = Scratch::new(name);
        let dir = scratch.path();
        let dir = dir.to_owned();
        let own = |sub: &str| dir.join(sub);
        for sub in ["run", "tmp", "log/pmcd", "pmns", "var/config/pmda"] {
            fs::create_dir_all(own(sub)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let user_name = if how == As::Daemon { "pcp" } else { "root" };
        let system_pmdas = pcp_conf("PCP_PMDAS_DIR");
        let moved = [
            ("PCP_PMDAS_DIR", pmdas.map_or(system_pmdas.clone(), Path::to_owned)),
            ("PCP_RUN_DIR", own("run")),
            ("PCP_TMP_DIR", own("tmp")),
            ("PCP_TMPFILE_DIR", own("tmp")),
            ("PCP_LOG_DIR", own("log")),
            ("PCP_VAR_DIR", own("var")),
            ("PCP_PMCDCONF_PATH", own("pmcd.conf")),
            ("PCP_PMCDOPTIONS_PATH", PathBuf::from("/dev/null")),
            ("PCP_USER", PathBuf::from(user_name)),
            ("PCP_GROUP", PathBuf::from(user_name)),
        ];
        scratch.file("pcp.conf", moved_conf(&moved));
        let mut lines = format!("pmcd\t2\tdso\tpmcd_init\t{}\n", system_pmdas.join("pmcd/pmda_pmcd.so").display());
        lines += agents;
        lines += "\n[access]\nallow \"local:*\" : all;\nallow \":*\" : fetch;\n";
        scratch.file("pmcd.conf", lines);
        let system_pmns = pcp_conf("PCP_VAR_DIR").join("pmns/root_pmcd");
        let merge = pcp_conf("PCP_BINADM_DIR").join("pmnsmerge");
        let merged = run(Command::new(merge).arg("-f").arg(system_pmns).args(pmns).arg(own("pmns/root")));
        assert!(merged.status.success(), "pmnsmerge: {}", String::from_utf8_lossy(&merged.stderr));
        if how == As::Daemon {
            let (uid, gid) = user("pcp");
            for sub in ["", "run", "tmp", "log", "log/pmcd", "var", "var/config", "var/config/pmda"] {
                chown(own(sub), Some(uid), Some(gid)).unwrap();
            }
        }
        let control = own("control");
        assert!(run(Command::new("mkfifo").args(["-m", "666"]).arg(&control)).status.success());
        let mut pmcd = Self { scratch, port, child: None };
        let mut command = pmcd.command(pcp_conf("PCP_BINADM_DIR").join("pmcd"));
        if how == As::Foreground {
            command.arg("-f");
        }
        command
            .arg("-A")
            .arg("-c")
            .arg(own_of(&pmcd, "pmcd.conf"))
            .arg("-n")
            .arg(own_of(&pmcd, "pmns/root"))
            .arg("-l")
            .arg(own_of(&pmcd, "log/pmcd/pmcd.log"))
            .arg("-x")
            .arg(own_of(&pmcd, "log/fatal"))
            .arg("-s")
            .arg(own_of(&pmcd, "run/pmcd.socket"))
            .args(["-p", &port.to_string(), "-i", "127.0.0.1", "-U", user_name])
            .env("TESTAGENT_CONTROL", own("control"))
            .env("PMDA_BPFRS_CONFIG", config.unwrap_or(Path::new("/nonexistent/bpf.conf")))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        pmcd.child = Some(command.spawn().unwrap());
        wait_for("pmcd", || {
            let up = pmcd.command("pminfo").args(["-f", "pmcd.numagents"]).output().unwrap();
            (up.status.success() && String::from_utf8_lossy(&up.stdout).contains("value")).then_some(())
        });
        pmcd.wait_for_modules();
        pmcd
    }

    /// Until none is being loaded any more: pmcd's start does not wait for that.
    pub fn wait_for_modules(&self) {
        wait_for("modules to be loaded", || {
            let states = self.command("pminfo").args(["-f", "bpf.module.state"]).output().unwrap();
            (!String::from_utf8_lossy(&states.stdout).contains("] value 2")).then_some(())
        });
    }

    /// Until a module runs, and its worker is well: on a machine that stalls it may seem stuck.
    pub fn wait_for_module(&self, module: &str) {
        let state = format!("\"{module}\"] value 1");
        wait_for(&format!("module {module} to run"), || {
            let states = self.command("pminfo").args(["-f", "bpf.module.state"]).output().unwrap();
            String::from_utf8_lossy(&states.stdout).contains(&state).then_some(())
        });
    }

    /// The threads that the plugin has started, each with what it is allowed to do.
    pub fn threads(&self) -> Vec<(String, u64)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks
            .filter_map(|task| {
                let task = task.unwrap().path();
                let name = fs::read_to_string(task.join("comm")).ok()?.trim().to_owned();
                let status = fs::read_to_string(task.join("status")).ok()?;
                let held = |set: &str| {
                    let line = status.lines().find_map(|line| line.strip_prefix(set))?;
                    u64::from_str_radix(line.trim(), 16).ok()
                };
                Some((name, held("CapPrm:")? | held("CapEff:")?))
            })
            .collect()
    }

    /// Has the test agent do something to itself, see `examples/testagent/control.rs`.
    pub fn tell(&self, command: &str) {
        let mut pipe = fs::OpenOptions::new().write(true).open(self.path("control")).unwrap();
        writeln!(pipe, "{command}").unwrap();
    }

    /// One with the plugin alone.
    pub fn with(name: &str, plugin: &Path, how: As, config: Option<&Path>) -> Self {
        Self::start(name, &[("bpf", 157, "bpf_init", plugin)], &[&root().join("pmns/root_bpf")], how, config)
    }

    /// A program in this pmcd's environment.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let dir = self.scratch.path();
        let mut command = Command::new(program.as_ref());
        for variable in ["PCP_TMP_DIR", "PCP_RUN_DIR", "PCP_LOG_DIR", "PCP_TMPFILE_DIR", "PCP_VAR_DIR"] {
            command.env_remove(variable);
        }
        // PCP's Python programs want the Python that PCP was packaged for
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("/usr/bin:{path}"))
            .env("PCP_CONF", dir.join("pcp.conf"))
            .env("PMCD_PORT", self.port.to_string())
            .env("PMCD_HOST", "127.0.0.1")
            .env("PMNS_DEFAULT", dir.join("pmns/root"));
        command
    }

    pub fn values(&self, metrics: &[&str]) -> Values {
        parse(&stdout(self.command("pminfo").arg("-f").args(metrics)))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log/pmcd/pmcd.log")).unwrap_or_default()
    }

    pub fn path(&self, sub: &str) -> PathBuf {
        self.scratch.path().join(sub)
    }

    /// The process that answers: a daemon is a child of the one started.
    pub fn pid(&self) -> u32 {
        self.find().expect("pmcd's process")
    }

    fn find(&self) -> Option<u32> {
        let socket = self.path("run/pmcd.socket").display().to_string();
        let found = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            (line.contains("/pmcd\0") && line.contains(&socket)).then_some(pid)
        });
        found.max()
    }

    /// It was killed: waits until it is gone.
    pub fn gone(mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        wait_for("the killed pmcd to end", || self.find().is_none().then_some(()));
    }

    /// A line of /proc/PID/status.
    pub fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
    }

    pub fn descriptors(&self) -> Vec<u32> {
        let list = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        list.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    }
}

fn own_of(pmcd: &Pmcd, sub: &str) -> PathBuf {
    pmcd.path(sub)
}

impl Drop for Pmcd {
    fn drop(&mut self) {
        let Some(pid) = self.find() else { return };
        // SAFETY: the process is ours, found by the socket in our directory.
        unsafe { libc::kill(pid as i32, libc::SIGTERM) };
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        wait_for("pmcd to end", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    }
}
