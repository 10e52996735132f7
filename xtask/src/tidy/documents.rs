//! What holds for the documents together: how long two of them may be, and that the book has every
//! page.

use super::Finding;
use super::links;
use std::path::Path;

/// The book's list of pages.
pub(super) const SUMMARY: &str = "docs/SUMMARY.md";
/// The most bytes of the document that everybody reads before working on the code.
const ARCHITECTURE_BYTES_MAX: usize = 15 * 1024;
/// The most lines of the one that everybody reads first.
const README_LINES_MAX: usize = 150;

/// The document at `path` is one.
pub(super) fn is_document(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|end| end == "md")
}

/// The documents that have to be short are.
pub(super) fn length(path: &str, text: &str) -> Option<Finding> {
    let what = match path {
        "ARCHITECTURE.md" if text.len() > ARCHITECTURE_BYTES_MAX => {
            let more = "move what is detail to docs/internals";
            format!("{} bytes, more than {ARCHITECTURE_BYTES_MAX}: {more}", text.len())
        }
        "README.md" if text.lines().count() > README_LINES_MAX => {
            let lines = text.lines().count();
            format!("{lines} lines, more than {README_LINES_MAX}: move what is detail to docs")
        }
        _ => return None,
    };
    Some(Finding { path: path.to_owned(), line: 0, rule: "document length", what })
}

/// Every page of `names` that lies in `docs` is in the book, whose list of pages is `summary`.
pub(super) fn summary<'a>(
    names: impl Iterator<Item = &'a str>,
    summary: Option<&str>,
) -> Vec<Finding> {
    let finding = |what| Finding { path: SUMMARY.to_owned(), line: 0, rule: "book", what };
    let Some(summary) = summary else {
        return vec![finding("the list of the book's pages is missing".to_owned())];
    };
    let listed = links::targets(SUMMARY, summary);
    let pages = names.filter(|name| name.starts_with("docs/") && *name != SUMMARY);
    let missing = pages.filter(|page| !listed.contains(*page));
    missing.map(|page| finding(format!("the book has no {page}: list it"))).collect()
}
