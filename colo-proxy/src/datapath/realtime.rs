//! Refuses a kernel with `PREEMPT_RT`, on which the programs are not safe.
//!
//! The programs have per-CPU memory for values that do not fit on their stack, and for their counters.
//! That is sound if no program interrupts another one on its processor, as in the softirq of any other
//! kernel. With `PREEMPT_RT` a task that handles frames can be preempted by another one. The program of
//! the second task would overwrite the values that the first one has parsed. Then a frame could be
//! translated, or pass, by the numbers of another connection.

use std::path::Path;

use super::DatapathError;

/// Contains 1 with `PREEMPT_RT`. Not every kernel with `PREEMPT_RT` has this file.
const SYSFS: &str = "/sys/kernel/realtime";
/// The word in the kernel's version, for example `#1 SMP PREEMPT_RT Debian 6.12.48-1 (2025-09-20)`.
const WORD: &str = "PREEMPT_RT";

/// Refuses a kernel with `PREEMPT_RT`. Call it before any leftover of a dead daemon changes.
pub(super) fn refuse() -> Result<(), DatapathError> {
    let version = nix::sys::utsname::uname()
        .map(|names| names.version().to_string_lossy().into_owned())
        .unwrap_or_default();
    refuse_as_of(Path::new(SYSFS), &version)
}

fn refuse_as_of(sysfs: &Path, version: &str) -> Result<(), DatapathError> {
    let flag = std::fs::read_to_string(sysfs).unwrap_or_default();
    let is_realtime = flag.trim() == "1" || version.split_whitespace().any(|word| word == WORD);
    if is_realtime { Err(DatapathError::Realtime) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel with this content of the file, and this version, is refused.
    fn is_refused(flag: Option<&str>, version: &str) -> bool {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("realtime");
        if let Some(flag) = flag {
            std::fs::write(&path, flag).expect("a file");
        }
        let refused = refuse_as_of(&path, version);
        if let Err(error) = &refused {
            let hint = error.hint().expect("what to do");
            assert!(hint.contains("PREEMPT_RT"), "{hint}");
        }
        refused.is_err()
    }

    #[test]
    fn a_kernel_that_says_so_is_refused() {
        assert!(is_refused(Some("1\n"), "#1 SMP Fri Nov 28 2025"));
        assert!(is_refused(None, "#1 SMP PREEMPT_RT Debian 6.12.48-1 (2025-09-20)"));
        assert!(is_refused(Some("1\n"), "#1 SMP PREEMPT_RT"));
    }

    #[test]
    fn any_other_is_taken() {
        for version in
            ["", "#1 SMP PREEMPT_DYNAMIC @0", "#1 SMP PREEMPT Debian", "#2 SMP PREEMPT_RTX"]
        {
            assert!(!is_refused(None, version), "{version}");
            assert!(!is_refused(Some("0\n"), version), "{version}");
        }
    }
}
