//! A test that a document names as its proof exists, and so does a module that it names.
//!
//! A citation is `module::test` in backquotes, in small letters: the last part is a test's name,
//! the one before it the file that it is in. A module is cited likewise: `pair::takeover`.

use super::Finding;
use std::collections::HashSet;
use std::path::Path;

const RULE: &str = "citation";
/// Crates that are not ours: their modules are not looked for.
const FOREIGN: [&str; 3] = ["core::", "std::", "tokio::"];

/// The tests and modules of the workspace.
#[derive(Debug, Default)]
pub(super) struct Tests {
    /// Each by its file and name.
    tests: HashSet<(String, String)>,
    /// Each with everything that it lies in: `compare::tcp` as well as `colo_proxy::compare::tcp`.
    modules: HashSet<String>,
}

impl Tests {
    /// Adds those of a file.
    pub(super) fn add(&mut self, path: &str, text: &str) {
        self.add_modules(path);
        let Some(module) = module(path) else { return };
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            is_test |= is_test_attribute(line);
            if let Some(name) = function(line) {
                if is_test {
                    self.tests.insert((module.to_owned(), name.to_owned()));
                }
                is_test = false;
            }
        }
    }

    fn add_modules(&mut self, path: &str) {
        let path = path.trim_end_matches(".rs").trim_end_matches("/mod").replace('-', "_");
        let parts: Vec<&str> = path.split('/').filter(|part| *part != "src").collect();
        for from in 0..parts.len() {
            self.modules.insert(parts.get(from..).unwrap_or_default().join("::"));
        }
    }

    fn know(&self, citation: &str) -> bool {
        if self.modules.contains(citation) {
            return true;
        }
        let mut parts = citation.rsplit("::");
        let Some(name) = parts.next() else { return false };
        // `foo::tests::name` may be in foo.rs or in foo/tests.rs.
        let module = parts.find(|part| *part != "tests").unwrap_or_default();
        self.tests.contains(&(module.to_owned(), name.to_owned()))
    }
}

/// Every test that the document at `path` cites is among `tests`, and so is every module.
pub(super) fn check(path: &str, text: &str, tests: &Tests) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for citation in line.split('`').skip(1).step_by(2).filter(|quoted| is_citation(quoted)) {
            if !tests.know(citation) {
                let what = format!("`{citation}` is no test and no module of this workspace");
                findings.push(Finding { path: path.to_owned(), line: i + 1, rule: RULE, what });
            }
        }
    }
    findings
}

fn is_citation(quoted: &str) -> bool {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
    let is_foreign = FOREIGN.iter().any(|name| quoted.starts_with(name));
    let is_path = quoted.contains("::") && quoted.split("::").all(|part| !part.is_empty());
    is_path && quoted.chars().all(is_name) && !is_foreign
}

/// The module that a file is, `tests` being part of what it tests.
fn module(path: &str) -> Option<&str> {
    let path = Path::new(path);
    let stem = path.file_stem()?.to_str()?;
    if matches!(stem, "tests" | "mod") { path.parent()?.file_name()?.to_str() } else { Some(stem) }
}

/// `#[test]`, or an attribute of another harness, as `#[lab_test(root)]`.
fn is_test_attribute(line: &str) -> bool {
    let inside = line.strip_prefix("#[").and_then(|rest| rest.split([']', '(']).next());
    let word = inside.and_then(|name| name.rsplit("::").next());
    word.is_some_and(|word| word == "test" || word.ends_with("_test"))
}

/// The name of the function that is declared on `line`.
fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}
