//! The rules for Rust source.

use super::Finding;
use super::lexer::{self, SourceLine};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
/// A macro left in is work left undone.
const MACROS: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];
/// Names that say where code was put, not what it does.
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "helper", "helpers", "manager", "managers", "misc", "common"];
/// Files that may sleep, each with the reason why it waits for no event.
const SLEEPERS: [(&str, &str); 14] = [
    ("colo-proxy/src/cli/protect.rs", "a status is not asked for without pause"),
    ("colo-proxy/src/colo_frame/script.rs", "a script that ends at once is not started at once"),
    ("colo-proxy/src/endpoint.rs", "a peer that is not there is not asked without pause"),
    ("colo-proxy/src/instance/primary.rs", "a process that ends lets go of its TAP without a word"),
    ("colo-proxy/src/lane/outgoing.rs", "an error that comes back at once must not spin"),
    ("tests/src/client/calls.rs", "looks again until its deadline, as `eventually` does"),
    ("tests/src/client/keeper.rs", "the pace of a client"),
    ("tests/src/client/mixed.rs", "the pace of a client"),
    ("tests/src/demo.rs", "the refresh of the live view"),
    ("tests/src/process.rs", "`eventually`: looks again until its deadline"),
    ("tests/tests/datapath/pair.rs", "the delay of a wire, which is what the test is about"),
    ("tests/tests/kernel_lane/long.rs", "a frame in each slot of time, which the test is about"),
    ("tests/tests/lab.rs", "the length of a pause that a test is about"),
    ("tests/tests/lanes.rs", "shows that nothing happens for a time"),
];

/// All rules on the source `text` at `path`.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let lines = lexer::lines(text);
    let mut findings = Findings { path, all: Vec::new() };
    file_length(&lines, &mut findings);
    if !is_test_file(path) {
        module_doc(text, &mut findings);
    }
    module_name(path, &lines, &mut findings);
    function_length(&lines, &mut findings);
    words(path, &lines, &mut findings);
    allow_reasons(&lines, &mut findings);
    safety_comments(&lines, &mut findings);
    findings.all
}

struct Findings<'a> {
    path: &'a str,
    all: Vec<Finding>,
}

impl Findings<'_> {
    /// `line` counts from 0 here, as an index does.
    fn add(&mut self, line: usize, rule: &'static str, what: impl Into<String>) {
        let path = self.path.to_owned();
        self.all.push(Finding { path, line: line + 1, rule, what: what.into() });
    }
}

fn file_length(lines: &[SourceLine], findings: &mut Findings<'_>) {
    if lines.len() > FILE_LINES_MAX {
        let what = format!("{} lines, more than {FILE_LINES_MAX}: split it", lines.len());
        findings.add(FILE_LINES_MAX, "file length", what);
    }
}

/// `foo/tests.rs` are the tests of `foo`: its name says all.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs")
}

/// The first thing in a file, but for attributes of the crate, says what the module is for.
fn module_doc(text: &str, findings: &mut Findings<'_>) {
    let is_doc = |line: &str| line.starts_with("//!") || line.starts_with("#![doc = include_str!(");
    let first = text
        .lines()
        .find(|line| is_doc(line) || !line.trim().is_empty() && !line.starts_with("#!["));
    if !first.is_some_and(is_doc) {
        findings.add(0, "module doc", "the file does not start with a `//!` that says its job");
    }
}

fn module_name(path: &str, lines: &[SourceLine], findings: &mut Findings<'_>) {
    let in_source = path.split('/').skip_while(|part| *part != "src" && *part != "tests");
    for part in in_source.map(|part| part.trim_end_matches(".rs")) {
        if EMPTY_NAMES.contains(&part) {
            findings.add(0, "module name", format!("`{part}` does not say what is in it"));
        }
    }
    for (i, line) in lines.iter().enumerate() {
        let name = word_behind(&line.code, "mod");
        if let Some(name) = name.filter(|name| EMPTY_NAMES.contains(name)) {
            findings.add(i, "module name", format!("`{name}` does not say what is in it"));
        }
    }
}

/// From the line of a function's `fn` to the one of its closing brace.
fn function_length(lines: &[SourceLine], findings: &mut Findings<'_>) {
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = word_behind(&line.code, "fn") else { continue };
        let from = line.code.find(&format!("fn {name}")).unwrap_or(0);
        let Some(end) = body_end(lines, start, from) else { continue };
        let len = end - start + 1;
        if len > FUNCTION_LINES_MAX {
            let what = format!("`{name}` has {len} lines, more than {FUNCTION_LINES_MAX}");
            findings.add(start, "function length", what);
        }
    }
}

/// The line where the body of the function that starts at `start` ends; `None` without a body.
pub(super) fn body_end(lines: &[SourceLine], start: usize, from: usize) -> Option<usize> {
    let mut braces = 0usize;
    let mut brackets = 0usize;
    for (i, line) in lines.iter().enumerate().skip(start) {
        let skip = if i == start { from } else { 0 };
        for c in line.code.get(skip..).unwrap_or_default().chars() {
            match c {
                '[' | '(' => brackets += 1,
                ']' | ')' => brackets = brackets.saturating_sub(1),
                ';' if braces == 0 && brackets == 0 => return None,
                '{' => braces += 1,
                '}' => {
                    braces = braces.saturating_sub(1);
                    if braces == 0 {
                        return Some(i);
                    }
                }
                _ => {}
            }
        }
    }
    None
}

/// Words that have no place in committed code.
fn words(path: &str, lines: &[SourceLine], findings: &mut Findings<'_>) {
    let may_sleep = SLEEPERS.iter().any(|(file, _)| *file == path);
    let sleeps = |line: &SourceLine| has_word(&line.code, "sleep(");
    if may_sleep && !lines.iter().any(sleeps) {
        findings.add(0, "sleep", "listed among the files that sleep, and does not: take it off");
    }
    for (i, line) in lines.iter().enumerate() {
        for name in MACROS.iter().filter(|name| has_word(&line.code, name)) {
            findings.add(i, "unfinished", format!("`{name}` is work left undone"));
        }
        if line.code.contains("#[ignore") {
            findings.add(i, "ignored test", "a test that never runs proves nothing");
        }
        if sleeps(line) && !may_sleep {
            let what = "wait for the event with a deadline, or list the file with its reason";
            findings.add(i, "sleep", what);
        }
    }
}

/// Every `allow` and `expect` of a lint says why.
fn allow_reasons(lines: &[SourceLine], findings: &mut Findings<'_>) {
    for (i, line) in lines.iter().enumerate() {
        let is_attribute = line.code.contains("#[") || line.code.contains("#![");
        if !is_attribute || !(has_word(&line.code, "allow(") || has_word(&line.code, "expect(")) {
            continue;
        }
        // To the end of the attribute: the first line from here that closes a bracket.
        let rest = lines.iter().skip(i);
        let end = rest.clone().position(|line| line.code.contains(']')).unwrap_or(0);
        if !rest.take(end + 1).any(|line| has_word(&line.code, "reason")) {
            findings.add(i, "allow without reason", "say why, with `reason = \"...\"`");
        }
    }
}

/// Every unsafe block and unsafe impl says what makes it sound, in the comment above it.
fn safety_comments(lines: &[SourceLine], findings: &mut Findings<'_>) {
    for (i, line) in lines.iter().enumerate() {
        let opens = ["unsafe {", "unsafe impl", "unsafe extern"];
        if opens.iter().any(|word| has_word(&line.code, word)) && !is_justified(lines, i) {
            findings.add(i, "unsafe without SAFETY", "say in `// SAFETY:` why it is sound");
        }
    }
}

/// Whether a comment with `SAFETY:` stands on line `at` or above the statement that it is in.
fn is_justified(lines: &[SourceLine], at: usize) -> bool {
    let says = |line: &SourceLine| line.comment.contains("SAFETY:");
    if lines.get(at).is_some_and(says) {
        return true;
    }
    for line in lines.iter().take(at).rev() {
        if says(line) {
            return true;
        }
        let code = line.code.trim();
        let is_between = code.is_empty() && !line.comment.is_empty() || code.starts_with("#[");
        let is_same_statement = !code.is_empty() && !code.ends_with([';', '{', '}', ',']);
        if !is_between && !is_same_statement {
            return false;
        }
    }
    false
}

/// The identifier behind the keyword `keyword`.
fn word_behind<'a>(code: &'a str, keyword: &str) -> Option<&'a str> {
    let (at, _) = code.match_indices(keyword).find(|(at, _)| is_at_word_start(code, *at))?;
    let rest = code.get(at + keyword.len()..)?.strip_prefix(' ')?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    rest.get(..end).filter(|name| !name.is_empty())
}

/// `word` occurs, and not as the end of a longer word.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| is_at_word_start(code, at))
}

pub(super) fn is_at_word_start(code: &str, at: usize) -> bool {
    let before = code.get(..at).and_then(|text| text.chars().next_back());
    !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
}
