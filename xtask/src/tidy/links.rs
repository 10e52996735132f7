//! A link of a document leads somewhere: to a file that is committed, and to a heading in it.
//!
//! Links to other hosts are not followed: a test must not depend on somebody else's server. A link
//! inside a block of code or between backquotes is an example.

use super::Finding;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

const RULE: &str = "link";
/// The pages of the book. A reader of it in a browser has no other file.
const BOOK: &str = "docs/";

/// The documents of the workspace, and the files that they can point to.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// Every file, and every folder that has one.
    paths: HashSet<String>,
    /// The anchors of each document.
    anchors: BTreeMap<String, HashSet<String>>,
}

impl Documents {
    /// Adds the file at `path`.
    pub(super) fn add_file(&mut self, path: &str) {
        for folder in Path::new(path).ancestors().filter_map(Path::to_str) {
            self.paths.insert(folder.to_owned());
        }
    }

    /// Adds the headings of the document at `path`.
    pub(super) fn add_text(&mut self, path: &str, text: &str) {
        self.anchors.insert(path.to_owned(), anchors(text));
    }

    /// All documents.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.anchors.keys().map(String::as_str)
    }

    /// What is wrong with a link to `target` in the document at `path`.
    fn fault(&self, path: &str, target: &str) -> Option<String> {
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let Some(file) = resolve(path, file) else {
            return Some(format!("`{target}` leads out of the repository"));
        };
        if path.starts_with(BOOK) && !file.starts_with(BOOK) {
            return Some(format!("`{target}` leads out of the book: name the file without a link"));
        }
        if !self.paths.contains(&file) {
            return Some(format!("`{target}`: there is no {file}"));
        }
        let known = self.anchors.get(&file)?;
        let is_known = anchor.is_empty() || known.contains(anchor);
        (!is_known).then(|| format!("`{target}`: {file} has no heading for `#{anchor}`"))
    }
}

/// Every link of the document at `path` leads to one of `documents` or another file.
pub(super) fn check(path: &str, text: &str, documents: &Documents) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, target) in links(text) {
        if let Some(what) = documents.fault(path, &target) {
            findings.push(Finding { path: path.to_owned(), line, rule: RULE, what });
        }
    }
    findings
}

/// The files that the document at `path` points to.
pub(super) fn targets(path: &str, text: &str) -> HashSet<String> {
    let files = links(text).into_iter().map(|(_, target)| {
        let file = target.split('#').next().unwrap_or_default();
        resolve(path, file)
    });
    files.flatten().collect()
}

/// The links of `text` that stay in the repository, each with its line.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (i, line) in prose(text) {
        let line = without_code(line);
        let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let quoted = ["href=\"", "src=\""].into_iter().flat_map(|word| {
            line.split(word).skip(1).filter_map(|rest| rest.split('"').next()).collect::<Vec<_>>()
        });
        for target in inline.chain(definition(&line)).chain(quoted) {
            let target = target.trim_matches(['<', '>']);
            if !is_elsewhere(target) {
                found.push((i + 1, target.to_owned()));
            }
        }
    }
    found
}

/// The target of a line like `[label]: target`.
fn definition(line: &str) -> Option<&str> {
    let (label, target) = line.trim_start().strip_prefix('[')?.split_once("]:")?;
    let is_footnote = label.starts_with('^');
    target.split_whitespace().next().filter(|_| !is_footnote && !label.contains(']'))
}

/// The link names its scheme, as `https:` or `mailto:`.
fn is_elsewhere(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+')
    })
}

/// The path, from the root, that `target` means in the document at `path`.
fn resolve(path: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(path.to_owned());
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            // A path from the root of the machine, which is not the repository's.
            "" => return None,
            "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The anchors of a document's headings, as GitHub and mdBook make them, and those that it names.
fn anchors(text: &str) -> HashSet<String> {
    let mut found = HashSet::new();
    for (_, line) in prose(text) {
        if let Some(heading) = heading(line) {
            let name = slug(heading);
            let again = (1..).map(|n| format!("{name}-{n}"));
            let free =
                std::iter::once(name.clone()).chain(again).find(|name| !found.contains(name));
            found.extend(free);
        }
        let named = ["id=\"", "name=\""].into_iter().flat_map(|word| line.split(word).skip(1));
        found.extend(named.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    found
}

/// The text of a heading.
fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let depth = line.len() - text.len();
    text.strip_prefix(' ').filter(|_| (1..=6).contains(&depth)).map(str::trim)
}

/// The anchor of a heading: small letters, digits, `-` and `_`; a space becomes `-`.
fn slug(heading: &str) -> String {
    let mut name = String::new();
    let mut in_target = false;
    let mut before = ' ';
    for c in heading.chars() {
        // Of a link only its text is shown.
        in_target = in_target && before != ')' || before == ']' && c == '(';
        before = c;
        match c {
            _ if in_target => {}
            ' ' => name.push('-'),
            '-' | '_' => name.push(c),
            c if c.is_alphanumeric() => name.extend(c.to_lowercase()),
            _ => {}
        }
    }
    name
}

/// The lines outside blocks of code, from 0.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence: Option<&str> = None;
    text.lines().enumerate().filter(move |(_, line)| {
        let line = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| line.starts_with(mark));
        match (fence, mark) {
            (None, Some(_)) => fence = mark,
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, None) => return true,
            _ => {}
        }
        false
    })
}

/// `line` without what stands between backquotes.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}
