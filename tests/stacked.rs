//! Device mapper and md above disks of which nothing else makes use: requests are counted once,
//! where they reach a disk. Needs two modules that stock kernels have, and three disks to
//! overwrite, so it runs in the machines of tests/vm only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::Values;
use common::block::direct_reads;
use common::block::diskstats;
use common::block::settle;
use common::block::synced_writes;
use common::needs_root;
use common::number;
use common::plugin;
use common::pmcd::As;
use common::pmcd::Pmcd;
use common::slow;
use common::stdout;
use common::wait_for;

/// The disks below, beside the one that has the test's files.
const LINEAR: &str = "vdb";
const MIRROR: [&str; 2] = ["vdc", "vdd"];

fn requests(disks: &[&str]) -> u64 {
    disks.iter().map(|disk| diskstats(disk).requests).sum()
}

/// What each of the disks and all of them counted when none of them had anything to do.
struct Quiet {
    diskstats: Vec<u64>,
    values: Values,
}

/// All disks that issue requests of their own.
const DISKS: [&str; 4] = ["vda", LINEAR, MIRROR[0], MIRROR[1]];

fn quiet(pmcd: &Pmcd) -> Quiet {
    for disk in DISKS {
        settle(disk);
    }
    wait_for("a moment without a request", || {
        let before = requests(&DISKS);
        let diskstats = DISKS.iter().map(|disk| diskstats(disk).requests).collect();
        let values = pmcd.values(&["bpf.disk"]);
        (requests(&DISKS) == before).then_some(Quiet { diskstats, values })
    })
}

/// Reads and writes on a stacked device are counted at the disks below it, and nowhere else.
fn counted_below(stacked: &str, below: &[&str]) {
    let pmcd = Pmcd::with("stacked", &plugin(), As::Foreground, None);
    let device = format!("/dev/{stacked}");
    let of = |values: &Values, disk: &str| -> u64 {
        values["bpf.disk.dev.total_count"].get(disk).map_or(0, |value| value.parse().unwrap())
    };
    let before = quiet(&pmcd);
    let own = diskstats(stacked).requests;
    direct_reads(&device, 6_000 / slow());
    synced_writes(&device, 3_000 / slow());
    let after = quiet(&pmcd);
    let done = diskstats(stacked).requests - own;
    assert!(done >= 9_000 / slow(), "{stacked} had only {done} requests");
    for metric in after.values.keys().filter(|metric| metric.starts_with("bpf.disk.dev.")) {
        let rows = &after.values[metric];
        assert!(!rows.keys().any(|name| name.split("::").next() == Some(stacked)), "{metric}: {rows:?}");
    }
    let mut all = 0;
    for (index, disk) in DISKS.iter().enumerate() {
        let expected = after.diskstats[index] - before.diskstats[index];
        let found = of(&after.values, disk) - of(&before.values, disk);
        println!("{disk}: {found}, /proc/diskstats {expected}");
        assert_eq!(found, expected, "{disk}");
        assert!(!below.contains(disk) || expected > 0, "{disk} below {stacked} had nothing to do");
        all += expected;
    }
    let host = |values: &Values| number(values, "bpf.disk.all.total_count", "");
    assert_eq!(host(&after.values) - host(&before.values), all, "every request once");
}

#[test]
fn device_mapper_is_counted_at_its_disk() {
    needs_root();
    // without udev nobody would answer dmsetup
    let dmsetup = |args: &[&str]| stdout(Command::new("dmsetup").args(args).args(["--noudevsync", "--noudevrules"]));
    let sectors: u64 = fs::read_to_string(format!("/sys/block/{LINEAR}/size")).unwrap().trim().parse().unwrap();
    dmsetup(&["create", "pmdabpfrs", "--table", &format!("0 {sectors} linear /dev/{LINEAR} 0")]);
    let stacked = stacked_on(LINEAR);
    assert!(stacked.starts_with("dm-"), "{stacked}");
    counted_below(&stacked, &[LINEAR]);
    dmsetup(&["remove", "pmdabpfrs"]);
}

#[test]
fn a_mirror_is_counted_at_both_of_its_disks() {
    needs_root();
    // clean as it is: no resync, whose requests would go on beside ours
    let members = MIRROR.map(|disk| format!("/dev/{disk}"));
    stdout(
        Command::new("mdadm")
            .args(["--create", "/dev/md0", "--run", "--assume-clean", "--level=1", "--bitmap=none", "--metadata=1.2"])
            .arg("--raid-devices=2")
            .args(&members),
    );
    let stacked = stacked_on(MIRROR[0]);
    assert!(stacked.starts_with("md"), "{stacked}");
    counted_below(&stacked, &MIRROR);
    stdout(Command::new("mdadm").args(["--stop", &format!("/dev/{stacked}")]));
}

/// The device that the kernel says to hold a disk.
fn stacked_on(disk: &str) -> String {
    let holder = wait_for("the stacked device", || {
        let holders = fs::read_dir(format!("/sys/block/{disk}/holders")).unwrap();
        let name = holders.flatten().next()?.file_name().into_string().unwrap();
        Path::new("/dev").join(&name).exists().then_some(name)
    });
    println!("{holder} on {disk}");
    holder
}
