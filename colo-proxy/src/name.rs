//! The name of an instance, and the lock that shows whether its daemon lives.
//!
//! A name that the operator chooses is used as it is. Otherwise the name is the netdev's, as `tap0`.
//! If another network namespace of this machine already uses that name (two hosts of a laboratory,
//! both with a `tap0`), it is `tap0@NAMESPACE`. A filter puts its command before it:
//! `filter-mirror@tap0`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why an instance gets no name.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    #[error(
        "instance {name} is running as pid {pid}; end it first, or give this instance another name"
    )]
    InUse { name: String, pid: String, namespace: u64 },
    #[error("cannot use the lock file {}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

/// A name that no other instance can claim while this lives.
#[derive(Debug)]
pub struct Claim {
    pub name: String,
    lock: File,
    path: PathBuf,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock ends with the process even if the file stays. A second daemon that has opened
        // the old file meanwhile sees that it is not the one on disk.
        let _ = self.lock.set_len(0);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Claims `chosen`, or a name after `netdev`. A dead daemon may have left something under a name:
/// `is_foreign` tells whether that belongs to another network namespace.
pub fn claim(
    dir: &Path,
    chosen: Option<&str>,
    netdev: &str,
    is_foreign: impl Fn(&str) -> bool,
) -> Result<Claim, NameError> {
    claim_as(dir, chosen, &as_name(netdev), is_foreign)
}

/// Claims `chosen`, or a name for the filter that `command` starts on `netdev`.
pub(crate) fn claim_filter(
    dir: &Path,
    chosen: Option<&str>,
    command: &str,
    netdev: &str,
    is_foreign: impl Fn(&str) -> bool,
) -> Result<Claim, NameError> {
    claim_as(dir, chosen, &format!("{command}@{}", as_name(netdev)), is_foreign)
}

fn claim_as(
    dir: &Path,
    chosen: Option<&str>,
    own: &str,
    is_foreign: impl Fn(&str) -> bool,
) -> Result<Claim, NameError> {
    if let Some(name) = chosen {
        return lock(dir, name);
    }
    if !is_foreign(own) {
        match lock(dir, own) {
            // In this namespace the name would be the very same TAP.
            Err(NameError::InUse { namespace, .. }) if namespace != own_namespace() => {}
            claimed => return claimed,
        }
    }
    lock(dir, &format!("{own}@{}", as_name(&namespace_label())))
}

/// The name is also a directory of bpffs, which takes no dots. An interface's name may have nearly
/// every character.
fn as_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

fn lock(dir: &Path, name: &str) -> Result<Claim, NameError> {
    let path = dir.join(format!("{name}.lock"));
    let fail = |source| NameError::File { path: path.clone(), source };
    loop {
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(name, &mut lock)),
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        // The last owner removes the file. A lock on a removed file keeps nobody out.
        let on_disk = std::fs::metadata(&path).map(|meta| meta.ino()).ok();
        if on_disk != Some(lock.metadata().map_err(fail)?.ino()) {
            continue;
        }
        lock.set_len(0).map_err(fail)?;
        lock.rewind().map_err(fail)?;
        writeln!(lock, "{} {}", std::process::id(), own_namespace()).map_err(fail)?;
        return Ok(Claim { name: name.into(), lock, path });
    }
}

/// The owner of a lock has written its pid and its network namespace into the file.
fn in_use(name: &str, lock: &mut File) -> NameError {
    let mut text = String::new();
    let _ = lock.read_to_string(&mut text);
    let (pid, namespace) = text.trim().split_once(' ').unwrap_or(("unknown", ""));
    let namespace = namespace.parse().unwrap_or(0);
    NameError::InUse { name: name.into(), pid: pid.into(), namespace }
}

/// The lock of instance `name` was taken in the network namespace of this thread.
pub fn is_in_this_namespace(dir: &Path, name: &str) -> bool {
    std::fs::read_to_string(dir.join(format!("{name}.lock"))).is_ok_and(|text| {
        text.split(' ').nth(1).map(str::trim) == Some(&own_namespace().to_string())
    })
}

/// The name of this network namespace under /run/netns, or its number.
fn namespace_label() -> String {
    let own = own_namespace();
    std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .find(|entry| std::fs::metadata(entry.path()).is_ok_and(|meta| meta.ino() == own))
        .map_or_else(|| own.to_string(), |entry| entry.file_name().to_string_lossy().into_owned())
}

/// The inode number of this thread's network namespace. 0 if it cannot be read.
fn own_namespace() -> u64 {
    std::fs::metadata("/proc/thread-self/ns/net").map_or(0, |meta| meta.ino())
}

#[cfg(test)]
mod tests {
    use super::{NameError, claim};

    #[test]
    fn a_chosen_name_is_had_once_and_again_when_it_is_free() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = claim(dir.path(), Some("web"), "tap0", |_| false).expect("free");
        let error = claim(dir.path(), Some("web"), "tap0", |_| false).expect_err("taken");
        let NameError::InUse { pid, .. } = error else { panic!("{error}") };
        assert_eq!(pid, std::process::id().to_string());
        drop(first);
        claim(dir.path(), Some("web"), "tap0", |_| false).expect("free again");
    }

    #[test]
    fn a_derived_name_steps_aside_for_another_namespace_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = claim(dir.path(), None, "tap0", |_| false).expect("free");
        assert_eq!(first.name, "tap0");
        let same = claim(dir.path(), None, "tap0", |_| false);
        assert!(matches!(same, Err(NameError::InUse { .. })), "it is the same TAP");
        let other = claim(dir.path(), None, "tap0", |name| name == "tap0").expect("another name");
        assert!(other.name.starts_with("tap0@"), "{}", other.name);
    }
}
