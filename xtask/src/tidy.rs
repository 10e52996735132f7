//! `tidy`: the style rules of this project that no other tool knows, as a test.
//!
//! The rules read lines, not syntax trees: they want to be simple enough to be trusted, and plain
//! in what they miss. Every rule has twins among the tests: a text that passes and one that must
//! not.

mod citations;
mod documents;
mod errors;
mod imports;
mod lexer;
mod links;
mod paths;
mod readme;
mod rules;
#[cfg(test)]
mod tests;

use self::citations::Tests;
use self::links::Documents;
use crate::{command, workspace};
use anyhow::{Context as _, Result, bail};
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

pub use readme::readme_against_daemon;

/// One place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    /// From 1; 0 is the file as a whole.
    pub line: usize,
    pub rule: &'static str,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.what)
    }
}

pub fn run() -> Result<()> {
    let root = workspace::root()?;
    let files = files(&root)?;
    let known = Known { tests: tests_of(&root, &files)?, documents: documents_of(&root, &files)? };
    let summary = fs::read_to_string(root.join(documents::SUMMARY)).ok();
    let mut findings = documents::summary(known.documents.names(), summary.as_deref());
    for path in &files {
        findings.extend(check_file(&root, path, &known)?);
    }
    findings.extend(imports::check(&root, &files)?);
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} places break the style rules", findings.len());
    }
    println!("tidy: {} files follow the rules", files.len());
    Ok(())
}

/// What the documents may point to.
struct Known {
    tests: Tests,
    documents: Documents,
}

/// All rules that apply to the file at `path`.
fn check_file(root: &Path, path: &str, known: &Known) -> Result<Vec<Finding>> {
    let bytes = fs::read(root.join(path)).with_context(|| format!("cannot read {path}"))?;
    let mut findings = paths::check(path, &bytes);
    let text = String::from_utf8_lossy(&bytes);
    if Path::new(path).extension().is_some_and(|end| end == "rs") {
        findings.extend(rules::check(path, &text));
        findings.extend(errors::check(path, &text));
    }
    if documents::is_document(path) {
        findings.extend(citations::check(path, &text, &known.tests));
        findings.extend(links::check(path, &text, &known.documents));
        findings.extend(documents::length(path, &text));
    }
    if readme::has_examples(path) {
        findings.extend(readme::check(path, &text));
    }
    Ok(findings)
}

/// The documents among `files`, and what they can point to.
fn documents_of(root: &Path, files: &[String]) -> Result<Documents> {
    let mut documents = Documents::default();
    for path in files {
        documents.add_file(path);
        if documents::is_document(path) {
            let text = fs::read_to_string(root.join(path));
            documents.add_text(path, &text.with_context(|| format!("cannot read {path}"))?);
        }
    }
    Ok(documents)
}

/// The tests in `files`.
fn tests_of(root: &Path, files: &[String]) -> Result<Tests> {
    let mut tests = Tests::default();
    for path in files.iter().filter(|path| Path::new(path).extension().is_some_and(|e| e == "rs")) {
        let text = fs::read_to_string(root.join(path));
        tests.add(path, &text.with_context(|| format!("cannot read {path}"))?);
    }
    Ok(tests)
}

/// Every file that is or could be committed.
fn files(root: &Path) -> Result<Vec<String>> {
    let listed = command::output(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(root),
    )?;
    let names = listed.split('\0').filter(|name| !name.is_empty());
    // A file that is deleted but not yet committed as such is listed, too.
    Ok(names.filter(|name| root.join(name).is_file()).map(str::to_owned).collect())
}
