//! Options of modules: what they accept, and how their values reach a program.

/// One option of a module. A program that declares a constant of its name reads the value
/// there: `const volatile u32` for a number, a choice or a switch, `const volatile struct
/// automaton` for text to search for.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// As in the configuration.
    pub name: &'static str,
    /// What it accepts.
    pub kind: Kind,
    /// One line.
    pub help: &'static str,
}

/// What an option accepts.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A whole number; a program reads [`UNSET`] where there is none.
    Number {
        /// What is taken where the configuration does not say.
        default: Option<u32>,
        /// The least accepted.
        min: u32,
        /// The greatest accepted.
        max: u32,
    },
    /// One of a few words; a program reads its position.
    Choice {
        /// What is taken where the configuration does not say: a position.
        default: u32,
        /// The words.
        among: &'static [&'static str],
    },
    /// `true` or `false`; a program reads 1 or 0.
    Switch,
    /// Text to search for, not set by default.
    Text,
    /// Users and groups, nobody by default.
    Readers,
}

/// What a program reads for a number that is not set.
pub const UNSET: u32 = u32::MAX;

/// Bytes that a text may have: states of an [`Automaton`] less one.
const MAX_TEXT: usize = Automaton::STATES - 1;

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Of a number, a choice or a switch.
    Number(Option<u32>),
    /// Of a text or of readers; empty where not set.
    Text(String),
}

/// Values of all options of a module, in the order of its table.
pub type Values = [(&'static str, Setting)];

/// The value of a number, a choice or a switch.
#[must_use]
pub fn number(values: &Values, name: &str) -> Option<u32> {
    values.iter().find_map(|(own, setting)| match setting {
        Setting::Number(number) if *own == name => *number,
        _ => None,
    })
}

impl Kind {
    /// What is taken where the configuration does not say.
    #[must_use]
    pub const fn default(self) -> Setting {
        match self {
            Self::Number { default, .. } => Setting::Number(default),
            Self::Choice { default, .. } => Setting::Number(Some(default)),
            Self::Switch => Setting::Number(Some(0)),
            Self::Text | Self::Readers => Setting::Text(String::new()),
        }
    }

    /// Reads a value; `None` where it is not accepted.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<Setting> {
        match self {
            Self::Number { min, max, .. } => {
                let number = text.parse::<u32>().ok().filter(|number| (min..=max).contains(number))?;
                Some(Setting::Number(Some(number)))
            }
            Self::Choice { among, .. } => {
                let position = among.iter().position(|word| text.eq_ignore_ascii_case(word))?;
                Some(Setting::Number(u32::try_from(position).ok()))
            }
            // pmdabpf writes 0 and 1
            Self::Switch => match text.to_ascii_lowercase().as_str() {
                "true" | "1" => Some(Setting::Number(Some(1))),
                "false" | "0" => Some(Setting::Number(Some(0))),
                _ => None,
            },
            Self::Text => (1..=MAX_TEXT).contains(&text.len()).then(|| Setting::Text(text.to_owned())),
            Self::Readers => {
                let known = |one: &str| {
                    let (kind, name) = one.trim().split_once(':').unwrap_or_default();
                    matches!(kind, "user" | "group") && !name.is_empty() && !name.contains(char::is_whitespace)
                };
                text.split(',').all(known).then(|| Setting::Text(text.to_owned()))
            }
        }
    }

    /// What it accepts, for messages and documentation.
    #[must_use]
    pub fn accepted(self) -> String {
        match self {
            Self::Number { min, max, .. } => format!("a whole number from {min} to {max}"),
            Self::Choice { among, .. } => among.join(", "),
            Self::Switch => "true, false".to_owned(),
            Self::Text => format!("1 to {MAX_TEXT} bytes of text"),
            Self::Readers => "user:NAME, group:NAME, separated by commas".to_owned(),
        }
    }

    /// The default as the configuration would say it, `None` where nothing is set.
    #[must_use]
    pub fn default_text(self) -> Option<String> {
        match self {
            Self::Number { default, .. } => default.map(|number| number.to_string()),
            Self::Choice { default, among } => among.get(default as usize).map(|word| (*word).to_owned()),
            Self::Switch => Some("false".to_owned()),
            Self::Text | Self::Readers => None,
        }
    }
}

/// What finds a text in bytes that pass by once: for every state, which is how much of the text
/// was just seen, and byte the next state (Knuth, Morris, Pratt 1977). A program walks through
/// it with one look-up per byte, which the verifier can follow. In `bpf/lib/match.bpf.h` it is
/// `struct automaton`.
#[derive(Debug)]
pub struct Automaton;

impl Automaton {
    /// States that there is room for.
    pub const STATES: usize = 64;

    /// The bytes of a `struct automaton`: the length of the text, 0 where everything matches,
    /// and the table.
    #[must_use]
    pub fn bytes(text: &str) -> Vec<u8> {
        let text = text.as_bytes().get(..MAX_TEXT).unwrap_or(text.as_bytes());
        let mut bytes = u32::try_from(text.len()).unwrap_or(0).to_ne_bytes().to_vec();
        let mut restart = vec![0u8; 256];
        for at in 0..Self::STATES {
            let mut row = restart.clone();
            match text.get(at) {
                Some(byte) => {
                    let forward = u8::try_from(at + 1).unwrap_or(0);
                    if let Some(next) = row.get_mut(usize::from(*byte)) {
                        *next = forward;
                    }
                    // the state that the text's own bytes, but for its first, lead to
                    let shorter = if at == 0 { Some(0) } else { restart.get(usize::from(*byte)).copied() };
                    bytes.extend(&row);
                    let start = size_of::<u32>() + usize::from(shorter.unwrap_or(0)) * 256;
                    restart = bytes.get(start..start + 256).map_or_else(|| vec![0; 256], <[u8]>::to_vec);
                }
                // found: stays so
                None => bytes.extend(std::iter::repeat_n(u8::try_from(text.len()).unwrap_or(0), 256)),
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, within: &[u8]) -> bool {
        let bytes = Automaton::bytes(text);
        assert_eq!(bytes.len(), 4 + 64 * 256);
        let state = within.iter().fold(0u8, |state, byte| bytes[4 + usize::from(state) * 256 + usize::from(*byte)]);
        usize::from(state) == text.len()
    }

    #[test]
    fn an_automaton_finds_what_a_search_finds() {
        let words = ["", "a", "b", "ab", "aa", "aab", "abab", "abaab", "ababac", "aabaabaaab"];
        let mut state = 1u64;
        for _ in 0..2_000 {
            let text: String = (0..30)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ['a', 'a', 'b', 'c'][(state >> 33) as usize % 4]
                })
                .collect();
            for word in words {
                assert_eq!(found(word, text.as_bytes()), text.contains(word), "{word} in {text}");
            }
        }
        let long = "x".repeat(MAX_TEXT);
        assert!(found(&long, "x".repeat(70).as_bytes()) && !found(&long, "x".repeat(62).as_bytes()));
    }

    #[test]
    fn values_and_what_is_accepted() {
        let number = Kind::Number { default: None, min: 1, max: 9 };
        assert_eq!(number.parse("7"), Some(Setting::Number(Some(7))));
        assert!(["0", "10", "-1", "x", "", "1.5"].iter().all(|text| number.parse(text).is_none()));
        let choice = Kind::Choice { default: 1, among: &["full", "name", "off"] };
        assert_eq!(choice.parse("OFF"), Some(Setting::Number(Some(2))));
        assert_eq!((choice.parse("on"), choice.default_text().as_deref()), (None, Some("name")));
        assert_eq!(Kind::Switch.parse("1"), Some(Setting::Number(Some(1))));
        assert_eq!(Kind::Switch.parse("yes"), None);
        assert!(Kind::Text.parse("").is_none() && Kind::Text.parse(&"x".repeat(64)).is_none());
        assert!(Kind::Readers.parse("user:anna, group:wheel").is_some());
        assert!(["anna", "user:", "user:a b", ""].iter().all(|text| Kind::Readers.parse(text).is_none()));
    }
}
