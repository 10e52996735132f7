//! Versions of QEMU.

use std::fmt;

/// The first release whose COLO works when a program outside QEMU drives it. Older releases do not
/// enter COLO, or stop at the first checkpoint.
pub const OLDEST: Release = Release { major: 11, minor: 1, patch: 0 };

/// As `--version` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Release {
    /// Reads the answer to `--version`. The suffix of a release candidate is ignored.
    pub(super) fn read(said: &str) -> Option<Self> {
        let text = said.strip_prefix("QEMU emulator version ")?;
        let text = text.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let mut numbers = text.split('.').map(str::parse);
        let mut number = || numbers.next()?.ok();
        Some(Self { major: number()?, minor: number()?, patch: number().unwrap_or(0) })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch } = self;
        match patch {
            0 => write!(f, "{major}.{minor}"),
            _ => write!(f, "{major}.{minor}.{patch}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{OLDEST, Release};

    fn of(version: &str) -> Option<Release> {
        Release::read(&format!("QEMU emulator version {version}\nCopyright (c) 2003-2026 others\n"))
    }

    #[test]
    fn reads_what_distributions_write() {
        let release = |major, minor, patch| Some(Release { major, minor, patch });
        assert_eq!(of("11.1.3 (Debian 1:11.1.3+ds-1)"), release(11, 1, 3));
        assert_eq!(of("7.2.22"), release(7, 2, 22));
        assert_eq!(of("11.1.50-rc2"), release(11, 1, 50));
        assert_eq!(of("12.0"), release(12, 0, 0));
        for nonsense in ["", "eleven", "11", "."] {
            assert_eq!(of(nonsense), None, "{nonsense}");
        }
        assert_eq!(Release::read("bash: not found"), None);
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        for (version, can) in [
            ("9.2.0", false),
            ("10.2.2", false),
            ("11.0.9", false),
            ("11.1.0", true),
            ("12.0.0", true),
        ] {
            assert_eq!(of(version).is_some_and(|release| release >= OLDEST), can, "{version}");
        }
        assert_eq!(OLDEST.to_string(), "11.1");
    }
}
