//! What a test tells an agent inside pmcd to do to itself, a line each through a named pipe:
//! `on MODULE`, `off MODULE`, `panic WORKER`, `hang WORKER SECONDS`.

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::thread;
use std::time::Duration;

use pmda_bpf::host::Host;
use pmda_bpf::host::Thread;

/// Reads the pipe that TESTAGENT_CONTROL names, if there is one.
pub fn listen(host: &'static Host) {
    let Some(path) = std::env::var_os("TESTAGENT_CONTROL") else { return };
    thread::spawn(move || {
        // each writer closes it: opened again, it waits for the next
        while let Ok(pipe) = File::open(&path) {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                obey(host, &line);
            }
        }
    });
}

fn obey(host: &'static Host, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["on", module] => host.switch(module, true),
        ["off", module] => host.switch(module, false),
        ["panic", worker] => host.run_in(thread_of(worker), || panic!("told to")),
        ["hang", worker, seconds] => {
            let seconds = Duration::from_secs(seconds.parse().unwrap_or(0));
            host.run_in(thread_of(worker), move || thread::sleep(seconds));
        }
        _ => panic!("no such command: {line}"),
    }
}

fn thread_of(worker: &str) -> Thread {
    match worker {
        "load" => Thread::Load,
        "events" => Thread::Events,
        "poll" => Thread::Poll,
        _ => panic!("no such worker: {worker}"),
    }
}
