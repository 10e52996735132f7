//! The place of the pins: a BPF file system (bpffs) that outlives the daemon, and an instance's
//! directory in it.
//!
//! `ip netns exec` runs a command in a mount namespace of its own with a fresh `/sys`, which has no
//! bpffs. If the daemon mounts one there, it ends with that namespace, and so with the daemon, and the
//! pins end with it. Then the guest's network would open at the very moment at which it has to stay
//! closed. So the daemon looks for the host's bpffs first.

use std::fs;
use std::io;
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use aya::programs::SchedClassifier;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{DatapathError, tc_link};
use crate::error_chain::chain;

const HERE: &str = "/sys/fs/bpf";
const NAME_MAX: usize = 64;
/// The number of ancestors that may have a mount namespace that outlives the daemon.
const ANCESTORS_MAX: usize = 16;

/// The bpffs to use: the one that is mounted here, or the host's, or a new one. The search is done
/// once.
pub fn find_bpffs() -> Result<PathBuf, DatapathError> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let found = look_for_bpffs()?;
    Ok(FOUND.get_or_init(|| found).clone())
}

fn look_for_bpffs() -> Result<PathBuf, DatapathError> {
    if is_bpffs(Path::new(HERE)) {
        return Ok(HERE.into());
    }
    let hosts = hosts();
    if let Some(path) = hosts.iter().find_map(|pid| reach(*pid)) {
        return Ok(path);
    }
    for pid in &hosts {
        match mount_in_namespace_of(*pid) {
            Ok(()) if is_bpffs(Path::new(HERE)) => return Ok(HERE.into()),
            Ok(()) => {
                if let Some(path) = reach(*pid) {
                    return Ok(path);
                }
            }
            Err(error) => {
                log::debug!("cannot mount a bpffs where process {pid} is: {}", chain(&error));
            }
        }
    }
    mount_bpffs()
        .map_err(|error| DatapathError::Bpffs { path: HERE.into(), source: error.into() })?;
    log::warn!(
        "mounted a bpffs at {HERE}, because neither this mount namespace nor the host has one. If \
         this namespace ends with the daemon, as after `ip netns exec`, the pinned programs end with \
         it and nothing guards the guest's network any more. Mount a bpffs on the host, and enter \
         only the network namespace (`nsenter --net=…`)"
    );
    Ok(HERE.into())
}

/// Processes whose mount namespace may be the host's: process 1, then our ancestors, the nearest
/// first. One of them may be the shell that ran `ip netns exec`.
fn hosts() -> Vec<u32> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let own = namespace("self");
    let mut hosts = vec![1];
    let mut pid = std::process::id();
    for _ in 0..ANCESTORS_MAX {
        let Some(parent) = parent_of(pid).filter(|parent| *parent > 1) else { break };
        if namespace(&parent.to_string()).is_some_and(|theirs| Some(theirs) != own) {
            hosts.push(parent);
        }
        pid = parent;
    }
    hosts
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// The bpffs that process `pid` sees, by a path that stays valid when that process ends.
fn reach(pid: u32) -> Option<PathBuf> {
    let theirs = PathBuf::from(format!("/proc/{pid}/root{HERE}"));
    if !is_bpffs(&theirs) {
        return None;
    }
    if pid == 1 {
        return Some(theirs);
    }
    let folder = fs::File::open(&theirs).ok()?;
    Some(format!("/proc/self/fd/{}", folder.into_raw_fd()).into())
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs() -> nix::Result<()> {
    mount(Some("bpf"), HERE, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
}

/// Mounts a bpffs in the mount namespace of process `pid`. A thread of its own does it: a thread that
/// shares its working directory with others may not enter, and one that has entered does not come back.
fn mount_in_namespace_of(pid: u32) -> io::Result<()> {
    let namespace = fs::File::open(format!("/proc/{pid}/ns/mnt"))?;
    let mounting = thread::Builder::new().name("mount-bpffs".into()).spawn(move || {
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        if is_bpffs(Path::new(HERE)) { Ok(()) } else { mount_bpffs() }
    })?;
    let mounted =
        mounting.join().map_err(|_| io::Error::other("the thread that mounts it died"))?;
    mounted.map_err(io::Error::from)
}

/// `<bpffs>/colo-proxy/<instance>/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceDir {
    path: PathBuf,
}

impl InstanceDir {
    /// Creates the directory, if it is not there.
    pub fn create(bpffs: &Path, instance: &str) -> Result<Self, DatapathError> {
        let path = path_of(bpffs, instance)?;
        fs::create_dir_all(&path).map_err(directory("create", &path))?;
        Ok(Self { path })
    }

    /// The directory, if it is there.
    pub(super) fn existing(bpffs: &Path, instance: &str) -> Result<Self, DatapathError> {
        let path = path_of(bpffs, instance)?;
        fs::metadata(&path).map_err(directory("find", &path))?;
        Ok(Self { path })
    }

    /// A program is still attached to an interface that exists.
    pub(super) fn has_live_link(&self) -> bool {
        let links = self.names().unwrap_or_default();
        links
            .iter()
            .filter(|name| name.starts_with("link_"))
            .any(|name| tc_link::is_live(&self.path.join(name)))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of this map's pin.
    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn pin_program(
        &self,
        name: &str,
        program: &mut SchedClassifier,
    ) -> Result<(), DatapathError> {
        let path = self.path.join(format!("prog_{name}"));
        remove_file(&path)?;
        program.pin(&path).map_err(|source| DatapathError::Pin { path, source })
    }

    pub(super) fn remove_maps(&self, names: &[&str]) -> Result<(), DatapathError> {
        names.iter().try_for_each(|name| remove_file(&self.map(name)))
    }

    /// Detaches all programs except those of the `wanted` links, and removes the links' pins.
    pub(super) fn remove_links_except(&self, wanted: &[String]) -> Result<(), DatapathError> {
        for name in self.names()? {
            if name.starts_with("link_") && !wanted.contains(&name) {
                let path = self.path.join(name);
                tc_link::detach_pinned(&path)?;
                remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Removes everything, the links first: a program works on after the pins of its maps are gone.
    pub(super) fn remove(&self) -> Result<(), DatapathError> {
        self.remove_links_except(&[])?;
        for name in self.names()? {
            remove_file(&self.path.join(name))?;
        }
        fs::remove_dir(&self.path).map_err(directory("remove", &self.path))?;
        if let Some(parent) = self.path.parent() {
            // Other instances may be in it.
            let _not_empty = fs::remove_dir(parent);
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, DatapathError> {
        let entries = fs::read_dir(&self.path).map_err(directory("list", &self.path))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }
}

fn path_of(bpffs: &Path, instance: &str) -> Result<PathBuf, DatapathError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_@".contains(c);
    if instance.is_empty() || instance.len() > NAME_MAX || !instance.chars().all(valid) {
        return Err(DatapathError::InstanceName { name: instance.to_owned() });
    }
    Ok(bpffs.join("colo-proxy").join(instance))
}

fn directory(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DatapathError {
    let path = path.to_owned();
    move |source| DatapathError::Directory { action, path, source }
}

/// Removes `path`, if it is there.
pub(super) fn remove_file(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(directory("remove", path)(error))
        }
        _ => Ok(()),
    }
}
