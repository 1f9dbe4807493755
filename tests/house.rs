//! Rules about the source itself: layers, where unsafe code may stand, what we depend on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Rust files below a directory, with their contents.
fn sources(dir: &str) -> BTreeMap<String, String> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(dir), &mut found);
    let name = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// Each layer with what it may use. `ffi` and `pmda` know nothing of BPF.
const LAYERS: &[(&str, &[&str])] = &[
    ("ffi", &[]),
    ("pmda", &["ffi"]),
    ("catalog", &["pmda"]),
    ("config", &["catalog"]),
    ("workers", &["pmda"]),
    ("privileges", &[]),
    ("readers", &["pmda"]),
    ("ebpf", &["catalog"]),
    ("source", &["pmda", "catalog", "ebpf", "workers"]),
    ("modules", &["pmda", "catalog"]),
    ("status", &["pmda", "catalog", "ebpf", "source", "workers"]),
    ("agent", &["pmda", "catalog", "readers", "source", "status", "workers"]),
    ("loader", &["pmda", "catalog", "config", "ebpf", "privileges", "source", "status", "workers"]),
    (
        "host",
        &[
            "pmda",
            "catalog",
            "config",
            "ebpf",
            "privileges",
            "readers",
            "source",
            "status",
            "workers",
            "agent",
            "loader",
        ],
    ),
    ("lib", &["pmda", "catalog", "modules", "host"]),
    ("bin", &["lib"]),
];

#[test]
fn layers_point_one_way() {
    for (file, text) in sources("src") {
        let layer = file.strip_prefix("src/").unwrap().split(['/', '.']).next().unwrap().to_owned();
        let (_, allowed) =
            LAYERS.iter().find(|(name, _)| *name == layer).unwrap_or_else(|| panic!("{file}: no such layer"));
        for used in text.split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let is_layer = LAYERS.iter().any(|(name, _)| *name == used);
            assert!(!is_layer || used == layer || allowed.contains(&used.as_str()), "{file} uses {used}");
        }
        if ["ffi", "pmda", "catalog", "config"].contains(&layer.as_str()) {
            assert!(!text.contains("libbpf_rs"), "{file}: knows nothing of BPF");
        }
    }
}

/// Where unsafe code stands. Modules have none.
const UNSAFE: &[&str] = &[
    "src/ebpf/fd.rs",
    "src/ebpf/kernel.rs",
    "src/ebpf/load.rs",
    "src/ebpf/memory.rs",
    "src/ebpf/program.rs",
    "src/ebpf/ring.rs",
    "src/ebpf/target.rs",
    "src/ebpf/tracepoint.rs",
    "src/ffi.rs",
    "src/host.rs",
    "src/lib.rs",
    "src/pmda/callbacks.rs",
    "src/pmda/clients.rs",
    "src/pmda/daemon.rs",
    "src/pmda/log.rs",
    "src/pmda/names.rs",
    "src/pmda/profile.rs",
    "src/pmda/slots.rs",
    "src/pmda/value_set.rs",
    "src/privileges.rs",
];

#[test]
fn unsafe_has_an_address() {
    let allowing = sources("src").into_iter().filter(|(_, text)| text.contains("unsafe_code")).map(|(file, _)| file);
    let allowing: BTreeSet<String> = allowing.collect();
    assert_eq!(allowing.iter().map(String::as_str).collect::<Vec<_>>(), UNSAFE);
}

#[test]
fn every_file_says_what_it_is() {
    for (file, text) in
        sources("src").into_iter().chain(sources("tests")).chain(sources("benches")).chain(sources("examples"))
    {
        assert!(text.starts_with("//! "), "{file} begins without a line about itself");
        assert!(text.lines().count() <= 600, "{file} has grown past what one can hold in mind");
    }
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Licences that a GPL-2.0-or-later program may contain.
const COMPATIBLE: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unlicense",
    "CC0-1.0",
    "0BSD",
    "Unicode-3.0",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "GPL-2.0-or-later",
    "Apache-2.0 WITH LLVM-exception",
    "MPL-2.0",
];

/// Whether an SPDX expression leaves a choice that is compatible. Only `OR` within `AND`
/// occurs in what we use.
fn compatible(expression: &str) -> bool {
    expression.replace('/', " OR ").split(" AND ").all(|part| {
        part.trim_matches(['(', ')', ' '])
            .split(" OR ")
            .any(|one| COMPATIBLE.contains(&one.trim_matches(['(', ')', ' '])))
    })
}

#[test]
fn licences_are_compatible_with_ours() {
    assert!(compatible("MIT OR Apache-2.0") && compatible("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!compatible("GPL-3.0-only") && !compatible("MIT AND Proprietary"));
    for package in metadata()["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(compatible(licence), "{}: {licence}", package["name"]);
    }
}

#[test]
fn dependencies_build_with_the_compiler_we_promise() {
    let version = |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().unwrap()).collect() };
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let own = packages.iter().find(|package| package["name"] == "pmda_bpf").unwrap();
    let promised = own["rust_version"].as_str().unwrap();
    assert_eq!(promised, "1.85", "Debian 13 ships this");
    for package in packages {
        if let Some(needed) = package["rust_version"].as_str() {
            let (mut needed, mut promised) = (version(needed), version(promised));
            needed.resize(3, 0);
            promised.resize(3, 0);
            assert!(needed <= promised, "{} needs Rust {needed:?}", package["name"]);
        }
    }
}

/// No BPF program contains what only the machine that built it had.
#[test]
fn programs_use_our_own_kernel_types() {
    for dir in ["bpf", "bpf/lib", "examples/bpf"] {
        for entry in fs::read_dir(root().join(dir)).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "c" || extension == "h") {
                let text = fs::read_to_string(&path).unwrap();
                assert!(!text.contains("vmlinux.h"), "{}", path.display());
                assert!(text.contains("SPDX-License-Identifier: GPL-2.0-or-later"), "{}", path.display());
            }
        }
    }
}
