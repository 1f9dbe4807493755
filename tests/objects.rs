//! Every compiled object holds what its module's table names. Opening needs no privilege.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::OsStr;

use libbpf_rs::MapType;
use libbpf_rs::ObjectBuilder;
use libbpf_rs::OpenObject;
use libbpf_rs::btf::Btf;
use pmda_bpf::catalog::Catalog;
use pmda_bpf::catalog::Column;
use pmda_bpf::catalog::Origin;
use pmda_bpf::catalog::Programs;
use pmda_bpf::catalog::Shape;
use pmda_bpf::ebpf::Layout;
use pmda_bpf::modules::MODULES;
use pmda_bpf::pmda::Type;

fn all() -> impl Iterator<Item = (usize, &'static str, &'static Programs)> {
    MODULES.iter().enumerate().filter_map(|(at, (_, module))| Some((at, module.name, module.shape.programs()?)))
}

/// Map and structure of a module's records or processes.
fn table(at: usize) -> Option<(&'static str, &'static str)> {
    match &MODULES[at].1.shape {
        Shape::Polled(polled) => Some((polled.map, polled.layout)),
        _ => None,
    }
}

fn open(object: &[u8]) -> OpenObject {
    ObjectBuilder::default().open_memory(object).unwrap()
}

fn text(name: &OsStr) -> String {
    name.to_str().unwrap().to_owned()
}

#[test]
fn programs_and_sections() {
    for (_, name, own) in all() {
        let open = open(own.object);
        let programs: Vec<(String, String)> = open.progs().map(|own| (text(own.name()), text(own.section()))).collect();
        let hooks = own.hooks.iter().chain(own.optional.iter().flat_map(|(_, hooks)| hooks.iter()));
        let named: Vec<&str> = hooks.flat_map(|hook| hook.iter().flat_map(|way| way.split_whitespace())).collect();
        for program in &named {
            let section = programs.iter().find(|(own, _)| own == program);
            let (_, section) = section.unwrap_or_else(|| panic!("{name}: no program {program}"));
            let known = ["tp_btf/", "tp/", "fentry/", "fexit/"];
            assert!(
                known.iter().any(|kind| section.starts_with(kind)),
                "{name}: {section} is not a section that can be looked up"
            );
            assert!(program.starts_with("on_"), "{name}: programs are named on_<event>, not {program}");
        }
        for (program, _) in &programs {
            assert!(named.contains(&program.as_str()), "{name}: nothing attaches {program}");
        }
    }
}

#[test]
fn maps_have_the_shape_that_the_table_says() {
    for (at, name, mapped) in all() {
        let open = open(mapped.object);
        let btf = Btf::from_raw(name, mapped.object).unwrap().unwrap();
        let rows = Some((mapped.rows.map, mapped.rows.layout));
        let keys = mapped.rows.keys.map(|keys| (keys.map, keys.layout));
        for (map, layout) in rows.into_iter().chain(keys).chain(table(at)) {
            let own = open.maps().find(|own| own.name() == map).unwrap_or_else(|| panic!("{name}: no map {map}"));
            assert_eq!(own.map_flags() & libbpf_rs::libbpf_sys::BPF_F_MMAPABLE, libbpf_rs::libbpf_sys::BPF_F_MMAPABLE);
            let layout = Layout::of_struct(&btf, layout).unwrap_or_else(|| panic!("{name}: no structure {layout}"));
            assert_eq!(own.value_size() as usize, layout.size, "{name}: {map}");
            assert_eq!(layout.size % 64, 0, "{name}: rows of {map} share cache lines");
        }
    }
}

#[test]
fn fields_that_metrics_name_exist() {
    let catalog = Catalog::new(MODULES);
    for (at, name, mapped) in all() {
        let btf = Btf::from_raw(name, mapped.object).unwrap().unwrap();
        let layout = Layout::of_struct(&btf, mapped.rows.layout).unwrap();
        let size = |field: &str| layout.field(field).unwrap_or_else(|| panic!("{name}: no field {field}")).size;
        assert_eq!(size("lost"), 8, "{name}: rows count what is lost");
        for entry in catalog.metrics.iter().filter(|entry| entry.module == at) {
            match entry.origin {
                Origin::Status(_) => panic!("{}: not of this module", entry.metric.name),
                Origin::Lost => {}
                Origin::Column(column) => record_has(at, &btf, column),
                Origin::Process(field) => {
                    let (_, layout) = table(at).unwrap();
                    let layout = Layout::of_struct(&btf, layout).unwrap();
                    assert_eq!(layout.field(field).map(|own| own.size), Some(8), "{}", entry.metric.name);
                }
                Origin::Field(field, _) => assert_eq!(size(field), 8, "{}", entry.metric.name),
                Origin::Sum(field, ..) => assert_eq!(size(&format!("{field}_sum")), 8, "{}", entry.metric.name),
                Origin::Buckets(field, _) | Origin::Count(field, _) => {
                    assert!(size(field) <= 64 * 8 && size(field) >= 16 * 8, "{}", entry.metric.name);
                }
                Origin::Cumulative(field, _, unit) => {
                    assert!(size(field) / 8 > unit.last_cumulative() as usize, "{}", entry.metric.name);
                }
            }
        }
        if let Some(keys) = mapped.rows.keys {
            let layout = Layout::of_struct(&btf, keys.layout).unwrap();
            for (field, bytes) in [("name", 32), ("used", 4), ("stacked", 4)] {
                assert_eq!(layout.field(field).unwrap_or_else(|| panic!("{name}: no field {field}")).size, bytes);
            }
            let rodata = Layout::of_section(&btf, ".rodata").unwrap();
            assert_eq!(rodata.field(keys.cpus).map(|own| own.size), Some(4), "{name}: no constant {}", keys.cpus);
            assert_eq!(rodata.field(keys.option).map(|own| own.size), Some(4), "{name}: no constant {}", keys.option);
        }
    }
}

/// The structure of a module's records has what a column shows.
fn record_has(at: usize, btf: &Btf<'_>, column: Column) {
    let Shape::Events(events) = &MODULES[at].1.shape else { panic!("module {at} has no events") };
    let layout = Layout::of_struct(btf, events.layout).unwrap();
    let size =
        |field: &str| layout.field(field).unwrap_or_else(|| panic!("no field {field} in {}", events.layout)).size;
    match column {
        Column::Sequence => {}
        Column::Time => assert_eq!(size("ktime"), 8),
        Column::Number(field, Type::I32 | Type::U32) => assert!(size(field) <= 4, "{field}"),
        Column::Number(field, _) => assert!(size(field) <= 8, "{field}"),
        Column::Text(field) => assert!(size(field) >= 8, "{field}"),
        Column::Words(field, cut) => assert!(size(field) >= 8 && size(cut) == 4, "{field}"),
    }
}

#[test]
fn rings_are_there() {
    for (at, name, programs) in all() {
        let Shape::Events(events) = &MODULES[at].1.shape else { continue };
        let open = open(programs.object);
        let ring = open.maps().find(|own| own.name() == events.ring).unwrap_or_else(|| panic!("{name}: no ring"));
        assert_eq!(ring.map_type(), MapType::RingBuf, "{name}");
    }
}

/// Options that are for user space alone.
const OURS: [&str; 3] = ["process_count", "ring_kilobytes", "linger"];

#[test]
fn every_option_reaches_a_program() {
    for (_, name, mapped) in all() {
        let module = MODULES.iter().find(|(_, own)| own.name == name).unwrap().1;
        let btf = Btf::from_raw(name, mapped.object).unwrap().unwrap();
        let attaches = |option: &str| mapped.optional.iter().any(|(own, _)| *own == option);
        for option in module.options.iter().filter(|own| !OURS.contains(&own.name) && !attaches(own.name)) {
            let rodata = Layout::of_section(&btf, ".rodata").unwrap_or_default();
            assert!(rodata.field(option.name).is_some(), "{name}: no constant {} in the program", option.name);
        }
    }
}
