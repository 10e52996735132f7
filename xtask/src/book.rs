//! `book`: the pages of `docs` as a book for a browser.
//!
//! mdbook builds a book in spite of a page that is missing or a setting that it does not know, and
//! warns. Here a warning is a failure.

use crate::setup::{self, Need};
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

pub fn run() -> Result<()> {
    setup::ensure(&[Need::Book])?;
    build(&workspace::root()?)
}

/// Builds the book below the target folder.
pub fn build(root: &Path) -> Result<()> {
    let folder = workspace::target_dir(root).join("book");
    let mut mdbook = Command::new(setup::find_mdbook().context("mdbook is not installed")?);
    mdbook.args(["build", "docs", "--dest-dir"]).arg(&folder).current_dir(root);
    // Without it a page that is listed and missing is written, as an empty one.
    mdbook.env("MDBOOK_BUILD__CREATE_MISSING", "false");
    // A filter of the caller's could hide what is looked for below.
    mdbook.env_remove("RUST_LOG").env_remove("MDBOOK_LOG").stdin(Stdio::null());
    let done = mdbook.output().context("cannot start mdbook")?;
    let said = String::from_utf8_lossy(&done.stderr);
    let warnings = warnings(&said);
    if !done.status.success() || !warnings.is_empty() {
        eprint!("{said}");
        bail!("mdbook build docs: {}, with {} warnings", done.status, warnings.len());
    }
    println!("book: {}", folder.join("index.html").display());
    Ok(())
}

/// The lines of mdbook's log that are warnings or errors: each begins with its level.
fn warnings(log: &str) -> Vec<&str> {
    let is_warning = |line: &&str| matches!(line.split_whitespace().next(), Some("WARN" | "ERROR"));
    log.lines().filter(is_warning).collect()
}

#[cfg(test)]
mod tests {
    use super::warnings;

    #[test]
    fn a_warning_of_mdbook_is_found() {
        let fine = " INFO Book building has started\n INFO HTML book written to `WARN`\n";
        assert!(warnings(fine).is_empty());
        let log = format!("{fine} WARN unclosed HTML tag `<b>` found in `a.md`\nmore of it\n");
        assert_eq!(warnings(&log), [" WARN unclosed HTML tag `<b>` found in `a.md`"]);
        assert_eq!(warnings("ERROR Failed to deserialize `output.html`").len(), 1);
    }
}
