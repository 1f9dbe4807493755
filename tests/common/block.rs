//! Loop devices and the kernel's own count of block requests.

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::run;
use super::wait_for;

const LOOP_CTL_ADD: libc::Ioctl = 0x4C80;
const LOOP_CTL_REMOVE: libc::Ioctl = 0x4C81;

/// A loop device of a number of our own, backed by a file. Gone with the value.
pub struct Loop {
    number: i32,
}

impl Loop {
    pub fn new(number: i32, file: &Path) -> Self {
        control(LOOP_CTL_ADD, number);
        let device = format!("/dev/loop{number}");
        // devtmpfs makes the node some time after the device, and nothing does in a container
        wait_for("the loop device", || {
            if !Path::new(&device).exists() {
                run(Command::new("mknod").args([&device, "b", "7", &number.to_string()]));
            }
            run(Command::new("losetup").args(["--direct-io=off", &device]).arg(file)).status.success().then_some(())
        });
        Self { number }
    }

    pub fn name(&self) -> String {
        format!("loop{}", self.number)
    }

    pub fn device(&self) -> String {
        format!("/dev/{}", self.name())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run(Command::new("losetup").args(["-d", &self.device()]));
        wait_for("the loop device to become free", || {
            let backing = format!("/sys/block/{}/loop/backing_file", self.name());
            (!Path::new(&backing).exists()).then_some(())
        });
        control(LOOP_CTL_REMOVE, self.number);
    }
}

fn control(command: libc::Ioctl, number: i32) {
    let file = File::open("/dev/loop-control").expect("/dev/loop-control");
    // SAFETY: the descriptor is open; both commands take a number.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), command, number) };
    assert!(status >= 0 || command == LOOP_CTL_ADD, "loop-control: {}", std::io::Error::last_os_error());
}

/// What /proc/diskstats counts of one disk.
#[derive(Debug, Clone, Copy)]
pub struct Diskstats {
    /// Requests: reads, writes, discards.
    pub requests: u64,
    /// Milliseconds that they took together.
    pub milliseconds: u64,
}

pub fn diskstats(disk: &str) -> Diskstats {
    let text = fs::read_to_string("/proc/diskstats").unwrap();
    let line =
        text.lines().find(|line| line.split_whitespace().nth(2) == Some(disk)).unwrap_or_else(|| panic!("{disk}"));
    let fields: Vec<u64> = line.split_whitespace().skip(3).map(|field| field.parse().unwrap()).collect();
    let add = |at: [usize; 3]| at.iter().map(|at| fields[*at]).sum();
    Diskstats { requests: add([0, 4, 11]), milliseconds: add([3, 7, 14]) }
}

/// Writes back what is dirty and waits until a disk has been idle for half a second.
pub fn settle(disk: &str) {
    run(&mut Command::new("sync"));
    wait_for("the disk to become idle", || {
        let before = diskstats(disk).requests;
        thread::sleep(Duration::from_millis(500));
        (diskstats(disk).requests == before).then_some(())
    });
}

/// Random direct reads of 4 kB, one at a time.
pub fn direct_reads(file: &str, count: u64) {
    reads(file, count, 1);
}

/// Random direct reads of 4 kB, so many in flight.
pub fn reads(file: &str, count: u64, depth: u32) {
    let output = run(Command::new("fio").args([
        "--name=reads",
        &format!("--filename={file}"),
        "--rw=randread",
        "--bs=4k",
        "--direct=1",
        if depth == 1 { "--ioengine=psync" } else { "--ioengine=libaio" },
        &format!("--iodepth={depth}"),
        "--size=64M",
        "--io_size=100G",
        &format!("--number_ios={count}"),
        "--output=/dev/null",
    ]));
    assert!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes through the page cache, some synced, then everything.
pub fn buffered_writes(file: &str) {
    let output = run(Command::new("fio").args([
        "--name=writes",
        &format!("--filename={file}"),
        "--rw=randwrite",
        "--bs=16k",
        "--size=128M",
        "--io_size=96M",
        "--ioengine=psync",
        "--fsync=64",
        "--end_fsync=1",
        "--output=/dev/null",
    ]));
    assert!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
}

/// Random direct writes of 4 kB, one at a time, each synced.
pub fn synced_writes(file: &str, count: u64) {
    let output = run(Command::new("fio").args([
        "--name=synced",
        &format!("--filename={file}"),
        "--rw=randwrite",
        "--bs=4k",
        "--direct=1",
        "--fsync=1",
        "--ioengine=psync",
        "--size=64M",
        "--io_size=100G",
        &format!("--number_ios={count}"),
        "--output=/dev/null",
    ]));
    assert!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
}
