//! A test that a document names as its proof exists.
//!
//! A citation is `module::test` in backquotes, in small letters: the last part is a test's name,
//! the one before it the file that it is in.

use super::Finding;
use std::collections::HashSet;
use std::path::Path;

const RULE: &str = "cited test";

/// The tests of the workspace, by file and name.
#[derive(Debug, Default)]
pub(super) struct Tests(HashSet<(String, String)>);

impl Tests {
    /// Adds those of a file.
    pub(super) fn add(&mut self, path: &str, text: &str) {
        let Some(module) = module(path) else { return };
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            is_test |= line == "#[test]" || line.starts_with("#[lab_test");
            if let Some(name) = function(line) {
                if is_test {
                    self.0.insert((module.to_owned(), name.to_owned()));
                }
                is_test = false;
            }
        }
    }
}

/// Every test that the document at `path` cites is among `tests`.
pub(super) fn check(path: &str, text: &str, tests: &Tests) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for citation in line.split('`').skip(1).step_by(2).filter(|quoted| is_citation(quoted)) {
            if !is_known(citation, tests) {
                let what = format!("`{citation}` is no test of this workspace");
                findings.push(Finding { path: path.to_owned(), line: i + 1, rule: RULE, what });
            }
        }
    }
    findings
}

fn is_citation(quoted: &str) -> bool {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
    quoted.contains("::") && quoted.chars().all(is_name)
}

fn is_known(citation: &str, tests: &Tests) -> bool {
    let mut parts = citation.rsplit("::");
    let Some(name) = parts.next() else { return false };
    // `foo::tests::name` may be in foo.rs or in foo/tests.rs.
    let module = parts.find(|part| *part != "tests").unwrap_or_default();
    tests.0.contains(&(module.to_owned(), name.to_owned()))
}

/// The module that a file is, `tests` being part of what it tests.
fn module(path: &str) -> Option<&str> {
    let path = Path::new(path);
    let stem = path.file_stem()?.to_str()?;
    if matches!(stem, "tests" | "mod") { path.parent()?.file_name()?.to_str() } else { Some(stem) }
}

/// The name of the function that is declared on `line`.
fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}
