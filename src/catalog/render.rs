//! The files that follow from the tables: they are committed, and a test compares them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Catalog;
use super::IndomKind;
use super::Module;
use super::Shape;
use crate::pmda::Metric;
use crate::pmda::Semantics;
use crate::pmda::Type;

/// The number under which PCP knows agents of this kind (`stdpmid`).
pub const DOMAIN: u32 = 157;

const GENERATED: &str = "Generated from the module tables: change those, then run BLESS=1 make test-catalog.";

/// Every file with its path in the repository.
#[must_use]
pub fn files(catalog: &Catalog) -> Vec<(&'static str, String)> {
    vec![
        ("pmns/root_bpf", pmns(catalog)),
        ("help/help", help(catalog)),
        ("bpf.conf", conf(catalog.modules.iter().map(|(_, module)| *module))),
        ("docs/metrics.md", reference(catalog)),
    ]
}

/// A node of the name space: its children by name, or a leaf's PMID.
#[derive(Default)]
struct Node<'a> {
    leaf: Option<&'a Metric>,
    children: Vec<(String, Node<'a>)>,
}

impl<'a> Node<'a> {
    fn add(&mut self, path: &str, metric: &'a Metric) {
        let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
        let at = self.children.iter().position(|(name, _)| name == head).unwrap_or_else(|| {
            self.children.push((head.to_owned(), Node::default()));
            self.children.len() - 1
        });
        if let Some((_, child)) = self.children.get_mut(at) {
            match rest {
                Some(rest) => child.add(rest, metric),
                None => child.leaf = Some(metric),
            }
        }
    }

    fn write(&self, path: &str, out: &mut String) {
        let _ = writeln!(out, "\n{path} {{");
        for (name, child) in &self.children {
            let _ = match child.leaf {
                Some(metric) => writeln!(out, "\t{name}\t{DOMAIN}:{}:{}", metric.cluster, metric.item),
                None => writeln!(out, "\t{name}"),
            };
        }
        let _ = writeln!(out, "}}");
        for (name, child) in self.children.iter().filter(|(_, child)| child.leaf.is_none()) {
            child.write(&format!("{path}.{name}"), out);
        }
    }
}

/// The name space in the form of PMNS(5).
fn pmns(catalog: &Catalog) -> String {
    let mut root = Node::default();
    for entry in &catalog.metrics {
        root.add(&entry.metric.name, &entry.metric);
    }
    let mut out = format!("/* {GENERATED} */\n\nroot {{\n");
    for (name, _) in &root.children {
        let _ = writeln!(out, "\t{name}");
    }
    out.push_str("}\n");
    for (name, child) in &root.children {
        child.write(name, &mut out);
    }
    out
}

/// Help texts in the form of newhelp(1).
fn help(catalog: &Catalog) -> String {
    let mut out = format!("# {GENERATED}\n");
    let mut add = |id: String, oneline: &str, help: &str| {
        let body: Vec<String> = help.split('\n').skip(1).map(|line| wrap(line, 78, "")).collect();
        let _ = write!(out, "\n@ {id} {oneline}\n{}", body.concat());
    };
    for entry in &catalog.metrics {
        add(entry.metric.name.clone(), &entry.metric.oneline, &entry.metric.help);
    }
    for entry in catalog.indoms.values() {
        add(format!("{DOMAIN}.{}", entry.indom.serial), &entry.indom.oneline, &entry.indom.help);
    }
    out
}

/// The configuration file with every option at its default.
fn conf<'a>(modules: impl Iterator<Item = &'a Module>) -> String {
    let mut out = format!(
        "# Configuration of the BPF agent of Performance Co-Pilot, see pmdabpfrs(1).\n\
         # {GENERATED}\n\
         #\n\
         # A section per module; [module.so], as pmdabpf names sections, is accepted too.\n\
         # What is not mentioned keeps the default shown here. A mistake is reported in\n\
         # pmcd's log with its line and leaves the rest as it is.\n"
    );
    for module in modules {
        let _ = write!(out, "\n{}[{}]\n", wrap(&format!("{}.", module.summary), 78, "# "), module.section());
        if !matches!(module.shape, Shape::Status) {
            let _ = writeln!(out, "enabled = {}", module.default);
        }
        for option in module.options {
            let text = format!("{}. {}.", option.help, capital(&option.kind.accepted()));
            let _ = match option.kind.default_text() {
                Some(default) => writeln!(out, "{}{} = {default}", wrap(&text, 78, "# "), option.name),
                None => writeln!(out, "{}# {} =", wrap(&text, 78, "# "), option.name),
            };
        }
    }
    out
}

/// The reference of all metrics.
fn reference(catalog: &Catalog) -> String {
    let mut out = format!("# Metrics\n\n<!-- {GENERATED} -->\n");
    for (position, (cluster, module)) in catalog.modules.iter().enumerate() {
        let _ = write!(out, "\n## {}\n\n{}. Cluster {cluster}.", module.name, module.summary);
        if !matches!(module.shape, Shape::Status) {
            let _ = write!(out, " {} by default.", if module.default { "On" } else { "Off" });
        }
        out.push('\n');
        if !module.options.is_empty() {
            out.push_str("\n| option | default | accepted | meaning |\n|---|---|---|---|\n");
            for own in module.options {
                let default = own.kind.default_text().unwrap_or_else(|| "not set".to_owned());
                let _ = writeln!(out, "| `{}` | {default} | {} | {} |", own.name, own.kind.accepted(), own.help);
            }
        }
        let metrics = || catalog.metrics.iter().filter(move |entry| entry.module == position);
        out.push_str("\n| metric | PMID | type | semantics | units | instances |\n|---|---|---|---|---|---|\n");
        for entry in metrics() {
            let own = &entry.metric;
            let instances = own.indom.and_then(|serial| catalog.indoms.get(&serial).map(|indom| (serial, indom)));
            let instances = instances.map_or("one value".to_owned(), |(serial, indom)| {
                format!("{} ({DOMAIN}.{serial})", describe(indom.kind))
            });
            let _ = writeln!(
                out,
                "| `{}` | {DOMAIN}.{}.{} | {} | {} | {} | {instances} |",
                own.name,
                own.cluster,
                own.item,
                type_name(own.ty),
                semantics_name(own.semantics),
                own.units.name()
            );
        }
        for entry in metrics() {
            let _ = write!(out, "\n**`{}`**: {}\n", entry.metric.name, entry.metric.help.replace('\n', " "));
        }
    }
    out
}

fn describe(kind: IndomKind) -> String {
    match kind {
        IndomKind::Modules => "modules".to_owned(),
        IndomKind::Keys(keys) => format!("{}s", keys.noun),
        IndomKind::Buckets(_) => "buckets".to_owned(),
        IndomKind::Cumulative(_) => "cumulative buckets".to_owned(),
        IndomKind::KeyBuckets(keys, _) => format!("{}s and buckets", keys.noun),
        IndomKind::KeyCumulative(keys, _) => format!("{}s and cumulative buckets", keys.noun),
        IndomKind::Rows => "rows".to_owned(),
        IndomKind::Processes => "processes".to_owned(),
    }
}

const fn type_name(ty: Type) -> &'static str {
    match ty {
        Type::I32 => "32",
        Type::U32 => "U32",
        Type::I64 => "64",
        Type::U64 => "U64",
        Type::F64 => "double",
        Type::String => "string",
    }
}

const fn semantics_name(semantics: Semantics) -> &'static str {
    match semantics {
        Semantics::Counter => "counter",
        Semantics::Instant => "instant",
        Semantics::Discrete => "discrete",
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Lines of at most `width` characters, each with this prefix.
fn wrap(text: &str, width: usize, prefix: &str) -> String {
    let mut lines: BTreeMap<usize, String> = BTreeMap::new();
    let mut last = 0;
    for word in text.split_whitespace() {
        let line = lines.entry(last).or_insert_with(|| prefix.trim_end().to_owned());
        if line.len() + word.len() + 1 > width && line.len() > prefix.len() {
            last += 1;
            lines.insert(last, format!("{}{word}", prefix));
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.into_values().map(|line| line + "\n").collect()
}
