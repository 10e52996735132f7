//! The source files of the object, and their digest.

use crate::command;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The folders of the kernel programs and of the code that they share with the daemon.
const FOLDERS: [&str; 2] = ["colo-proxy-common", "colo-proxy-ebpf"];
/// Folders and files of tests. No object contains them.
const TESTS: [&str; 3] = ["tests", "tests.rs", "proptest-regressions"];

/// SHA-256 over the names and contents of all sources, in order of their names.
pub(super) fn digest(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file);
        // The length separates one file's end from the next file's name.
        all.extend_from_slice(format!("{} {}\n", name.display(), content.len()).as_bytes());
        all.extend_from_slice(&content);
    }
    command::sha256(&all)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let listed =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in listed {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let path = entry.path();
        let is_test = TESTS.iter().any(|name| entry.file_name() == *name);
        let is_source = path.extension().is_some_and(|end| end == "rs" || end == "toml");
        if path.is_dir() && !is_test {
            collect(&path, files)?;
        } else if is_source && !is_test {
            files.push(path);
        }
    }
    Ok(())
}
