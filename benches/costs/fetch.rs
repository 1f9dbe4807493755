//! What a fetch costs, and how that grows.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use libbpf_rs::MapHandle;
use libbpf_rs::MapType;
use libbpf_rs::libbpf_sys;
use pmda_bpf::ebpf::Memory;

use crate::Line;
use crate::common;
use crate::common::Scratch;
use crate::common::pmapi::Context;
use crate::common::pmcd::As;
use crate::common::pmcd::Pmcd;
use crate::common::pmcd::StockTree;
use crate::events::pin;
use crate::median;

const ROUNDS: usize = 60;

/// Microseconds of each, in turn: every one is run `batch` times, then the next, for as many
/// rounds; the one that starts changes. Medians over the rounds.
fn in_turn<const N: usize>(rounds: usize, batch: [usize; N], mut run: [Box<dyn FnMut() + '_>; N]) -> [f64; N] {
    let mut times: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    for round in 0..rounds {
        for step in 0..N {
            let at = (round + step) % N;
            let start = Instant::now();
            (0..batch[at]).for_each(|_| run[at]());
            times[at].push(start.elapsed().as_secs_f64() * 1e6 / batch[at] as f64);
        }
    }
    times.map(median)
}

const RUNQ: u32 = 157 << 22 | 1 << 10;

/// The whole tree of the plugin by its PMIDs.
fn everything() -> Vec<u32> {
    let text = std::fs::read_to_string(common::root().join("pmns/root_bpf")).unwrap();
    let ids = text.lines().filter_map(|line| line.split_once("157:")?.1.split_once(':'));
    ids.map(|(cluster, item)| 157 << 22 | cluster.parse::<u32>().unwrap() << 10 | item.parse::<u32>().unwrap())
        .collect()
}

pub fn local(stock: &StockTree) -> Vec<Line> {
    pin(1);
    // the stock plugin finds its modules and its configuration through PCP_CONF
    stock.enter();
    let scratch = Scratch::new("bench-pmns");
    let pmns = scratch.file("root", "root {\n\tbpf\t159:*:*\n}\n");
    let specs = [
        format!("add,157,{},bpf_init", common::plugin().display()),
        format!("add,159,{},bpf_init", stock.plugin().display()),
    ];
    let context = Context::local(&[&specs[0], &specs[1]], pmns.to_str().unwrap());
    let mut theirs = context.lookup(&["bpf.runq.latency"]);
    let mut ours = [RUNQ];
    let mut all = everything();
    assert_eq!((context.fetch(&mut ours).count(0), context.fetch(&mut theirs).count(0)), (63, 63));
    let [a, b, c] = in_turn(
        ROUNDS,
        [200, 20, 50],
        [
            Box::new(|| drop(context.fetch(&mut ours))),
            Box::new(|| drop(context.fetch(&mut theirs))),
            Box::new(|| drop(context.fetch(&mut all))),
        ],
    );
    vec![
        Line::new("fetch of bpf.runq.latency, local context; stock", a, b, "us", Some(0.01)),
        Line::new("fetch of all of bpf.*, local context; stock's one histogram", c, b, "us", Some(1.0)),
    ]
}

pub fn through_pmcd(stock: &StockTree) -> Vec<Line> {
    let ours = Pmcd::with("bench-ours", &common::plugin(), As::Foreground, None);
    let theirs = stock.pmcd("bench-stock");
    let id = |pmcd: &Pmcd, name: &str| -> u32 {
        let text = common::stdout(pmcd.command("pminfo").args(["-m", name]));
        let parts: Vec<u32> =
            text.trim().rsplit(' ').next().unwrap().split('.').map(|part| part.parse().unwrap()).collect();
        parts[0] << 22 | parts[1] << 10 | parts[2]
    };
    let host = |pmcd: &Pmcd| Context::host(&format!("unix://{}", pmcd.path("run/pmcd.socket").display()));
    let (bare, runq, stock_runq) =
        (id(&ours, "pmcd.numagents"), id(&ours, "bpf.runq.latency"), id(&theirs, "bpf.runq.latency"));
    let (to_ours, to_theirs) = (host(&ours), host(&theirs));
    let mut all = everything();
    let (mut bare, mut runq, mut stock_runq) = ([bare], [runq], [stock_runq]);
    for _ in 0..50 {
        drop(to_ours.fetch(&mut runq));
        drop(to_theirs.fetch(&mut stock_runq));
    }
    let [a, b, c, d] = in_turn(
        2 * ROUNDS,
        [50; 4],
        [
            Box::new(|| {
                to_ours.use_it();
                drop(to_ours.fetch(&mut bare))
            }),
            Box::new(|| {
                to_ours.use_it();
                drop(to_ours.fetch(&mut runq))
            }),
            Box::new(|| {
                to_theirs.use_it();
                drop(to_theirs.fetch(&mut stock_runq))
            }),
            Box::new(|| {
                to_ours.use_it();
                drop(to_ours.fetch(&mut all))
            }),
        ],
    );
    let mut lines = vec![
        Line::new("fetch of bpf.runq.latency through pmcd; pmcd.numagents", b, a, "us", Some(1.15)),
        Line::new("the stock plugin's, through its pmcd; pmcd.numagents", c, a, "us", None),
        Line::new("fetch of all of bpf.* through pmcd; stock's one histogram", d, c, "us", Some(1.0)),
    ];
    lines.push(pmval(&ours, &theirs));
    lines
}

/// Processor time of pmcd for each sample that pmval takes.
fn pmval(ours: &Pmcd, theirs: &Pmcd) -> Line {
    let spent = |pmcd: &Pmcd| {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", pmcd.pid())).unwrap();
        text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1000.0
    };
    let samples = 200;
    let one = |pmcd: &Pmcd| {
        let before = spent(pmcd);
        common::stdout(pmcd.command("pmval").args(["-s", &samples.to_string(), "-t", "2msec", "bpf.runq.latency"]));
        (spent(pmcd) - before) / f64::from(samples)
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        a.push(one(ours));
        b.push(one(theirs));
    }
    Line::new("pmcd's processor time per sample of pmval; stock", median(a), median(b), "us", None)
}

/// An agent in C that answers through libpcp_pmda's pmdaFetch, for comparison.
fn pmdafetch(scratch: &Scratch) -> PathBuf {
    let library = scratch.path().join("pmdafetch.so");
    let source = common::root().join("benches/costs/pmdafetch.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).args(["-lpcp_pmda", "-lpcp"]);
    common::stdout(&mut compiler);
    library
}

pub fn growth(_: &StockTree) -> Vec<Line> {
    pin(1);
    let scratch = Scratch::new("bench-growth");
    let pmns = scratch.file("root", "root {\n\tscale\t158:*:*\n}\n");
    let specs = [
        format!("add,158,{},scale_init", common::test_agent().display()),
        format!("add,160,{},pmdafetch_init", pmdafetch(&scratch).display()),
    ];
    let context = Context::local(&[&specs[0], &specs[1]], pmns.to_str().unwrap());
    let mut lines = Vec::new();
    for (item, size, batch) in [(0, 63, 200), (1, 1_000, 50), (2, 10_000, 5), (3, 100_000, 1)] {
        let (mut own, mut other) = ([158 << 22 | 1 << 10 | item], [160 << 22 | 1 << 10 | item]);
        assert_eq!(context.fetch(&mut own).numbers(0), context.fetch(&mut other).numbers(0));
        let [a, b] = in_turn(
            ROUNDS / 2,
            [batch, batch],
            [Box::new(|| drop(context.fetch(&mut own))), Box::new(|| drop(context.fetch(&mut other)))],
        );
        lines.push(Line::new(format!("fetch of {size} instances; pmdaFetch"), a, b, "us", None));
        if size == 1_000 || size == 10_000 {
            let half: Vec<i32> = (0..size).filter(|id| id % 2 == 0).collect();
            context.pick(158 << 22 | item, &half);
            context.pick(160 << 22 | item, &half);
            assert_eq!(context.fetch(&mut own).numbers(0), context.fetch(&mut other).numbers(0));
            let [a, b] = in_turn(
                9,
                [batch, 1],
                [Box::new(|| drop(context.fetch(&mut own))), Box::new(|| drop(context.fetch(&mut other)))],
            );
            let target = (size == 10_000).then_some(0.01);
            lines.push(Line::new(format!("{size} instances, half of them picked; pmdaFetch"), a, b, "us", target));
        }
    }
    let rows: Vec<f64> = [2u32, 64, 512].iter().map(|cpus| copy_rows(*cpus)).collect();
    lines.push(Line::new("copy of a histogram of 64 CPUs; of 2", rows[1], rows[0], "us", None));
    lines.push(Line::new("copy of a histogram of 512 CPUs; of 2", rows[2], rows[0], "us", None));
    lines
}

/// Microseconds to add up the rows of so many CPUs.
fn copy_rows(cpus: u32) -> f64 {
    const WORDS: usize = 72;
    let mut options: libbpf_sys::bpf_map_create_opts = Default::default();
    options.sz = size_of_val(&options) as libbpf_sys::size_t;
    options.map_flags = libbpf_sys::BPF_F_MMAPABLE;
    let map = MapHandle::create(MapType::Array, Some("rows"), 4, WORDS as u32 * 8, cpus, &options).unwrap();
    let memory = Memory::map(map.as_fd(), WORDS * 8 * cpus as usize).unwrap();
    let (mut sums, mut copy) = ([0; WORDS], Vec::new());
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        (0..cpus as usize).for_each(|cpu| memory.add_to(cpu * WORDS, &mut sums, &mut copy));
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    black_box(&sums);
    median(times)
}
