//! The tables hold what they must, and the files rendered from them are current.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::PathBuf;

use pmda_bpf::catalog::Catalog;
use pmda_bpf::catalog::render;
use pmda_bpf::modules::MODULES;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Name to `cluster:item`, from a PMNS file.
fn pmids(pmns: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut path = String::new();
    for line in pmns.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [node, "{"] => path = node.to_owned(),
            [leaf, pmid] if pmid.starts_with("157:") => {
                found.insert(format!("{path}.{leaf}"), pmid.to_owned());
            }
            _ => {}
        }
    }
    found
}

#[test]
fn rendered_files_are_current() {
    let catalog = Catalog::new(MODULES);
    let bless = env::var_os("BLESS").is_some();
    for (path, text) in render::files(&catalog) {
        let file = root().join(path);
        let committed = fs::read_to_string(&file).unwrap_or_default();
        if bless && committed != text {
            if path == "pmns/root_bpf" {
                assert_no_pmid_changes(&committed, &text);
            }
            fs::write(&file, &text).unwrap();
        } else {
            let differs = committed.lines().zip(text.lines()).find(|(committed, text)| committed != text);
            assert!(
                committed == text,
                "{path} is not what the tables say, first in {differs:?}; BLESS=1 make test-catalog rewrites it"
            );
        }
    }
}

/// A name keeps its PMID, and a PMID its name, for ever: archives refer to both.
fn assert_no_pmid_changes(before: &str, after: &str) {
    let (before, after) = (pmids(before), pmids(after));
    for (name, pmid) in &before {
        assert_eq!(after.get(name), Some(pmid), "{name} was {pmid} and must stay so");
    }
    let reused: Vec<_> =
        after.iter().filter(|(name, pmid)| before.iter().any(|(old, taken)| taken == *pmid && old != *name)).collect();
    assert!(reused.is_empty(), "PMIDs used again for another name: {reused:?}");
}

#[test]
fn a_changed_pmid_would_be_noticed() {
    let before = "bpf.runq {\n\tlatency\t157:1:0\n}\n";
    assert_no_pmid_changes(before, "bpf.runq {\n\tlatency\t157:1:0\n\tmore\t157:1:1\n}\n");
    for after in ["bpf.runq {\n\tlatency\t157:1:1\n}\n", "bpf.runq {\n\tother\t157:1:0\n}\n"] {
        assert!(std::panic::catch_unwind(|| assert_no_pmid_changes(before, after)).is_err(), "{after}");
    }
}

#[test]
fn numbers_are_unique_and_in_range() {
    let catalog = Catalog::new(MODULES);
    let clusters: BTreeSet<u16> = MODULES.iter().map(|(cluster, _)| *cluster).collect();
    assert_eq!(clusters.len(), MODULES.len(), "a cluster is used twice");
    assert!(clusters.iter().all(|cluster| *cluster < 512), "512 and above are for dynamic names");
    assert_eq!(MODULES[0].1.name, "module", "cluster 0 is the plugin itself");
    let mut pmids = BTreeSet::new();
    let mut names = BTreeSet::new();
    for entry in &catalog.metrics {
        let metric = &entry.metric;
        assert!(metric.item < 512, "{}: items from 512 on are for event parameters", metric.name);
        assert!(pmids.insert((metric.cluster, metric.item)), "{}: PMID used twice", metric.name);
        assert!(names.insert(metric.name.clone()), "{}: name used twice", metric.name);
    }
    for name in &names {
        assert!(!names.iter().any(|other| other.starts_with(&format!("{name}."))), "{name} is a leaf and a node");
    }
}

#[test]
fn instance_domains_follow_the_rule() {
    let catalog = Catalog::new(MODULES);
    for (serial, entry) in &catalog.indoms {
        let cluster = u32::from(MODULES[entry.module].0);
        let own = (cluster * 64..cluster * 64 + 64).contains(serial) && cluster > 0;
        // 2 processes, 3 modules, 4 CPUs, 5 disks, 6 domains, 7 vCPUs
        let shared = (2..=7).contains(serial);
        assert!(
            own || shared,
            "indom {serial} of cluster {cluster}: serial is cluster * 64 + k, or the agent's 2 to 7"
        );
    }
    for entry in &catalog.metrics {
        if let Some(serial) = entry.metric.indom {
            assert!(catalog.indoms.contains_key(&serial), "{}: no indom {serial}", entry.metric.name);
        }
    }
}

#[test]
fn names_and_help_are_fit_to_print() {
    let catalog = Catalog::new(MODULES);
    for entry in &catalog.metrics {
        let metric = &entry.metric;
        for part in metric.name.split('.') {
            let mut chars = part.chars();
            assert!(chars.next().is_some_and(|c| c.is_ascii_lowercase()), "{}", metric.name);
            assert!(chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{}", metric.name);
        }
        assert!(metric.name.starts_with("bpf."), "{}", metric.name);
        assert!(!metric.oneline.is_empty() && metric.oneline.len() < 78, "{}: one line of help", metric.name);
        assert!(
            metric.help.len() > metric.oneline.len() + 20,
            "{}: help says no more than its first line",
            metric.name
        );
    }
    for (_, module) in MODULES {
        assert!(!module.summary.is_empty());
        for option in module.options {
            let default = option.kind.default_text();
            let parsed = default.as_deref().map(|text| option.kind.parse(text));
            assert!(
                parsed.is_none_or(|parsed| parsed == Some(option.kind.default())),
                "{}.{}",
                module.name,
                option.name
            );
        }
        if let Some(programs) = module.shape.programs() {
            let optional = programs.optional.iter().flat_map(|(_, hooks)| hooks.iter());
            assert!(programs.hooks.iter().chain(optional).all(|hook| !hook.is_empty()), "{}", module.name);
            for (option, _) in programs.optional {
                assert!(module.options.iter().any(|own| own.name == *option), "{}: no option {option}", module.name);
            }
        }
    }
}

/// The names, types, units and instances of pmdabpf, from `reference/peer-metrics.md`, with
/// the committed difference that buckets are counts and not times.
#[test]
fn pmdabpf_names_are_kept() {
    let catalog = Catalog::new(MODULES);
    for name in ["bpf.runq.latency", "bpf.disk.all.latency"] {
        let metric = &catalog.metrics.iter().find(|entry| entry.metric.name == name).expect(name).metric;
        assert_eq!(format!("{:?} {:?} {:?}", metric.ty, metric.semantics, metric.units), "U64 Counter Count");
        let kind = catalog.indoms[&metric.indom.unwrap()].kind;
        let instances = kind.instances(MODULES, &[]);
        assert_eq!(instances.ids(), (0..63).collect::<Vec<_>>());
        assert_eq!(instances.by_id(0).unwrap().name, c"0-1");
        assert_eq!(instances.by_id(10).unwrap().name, c"1024-2047");
    }
}
