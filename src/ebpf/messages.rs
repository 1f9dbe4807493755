//! What libbpf says while a module is loaded: kept per thread, so that a failure's reason can
//! quote it, and otherwise not shown.

use std::cell::RefCell;

use libbpf_rs::PrintLevel;

/// Lines kept; a verifier's log can have hundreds of thousands.
const KEPT: usize = 256;

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Runs `body` and returns with its result what libbpf said meanwhile, its last lines.
pub(super) fn captured<T>(body: impl FnOnce() -> T) -> (T, Vec<String>) {
    libbpf_rs::set_print(Some((PrintLevel::Info, keep)));
    LINES.set(Some(Vec::new()));
    let result = body();
    (result, LINES.take().unwrap_or_default())
}

fn keep(_level: PrintLevel, message: String) {
    LINES.with_borrow_mut(|lines| {
        let Some(lines) = lines else { return };
        lines.extend(message.lines().map(str::to_owned));
        let excess = lines.len().saturating_sub(KEPT);
        lines.drain(..excess);
    });
}

/// What tells most about a failure: the program and the verifier's last word on it before its
/// statistics, else libbpf's last line that is not its hint about `ulimit -l`, which no longer
/// applies where maps are accounted to a control group.
pub(super) fn telling(lines: &[String]) -> Option<String> {
    let log_end = lines.iter().rposition(|line| line.contains("END PROG LOAD LOG"));
    let log = log_end.and_then(|end| lines.get(..end)).unwrap_or_default();
    let verifier = log.iter().rev().find(|line| {
        !line.trim().is_empty() && !line.starts_with("processed ") && !line.contains("BEGIN PROG LOAD LOG")
    });
    let last = || lines.iter().rev().find(|line| !line.trim().is_empty() && !line.contains("ulimit"));
    let trimmed = |line: &String| line.strip_prefix("libbpf: ").unwrap_or(line).trim().to_owned();
    match verifier {
        Some(word) => {
            let program = lines.iter().rev().find_map(|line| line.strip_prefix("libbpf: prog '")?.split_once('\''));
            Some(program.map_or_else(|| trimmed(word), |(program, _)| format!("{program}: {}", trimmed(word))))
        }
        None => last().map(trimmed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_verifiers_last_word() {
        let said = lines(
            "libbpf: prog 'on_x': BPF program load failed: Permission denied\n\
             libbpf: prog 'on_x': -- BEGIN PROG LOAD LOG --\n0: (79) r1 = 0\nR1 pointer arithmetic prohibited\n\
             processed 12 insns\n-- END PROG LOAD LOG --\nlibbpf: failed to load object 'x'",
        );
        assert_eq!(telling(&said).unwrap(), "on_x: R1 pointer arithmetic prohibited");
    }

    #[test]
    fn without_a_log_libbpfs_own_but_the_hint() {
        let said = lines("libbpf: map 'rows': failed to create: -EPERM\nlibbpf: permission error; try ulimit -l");
        assert_eq!(telling(&said).unwrap(), "map 'rows': failed to create: -EPERM");
        assert_eq!(telling(&[]), None);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let ((), said) = captured(|| (0..KEPT + 5).for_each(|n| keep(PrintLevel::Warn, n.to_string())));
        assert_eq!(said.len(), KEPT);
        assert_eq!(said.first().map(String::as_str), Some("5"));
    }
}
