//! Compiles every `bpf/*.bpf.c` (and the example modules' programs) and binds PCP's C API.
//!
//! Nothing of this is needed at run time: the objects are embedded by [`object!`] and the
//! bindings become part of `src/ffi.rs`.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for dir in ["bpf", "bpf/lib", "include", "examples/bpf"] {
        println!("cargo:rerun-if-changed={dir}");
    }
    for dir in ["bpf", "examples/bpf"] {
        compile_programs(Path::new(dir), &out)?;
    }
    bind_pcp(&out)?;
    link();
    Ok(())
}

/// One object per `<dir>/<name>.bpf.c`, written to `OUT_DIR/<name>.bpf.o`.
fn compile_programs(dir: &Path, out: &Path) -> Outcome {
    let mut sources: Vec<PathBuf> = match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?,
        Err(_) => return Ok(()),
    };
    sources.sort();
    for source in sources {
        let Some(name) = source.file_name().and_then(OsStr::to_str) else { continue };
        let Some(tool) = name.strip_suffix(".bpf.c") else { continue };
        println!("cargo:rerun-if-changed={}", source.display());
        SkeletonBuilder::new()
            .source(&source)
            .obj(out.join(format!("{tool}.bpf.o")))
            .clang_args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-mcpu=v3", "-Iinclude", "-Ibpf"])
            .build()?;
    }
    Ok(())
}

fn bind_pcp(out: &Path) -> Outcome {
    bindgen::Builder::default()
        .header("include/pcp.h")
        .rust_edition(bindgen::RustEdition::Edition2024)
        .rust_target(bindgen::RustTarget::stable(85, 0).map_err(|error| error.to_string())?)
        .allowlist_function(
            "pmda(DSO|Init|Daemon|GetOptions|UsageMessage|OpenLog|Connect|Main|SetEndContextCallBack|SetCommFlags)",
        )
        .allowlist_function("pmSetProgname")
        .allowlist_function("pmda(Tree(Create|Insert|PMID|Name|Children|RebuildHash))")
        .allowlist_function("pmda(Cache(Store|Op|LookupName)|AddLabels|AddLabelFlags|Label|Ext(Get|Set)Data)")
        .allowlist_function("pm(NotifyErr|GetOptionalConfig|GetProgname|ErrStr_r)")
        .allowlist_type("pm(daInterface|daExt|Desc|Units|ValueSet|ValueBlock|InResult|LabelSet|Profile|InDomProfile)")
        .allowlist_type("pmda_(result|bpf_encoding)")
        .allowlist_var("PM_(ERR|TYPE|SEM|TIME|SPACE|COUNT|TEXT|LABEL|VAL|IN|INDOM|PROFILE|ID)_.*")
        .allowlist_type("pm(LongOptions|daOptions)")
        .allowlist_var("PM(DA_(INTERFACE_7|CACHE_(LOAD|ADD|SAVE)|ATTR_.*|FLAG_AUTHORIZE)|NS_.*)")
        .allowlist_var("LOG_(CRIT|ERR|WARNING|INFO)")
        .layout_tests(false)
        .derive_default(true)
        .generate()?
        .write_to_file(out.join("pcp.rs"))?;
    Ok(())
}

/// The plugin needs libpcp_pmda.so.3 and finds libpcp, whose soname differs between PCP 6 and 7,
/// through it: one binary serves both. Programs that run on their own name libpcp themselves.
fn link() {
    println!("cargo:rustc-link-search=native=/usr/lib");
    println!("cargo:rustc-link-lib=dylib=pcp_pmda");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,pmda_bpf.so");
    for kind in ["tests", "benches", "bins"] {
        println!("cargo:rustc-link-arg-{kind}=-lpcp");
    }
}
