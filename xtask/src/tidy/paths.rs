//! No committed file names a place that only one machine has: neither a folder of its owner nor
//! the mirror that its package manager asks. Binary files are searched, too: a build that leaks
//! its folder is not reproducible.

use super::Finding;

const RULE: &str = "machine path";

/// What must not occur. Each is put together from two parts, or this file would be a finding.
const PATTERNS: [&str; 8] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("index.cra", "tes.io"),
    concat!("static.cra", "tes.io"),
    concat!("deb.deb", "ian.org"),
    concat!("py", "pi.org"),
    concat!("registry.np", "mjs"),
];

pub(super) fn check(path: &str, bytes: &[u8]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        for pattern in PATTERNS {
            if occurs(line, pattern.as_bytes()) {
                let what = format!("{pattern} is a place on one machine or network only");
                findings.push(Finding { path: path.to_owned(), line: i + 1, rule: RULE, what });
            }
        }
    }
    findings
}

/// `pattern` occurs in `line`, and not as the end of a longer path.
fn occurs(line: &[u8], pattern: &[u8]) -> bool {
    let mut found = line.windows(pattern.len()).enumerate().filter(|(_, part)| *part == pattern);
    found.any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|i| line.get(i));
        !before.is_some_and(u8::is_ascii_alphanumeric)
    })
}
