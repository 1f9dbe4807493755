//! The agent as a process of its own, for those who want it outside pmcd.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().map(|own| own.to_string_lossy().into_owned()).collect();
    ExitCode::from(u8::try_from(pmda_bpf::daemon(&arguments, check)).unwrap_or(1))
}

/// `--check`: says what is wrong with a configuration here.
fn check(path: &str) -> i32 {
    let (lines, well) = pmda_bpf::check(Path::new(path));
    for line in lines {
        println!("{line}");
    }
    i32::from(!well)
}
