//! Which file may import from which, and which crate may use which.
//!
//! Two rules. Files of a crate import from each other in one direction: circles are refused. And a
//! crate uses only the crates that [`RULES`] grants it.
//!
//! An import is a path that leads to another file, in a `use` or in the code itself. A name that a
//! module re-exports leads to the file that defines it. These are no imports:
//!
//! * a parent that declares, re-exports or uses its own submodules, which are parts of it;
//! * tests, and the simulation, which is one.
//!
//! The binary of a crate that has a library counts as part of that library.

mod circles;
mod graph;
mod source;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use self::graph::CrateGraph;
use super::Finding;
use crate::{command, workspace};

const CIRCLE: &str = "circle of imports";
const FOREIGN: &str = "import of a crate";

/// What a crate may not use.
struct CrateRule {
    /// The package, and the folder that it is in.
    package: &'static str,
    /// The first parts of paths that its code, tests apart, may not have.
    no_paths: &'static [&'static str],
    /// Packages that it may not depend on, directly or through others. A name stands for its family
    /// as well: `aya` for `aya-obj`.
    no_packages: &'static [&'static str],
}

const RULES: &[CrateRule] = &[
    CrateRule {
        package: "colo-proxy-common",
        no_paths: &["std", "colo_proxy", "colo_proxy_engine", "colo_proxy_ebpf"],
        no_packages: &[],
    },
    CrateRule {
        package: "colo-proxy-ebpf",
        no_paths: &["std", "colo_proxy", "colo_proxy_engine"],
        no_packages: &[],
    },
    CrateRule {
        package: "colo-proxy-engine",
        no_paths: &["colo_proxy", "colo_proxy_ebpf", "tokio", "nix", "aya", "rtnetlink", "futures"],
        no_packages: &["tokio", "nix", "aya", "rtnetlink", "futures"],
    },
    CrateRule { package: "colo-proxy", no_paths: &["colo_proxy_ebpf"], no_packages: &[] },
];

/// The texts of a crate's source files by their paths.
type Texts = BTreeMap<String, String>;

/// All rules on all crates. `files` are the files of the workspace. A crate that is not there has
/// nothing to break.
pub(super) fn check(root: &Path, files: &[String]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for rule in RULES {
        let texts = texts(root, files, rule.package)?;
        if texts.is_empty() {
            continue;
        }
        findings.extend(check_sources(rule, &texts));
        if !rule.no_packages.is_empty() {
            findings.extend(check_tree(rule, &tree(root, rule.package)?));
        }
    }
    Ok(findings)
}

fn texts(root: &Path, files: &[String], package: &str) -> Result<Texts> {
    let folder = format!("{package}/src/");
    let is_source = |path: &&String| {
        path.starts_with(&folder) && Path::new(path).extension().is_some_and(|end| end == "rs")
    };
    files
        .iter()
        .filter(is_source)
        .map(|path| {
            let text = fs::read_to_string(root.join(path));
            Ok((path.clone(), text.with_context(|| format!("cannot read {path}"))?))
        })
        .collect()
}

/// The rules on the sources of one crate.
fn check_sources(rule: &CrateRule, texts: &Texts) -> Vec<Finding> {
    let graph = CrateGraph::new(texts);
    let mut findings = Vec::new();
    for circle in circles::of(&graph.imports()) {
        let [(first, line), ..] = &circle[..] else { continue };
        let names: Vec<&str> = circle.iter().map(|(path, _)| path.as_str()).collect();
        let what = format!("{} -> {first}: move what they share", names.join(" -> "));
        findings.push(Finding { path: first.clone(), line: *line, rule: CIRCLE, what });
    }
    for (path, line, name) in graph.first_parts() {
        if rule.no_paths.contains(&name.as_str()) {
            let what = format!("{} may not use `{name}`", rule.package);
            findings.push(Finding { path, line, rule: FOREIGN, what });
        }
    }
    findings
}

/// The packages below `package`, one a line, as cargo resolves them for it alone. Cargo.lock would
/// not do: it has the optional dependencies of common, which the engine does not ask for.
fn tree(root: &Path, package: &str) -> Result<String> {
    let mut cargo = Command::new(workspace::cargo());
    cargo.args(["tree", "--locked", "-e", "normal", "--prefix", "none", "-p", package]);
    command::output(cargo.current_dir(root))
}

/// The rule on the dependencies of one crate.
fn check_tree(rule: &CrateRule, tree: &str) -> Vec<Finding> {
    let path = format!("{}/Cargo.toml", rule.package);
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let mut found: Vec<&str> = names.filter(|name| is_forbidden(rule, name)).collect();
    found.sort_unstable();
    found.dedup();
    let finding = |name| {
        let what = format!(
            "{} may not depend on `{name}`, not even by way of another crate",
            rule.package
        );
        Finding { path: path.clone(), line: 0, rule: FOREIGN, what }
    };
    found.into_iter().map(finding).collect()
}

fn is_forbidden(rule: &CrateRule, name: &str) -> bool {
    rule.no_packages.iter().any(|family| {
        name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}
