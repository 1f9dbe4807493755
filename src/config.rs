//! The configuration: which modules are on, and their options.
//!
//! `bpf.conf` is an INI file with a section per module, `[runqlat]` or as in pmdabpf
//! `[runqlat.so]`. Every mistake becomes one line that names the file, the line, what was
//! found and what is accepted; the setting concerned keeps its default and the rest goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use ini_core::Item;
use ini_core::Parser;

use crate::catalog::Module;
use crate::catalog::Setting;
use crate::catalog::Shape;

/// Modules of pmdabpf: sections of these names are not mistakes even where we have no such
/// module.
const PMDABPF: &[&str] = &[
    "bashreadline",
    "biolatency",
    "biosnoop",
    "execsnoop",
    "exitsnoop",
    "fsslower",
    "mountsnoop",
    "netatop",
    "oomkill",
    "opensnoop",
    "runqlat",
    "statsnoop",
    "tcpconnect",
    "tcpconnlat",
    "vfsstat",
];

/// Larger files are not read further: no configuration is a megabyte long.
const MAX_BYTES: usize = 1 << 20;

/// What the configuration says about one module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether it is to run.
    pub enabled: bool,
    /// Values of its options, in the order of its table.
    pub options: Vec<(&'static str, Setting)>,
}

impl Settings {
    /// What holds where the configuration says nothing.
    #[must_use]
    pub fn default_of(module: &Module) -> Self {
        Self {
            enabled: module.default,
            options: module.options.iter().map(|own| (own.name, own.kind.default())).collect(),
        }
    }
}

/// A mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// What was found and what is accepted.
    pub message: String,
}

/// A configuration as read.
#[derive(Debug)]
pub struct Config {
    /// Of every module, in the order of the list given.
    pub settings: Vec<Settings>,
    /// In the order of the lines.
    pub mistakes: Vec<Mistake>,
    /// Modules of pmdabpf that the file switches on and we do not have.
    pub missing: Vec<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

/// Reads `path`.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path, modules: &[&'static Module]) -> io::Result<Config> {
    Ok(parse(&fs::read(path)?, modules))
}

/// Parses the bytes of a file.
#[must_use]
pub fn parse(bytes: &[u8], modules: &[&'static Module]) -> Config {
    let mut reader = Reader {
        modules,
        settings: modules.iter().map(|own| Settings::default_of(own)).collect(),
        mistakes: Vec::new(),
        seen: BTreeMap::new(),
        sections: BTreeMap::new(),
        foreign: BTreeMap::new(),
        section: Section::None,
    };
    if bytes.len() > MAX_BYTES {
        reader.mistake(
            1,
            format!("the file has {} bytes; accepted: at most {MAX_BYTES}, the rest is not read", bytes.len()),
        );
    }
    let bytes = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        reader.line(index + 1, line);
    }
    let missing = reader.foreign.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
    Config { settings: reader.settings, mistakes: reader.mistakes, missing }
}

/// The section that lines belong to.
#[derive(Clone, Copy)]
enum Section {
    /// Before the first.
    None,
    /// Of this module; `rank` is 1 for `[x]` and 0 for pmdabpf's `[x.so]`.
    Module { at: usize, rank: u8 },
    /// Of a module of pmdabpf that we do not have.
    Foreign(&'static str),
    /// Not known, said so once.
    Unknown,
}

struct Reader<'m> {
    modules: &'m [&'static Module],
    settings: Vec<Settings>,
    mistakes: Vec<Mistake>,
    /// Where each option was set: module, option -> rank, line.
    seen: BTreeMap<(usize, &'static str), (u8, usize)>,
    /// Where each section was opened: module -> rank, line.
    sections: BTreeMap<usize, (u8, usize)>,
    foreign: BTreeMap<String, bool>,
    section: Section,
}

impl Reader<'_> {
    fn mistake(&mut self, line: usize, message: String) {
        self.mistakes.push(Mistake { line, message });
    }

    fn line(&mut self, number: usize, bytes: &[u8]) {
        // what follows a section header that cannot be read belongs to no section known
        if bytes.trim_ascii_start().starts_with(b"[") {
            self.section = Section::Unknown;
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return self.mistake(
                number,
                format!("found {}, not UTF-8; the line is ignored", quote(&String::from_utf8_lossy(bytes))),
            );
        };
        let text = without_comment(text.trim());
        for item in Parser::new(text).auto_trim(true) {
            match item {
                Item::Section(name) => self.open(number, name),
                Item::Property(key, Some(value)) => self.set(number, key, value),
                // pmdabpf's parser accepts a colon too
                Item::Property(found, None) if found.contains(':') => {
                    let (key, value) = found.split_once(':').unwrap_or_default();
                    self.set(number, key.trim(), value.trim());
                }
                Item::Property(found, None) | Item::Error(found) => self
                    .mistake(number, format!("found {}; accepted: [module], option = value, # comment", quote(found))),
                Item::Comment(_) | Item::Blank | Item::SectionEnd => {}
            }
        }
    }

    fn open(&mut self, line: usize, name: &str) {
        let (base, rank) = name.strip_suffix(".so").map_or((name, 1), |base| (base, 0));
        if let Some(at) = self.modules.iter().position(|own| own.section() == base) {
            match self.sections.get(&at).copied() {
                Some((before, first)) if before == rank => {
                    self.mistake(line, format!("found a second section [{name}], the first is in line {first}; its options are added to the first's"));
                }
                Some((_, first)) => {
                    self.mistake(
                        line,
                        format!("found both [{base}] and [{base}.so] (line {first}); what [{base}] says wins"),
                    );
                }
                None => {}
            }
            self.sections.entry(at).or_insert((rank, line));
            self.section = Section::Module { at, rank };
        } else if let Some(foreign) = PMDABPF.iter().find(|foreign| **foreign == base) {
            self.section = Section::Foreign(foreign);
        } else {
            let known: Vec<&str> = self.modules.iter().map(|own| own.section()).collect();
            self.mistake(line, format!("found section {}; accepted: {}", quote(name), known.join(", ")));
            self.section = Section::Unknown;
        }
    }

    fn set(&mut self, line: usize, key: &str, value: &str) {
        match self.section {
            Section::Module { at, rank } => self.set_option(line, at, rank, key, value),
            Section::Foreign(name) if key == "enabled" => {
                self.foreign.insert(name.to_owned(), value.eq_ignore_ascii_case("true"));
            }
            Section::Foreign(_) | Section::Unknown => {}
            Section::None => {
                self.mistake(
                    line,
                    format!("found {} before the first section; accepted: a [module] first", quote(key)),
                );
            }
        }
    }

    fn set_option(&mut self, line: usize, at: usize, rank: u8, key: &str, value: &str) {
        let Some(module) = self.modules.get(at).copied() else { return };
        let option = module.options.iter().find(|own| own.name == key);
        let switch = (!matches!(module.shape, Shape::Status)).then_some("enabled");
        let Some(name) = option.map(|own| own.name).or(switch.filter(|switch| *switch == key)) else {
            let known: Vec<&str> = switch.into_iter().chain(module.options.iter().map(|own| own.name)).collect();
            return self.mistake(
                line,
                format!("found option {} in [{}]; accepted: {}", quote(key), module.section(), known.join(", ")),
            );
        };
        match self.seen.get(&(at, name)).copied() {
            Some((before, first)) if before == rank => {
                return self.mistake(
                    line,
                    format!("found {name} again in [{}]; the value in line {first} stays", module.section()),
                );
            }
            Some((before, _)) if before > rank => return,
            _ => {}
        }
        let Some(settings) = self.settings.get_mut(at) else { return };
        let accepted = match option {
            None => match value.to_ascii_lowercase().as_str() {
                "true" | "false" => {
                    settings.enabled = value.eq_ignore_ascii_case("true");
                    Ok(())
                }
                _ => Err("true, false".to_owned()),
            },
            Some(own) => match own.kind.parse(value) {
                Some(setting) => {
                    for (known, value) in &mut settings.options {
                        if *known == own.name {
                            *value = setting.clone();
                        }
                    }
                    Ok(())
                }
                None => Err(own.kind.accepted()),
            },
        };
        match accepted {
            Ok(()) => {
                self.seen.insert((at, name), (rank, line));
            }
            Err(accepted) => {
                self.mistake(
                    line,
                    format!("found {name} = {} in [{}]; accepted: {accepted}", quote(value), module.section()),
                );
            }
        }
    }
}

/// The line up to a comment: a line that begins with `#` or `;`, or a `;` behind white space.
fn without_comment(line: &str) -> &str {
    if line.starts_with(['#', ';']) {
        return "";
    }
    let is_comment =
        |(at, _): &(usize, &str)| line.get(..*at).is_some_and(|before| before.ends_with(char::is_whitespace));
    let end = line.match_indices(';').find(is_comment).map_or(line.len(), |(at, _)| at);
    line.get(..end).unwrap_or(line).trim_end()
}

/// What was found, short and on one line.
fn quote(found: &str) -> String {
    const MAX: usize = 60;
    let mut text: String = found.chars().take(MAX).flat_map(char::escape_default).collect();
    if found.chars().nth(MAX).is_some() {
        text.push_str("...");
    }
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Kind;
    use crate::catalog::Opt;
    use crate::catalog::Programs;
    use crate::catalog::Rows;
    use crate::catalog::number;

    const NONE: Programs =
        Programs { object: &[], hooks: &[], optional: &[], rows: Rows { map: "", layout: "", keys: None } };
    static DISKS: Module = Module {
        name: "disks",
        summary: "",
        default: true,
        options: &[Opt { name: "rows", kind: Kind::Number { default: Some(64), min: 1, max: 100 }, help: "" }],
        metrics: &[],
        shape: Shape::Mapped(NONE),
    };
    static TASKS: Module =
        Module { name: "tasks", summary: "", default: false, options: &[], metrics: &[], shape: Shape::Mapped(NONE) };

    /// Per module: enabled, its option; then mistakes and missing modules.
    type Found = (Vec<(bool, Option<u32>)>, Vec<String>, Vec<String>);

    fn read(text: &[u8]) -> Found {
        let config = parse(text, &[&DISKS, &TASKS]);
        let settings = config.settings.iter().map(|own| (own.enabled, number(&own.options, "rows"))).collect();
        (settings, config.mistakes.iter().map(ToString::to_string).collect(), config.missing)
    }

    const DEFAULT: [(bool, Option<u32>); 2] = [(true, Some(64)), (false, None)];

    #[test]
    fn nothing_said() {
        for text in ["", "\n\n", "# comment\n; comment\n", "\u{feff}[disks]\n", "[disks]\r\n[tasks]\r\n"] {
            let (settings, mistakes, _) = read(text.as_bytes());
            assert_eq!(settings, DEFAULT, "{text:?}");
            assert_eq!(mistakes, Vec::<String>::new(), "{text:?}");
        }
    }

    #[test]
    fn everything_said() {
        for text in [
            "[disks]\nenabled = false\nrows = 7\n[tasks]\nenabled = true\n",
            "[disks.so]\n  enabled=FALSE\n\trows = 7\t; seven\n[tasks.so]\nenabled : True",
            "[tasks]\nenabled = true\n[disks]\nrows=7\nenabled=false",
        ] {
            let (settings, mistakes, _) = read(text.as_bytes());
            assert_eq!(settings, [(false, Some(7)), (true, None)], "{text}");
            assert_eq!(mistakes, Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_mistake_is_one_line_and_costs_one_setting() {
        let cases: &[(&[u8], &str)] = &[
            (b"[disks]\nrows = 0\n", "2: found rows = \"0\" in [disks]; accepted: a whole number from 1 to 100"),
            (b"[disks]\nrows = -1\n", "2: found rows = \"-1\" in [disks]; accepted: a whole number from 1 to 100"),
            (
                b"[disks]\nrows = 99999999999\n",
                "2: found rows = \"99999999999\" in [disks]; accepted: a whole number from 1 to 100",
            ),
            (b"[disks]\nenabled = yes\n", "2: found enabled = \"yes\" in [disks]; accepted: true, false"),
            (b"[disks]\nrow = 1\n", "2: found option \"row\" in [disks]; accepted: enabled, rows"),
            (b"\n[disk]\nrows = 1\n", "2: found section \"disk\"; accepted: disks, tasks"),
            (b"rows = 1\n", "1: found \"rows\" before the first section; accepted: a [module] first"),
            (b"[disks]\nrows\n", "2: found \"rows\"; accepted: [module], option = value, # comment"),
            (b"[disks\n", "1: found \"[disks\"; accepted: [module], option = value, # comment"),
            (b"[disks]\n\xff\xfe = 1\n", "2: found \"\\u{fffd}\\u{fffd} = 1\", not UTF-8; the line is ignored"),
            (b"\x00\x01\x02", "1: found \"\\u{0}\\u{1}\\u{2}\"; accepted: [module], option = value, # comment"),
        ];
        for (text, line) in cases {
            let (settings, mistakes, _) = read(text);
            assert_eq!(mistakes, [line.to_string()]);
            assert_eq!(settings, DEFAULT, "{line}");
            // what stands around it counts all the same
            let around =
                [b"[tasks]\nenabled = true\n", *text, b"\n[tasks]\nenabled = false\n[disks]\nrows = 9\n"].concat();
            let (settings, mistakes, _) = read(&around);
            assert_eq!(settings, [(true, Some(9)), (true, None)], "{line}");
            assert!(mistakes.len() >= 3, "{line}: {mistakes:?}");
        }
    }

    #[test]
    fn a_broken_header_owns_what_follows_it() {
        for header in [&b"[disks"[..], b"[disks.so] # c", b"[disks]x", b"[\xff]"] {
            let text = [b"[tasks]\nenabled = true\n", header, b"\nenabled = false\nrows = 7\n[tasks]\n"].concat();
            let (settings, mistakes, _) = read(&text);
            assert_eq!(settings, [(true, Some(64)), (true, None)], "{header:?}");
            assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        }
    }

    #[test]
    fn said_twice() {
        let (settings, mistakes, _) = read(b"[disks]\nrows = 3\nrows = 4\n[disks]\nrows = 5\nenabled = false\n");
        assert_eq!(settings[0], (false, Some(3)));
        assert_eq!(
            mistakes,
            [
                "3: found rows again in [disks]; the value in line 2 stays",
                "4: found a second section [disks], the first is in line 1; its options are added to the first's",
                "5: found rows again in [disks]; the value in line 2 stays",
            ]
        );
    }

    #[test]
    fn our_name_wins_over_pmdabpfs() {
        for text in [
            "[disks.so]\nrows = 3\nenabled = false\n[disks]\nrows = 4\n",
            "[disks]\nrows = 4\n[disks.so]\nrows = 3\nenabled = false\n",
        ] {
            let (settings, mistakes, _) = read(text.as_bytes());
            assert_eq!(settings[0], (false, Some(4)), "{text}");
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert!(mistakes[0].contains("both [disks] and [disks.so]"), "{mistakes:?}");
        }
    }

    #[test]
    fn modules_of_pmdabpf_that_we_lack() {
        let (_, mistakes, missing) =
            read(b"[oomkill.so]\nenabled = true\nprocess_count = x\n[opensnoop.so]\nenabled = false\n");
        assert_eq!(mistakes, Vec::<String>::new());
        assert_eq!(missing, ["oomkill"]);
    }

    #[test]
    fn any_bytes_are_survived() {
        const ALPHABET: &[u8] = b"[]=;#:\n\r \t\0disks.orwenabltu\xff\xc3";
        let mut state = 1u64;
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..200)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ALPHABET[(state >> 33) as usize % ALPHABET.len()]
                })
                .collect();
            let _ = parse(&bytes, &[&DISKS, &TASKS]);
        }
        let long = vec![b'x'; MAX_BYTES + 1];
        assert_eq!(parse(&long, &[&DISKS]).mistakes.len(), 2);
    }
}
