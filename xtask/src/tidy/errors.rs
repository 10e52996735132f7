//! An error is printed with its causes.
//!
//! `{error}` prints what was attempted and hides why it failed. In the daemon and the engine an
//! error goes through `error_chain::chain`, which joins the causes; `{error:#}` does the same for
//! an `anyhow` error.
//!
//! The rule knows an error by its name ([`NAMES`]), or by a type that ends in `Error` where the
//! file declares a parameter with it. A text about an error is a `why` or a `reason`. A place where
//! one of the names is a text after all says so in a comment beside or above it: `no chain:` and
//! the reason.

use super::Finding;
use super::lexer::{self, SourceLine};
use super::rules::{body_end, is_at_word_start};

pub(super) const RULE: &str = "error chain";
/// The names of errors.
const NAMES: [&str; 5] = ["error", "err", "e", "source", "cause"];
/// The crates that it is for.
const CRATES: [&str; 2] = ["colo-proxy/src/", "colo-proxy-engine/src/"];
/// Folders of tests: what they print is for a developer who has the code at hand.
const TEST_FOLDERS: [&str; 2] = ["/tests/", "/simulation/"];
/// Puts the causes together, so it prints each alone.
const CHAIN: &str = "error_chain.rs";
/// The comment that says that a name is no error.
const MARKER: &str = "no chain: ";
/// Macros that format, by the end of their name.
const MACROS: [&str; 13] = [
    "error!",
    "warn!",
    "info!",
    "debug!",
    "trace!",
    "log!",
    "format!",
    "format_args!",
    "write!",
    "writeln!",
    "println!",
    "eprintln!",
    "bail!",
];

/// Every error that the source `text` at `path` prints.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let is_ours = CRATES.iter().any(|folder| path.starts_with(folder));
    let is_test = path.ends_with("/tests.rs") || TEST_FOLDERS.iter().any(|f| path.contains(f));
    if !is_ours || is_test || path.ends_with(CHAIN) {
        return Vec::new();
    }
    let lines = without_tests(lexer::lines(text));
    let names = names(&lines);
    let mut findings = Vec::new();
    let mut add = |line: usize, what: String| {
        findings.push(Finding { path: path.to_owned(), line: line + 1, rule: RULE, what });
    };
    let mut needed = Vec::new();
    for i in 0..lines.len() {
        let Some(name) = names.iter().find(|name| prints(&lines, i, name)) else { continue };
        match marker(&lines, i) {
            Some(at) => needed.push(at),
            None => add(i, format!("`{name}` hides its causes: print `chain(&{name})`")),
        }
    }
    for (i, _) in lines.iter().enumerate().filter(|(_, line)| line.comment.contains(MARKER)) {
        if !needed.contains(&i) {
            add(i, format!("`{MARKER}` beside nothing that needs it: take it off"));
        }
    }
    findings
}

/// The lines, those of tests being blank.
fn without_tests(mut lines: Vec<SourceLine>) -> Vec<SourceLine> {
    let mut at = 0;
    while at < lines.len() {
        let is_test = lines.get(at).is_some_and(|line| line.code.trim() == "#[cfg(test)]");
        let end = if is_test { body_end(&lines, at, 0).unwrap_or(at + 1) } else { at };
        for line in lines.iter_mut().take(end + 1).skip(at).filter(|_| is_test) {
            *line = SourceLine::default();
        }
        at = end + 1;
    }
    lines
}

/// The names of errors in this file.
fn names(lines: &[SourceLine]) -> Vec<&str> {
    let mut names = NAMES.to_vec();
    for SourceLine { code, .. } in lines {
        for (at, word) in code.match_indices("Error") {
            let rest = code.get(at + word.len()..).unwrap_or_default();
            let is_type = !rest.starts_with(is_word) && !rest.starts_with("::");
            let name = code.get(..at).filter(|_| is_type).and_then(declared);
            names.extend(name.filter(|name| !names.contains(name)));
        }
    }
    names
}

/// The name that `before`, the text up to a type's last word, declares.
fn declared(before: &str) -> Option<&str> {
    let path = before.trim_end_matches(|c| is_word(c) || c == ':');
    let name = path.trim_end_matches(['&', ' ']).strip_suffix(':')?;
    let start = name.rfind(|c| !is_word(c)).map_or(0, |at| at + 1);
    let opening = name.get(..start)?.trim_end();
    let opens = opening.is_empty() || opening.ends_with(['(', ',', '|']);
    name.get(start..).filter(|name| opens && !name.is_empty())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Line `i` prints `name` and not its causes.
fn prints(lines: &[SourceLine], i: usize, name: &str) -> bool {
    let Some(SourceLine { code, strings, .. }) = lines.get(i) else { return false };
    let placeholder = strings.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let captured = placeholder.filter_map(|inside| inside.strip_prefix(name)).any(is_bare);
    let call = format!("{name}.to_string()");
    let called = code.match_indices(&call).any(|(at, _)| is_at_word_start(code, at));
    captured
        || called
        || arguments(lines, i).iter().any(|(argument, shown)| {
            let value = argument.split_once('=').map_or(argument.as_str(), |(_, value)| value);
            value.trim().trim_start_matches('&') == name && !shown.contains(":#}")
        })
}

/// A placeholder that is only the name, whatever its form but `#`, which prints the causes.
fn is_bare(form: &str) -> bool {
    form.is_empty() || form.starts_with(':') && (!form.contains('#') || form.contains('?'))
}

/// The arguments on line `i` of the macros that format and begin here or above, each with the
/// strings of its macro.
fn arguments(lines: &[SourceLine], i: usize) -> Vec<(String, String)> {
    let mut found = Vec::new();
    // A call is over long before that.
    for start in i.saturating_sub(12)..=i {
        let code = lines.get(start).map_or("", |line| line.code.as_str());
        let calls = MACROS.iter().flat_map(|name| code.match_indices(name));
        for (at, name) in calls.filter(|(at, _)| is_at_word_start(code, *at)) {
            found.extend(arguments_of(lines, start, at + name.len(), i));
        }
    }
    found
}

/// The arguments on line `i` of the call whose parenthesis opens at `from` of line `start`.
fn arguments_of(
    lines: &[SourceLine],
    start: usize,
    from: usize,
    i: usize,
) -> Vec<(String, String)> {
    let mut depth = 0usize;
    let mut strings = String::new();
    let mut arguments = vec![(0, String::new())];
    'call: for (at, line) in lines.iter().enumerate().skip(start) {
        strings.push_str(&line.strings);
        for c in line.code.chars().skip(if at == start { from } else { 0 }) {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' if depth <= 1 => break 'call,
                ')' | ']' | '}' => depth -= 1,
                _ if depth == 0 => break 'call,
                ',' if depth == 1 => arguments.push((at, String::new())),
                _ => {}
            }
            if let Some((line, text)) = arguments.last_mut().filter(|_| !matches!(c, ',')) {
                if !c.is_whitespace() {
                    *line = at;
                }
                text.push(c);
            }
        }
    }
    let here = arguments.into_iter().skip(1).filter(|(line, _)| *line == i);
    here.map(|(_, text)| (text, strings.clone())).collect()
}

/// The line of the comment that says that a name on line `i` is a text: this one, or the one above
/// if nothing else stands there.
fn marker(lines: &[SourceLine], i: usize) -> Option<usize> {
    let says = |at: &usize| lines.get(*at).is_some_and(|line| line.comment.contains(MARKER));
    let above = i
        .checked_sub(1)
        .filter(|at| lines.get(*at).is_some_and(|line| line.code.trim().is_empty()));
    Some(i).filter(says).or(above.filter(says))
}
