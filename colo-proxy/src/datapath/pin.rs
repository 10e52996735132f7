//! Where things are pinned: a BPF file system that outlives the daemon, and an instance's directory
//! in it.
//!
//! `ip netns exec` runs a command in a mount namespace of its own with a fresh `/sys`, where no
//! bpffs is. One that the daemon mounts there ends with that namespace, and so with the daemon,
//! and the pins with it: the guest's network would be open at the very moment at which it is to be
//! held. So the host's bpffs is looked for first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use aya::programs::SchedClassifier;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{DatapathError, attachment};

const HERE: &str = "/sys/fs/bpf";
const HOST: &str = "/proc/1/root/sys/fs/bpf";
const HOST_MOUNT_NAMESPACE: &str = "/proc/1/ns/mnt";
const NAME_MAX: usize = 64;

/// The bpffs to use: the one that is mounted here, or the host's, or a new one.
pub fn find_bpffs() -> Result<PathBuf, DatapathError> {
    for path in [HERE, HOST] {
        if is_bpffs(Path::new(path)) {
            return Ok(path.into());
        }
    }
    match mount_on_host() {
        Ok(()) if is_bpffs(Path::new(HERE)) => return Ok(HERE.into()),
        Ok(()) if is_bpffs(Path::new(HOST)) => return Ok(HOST.into()),
        Ok(()) => log::debug!("the bpffs mounted on the host cannot be reached"),
        Err(error) => log::debug!("cannot mount a bpffs on the host: {error}"),
    }
    mount_bpffs()
        .map_err(|error| DatapathError::Bpffs { path: HERE.into(), source: error.into() })?;
    log::warn!(
        "mounted a bpffs at {HERE} in this mount namespace; if the namespace ends with the daemon \
         (as after `ip netns exec`), so does what is to hold the guest's network then: mount one \
         on the host, and enter the network namespace alone (`nsenter --net=…`)"
    );
    Ok(HERE.into())
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs() -> nix::Result<()> {
    mount(Some("bpf"), HERE, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
}

/// Mounts a bpffs in the first process's mount namespace. A thread of its own goes there, because a
/// thread that shares its working directory with others may not, and it does not come back.
fn mount_on_host() -> io::Result<()> {
    let namespace = fs::File::open(HOST_MOUNT_NAMESPACE)?;
    let mounting = thread::Builder::new().name("mount-bpffs".into()).spawn(move || {
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        if is_bpffs(Path::new(HERE)) { Ok(()) } else { mount_bpffs() }
    })?;
    let mounted = mounting.join().map_err(|_| io::Error::other("the mounting thread died"))?;
    mounted.map_err(io::Error::from)
}

/// `<bpffs>/colo-proxy/<instance>/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceDir {
    path: PathBuf,
}

impl InstanceDir {
    /// Makes the directory, if it is not there.
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
            .any(|name| attachment::is_live(&self.path.join(name)))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the map of this name is pinned.
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

    /// Takes all programs off their interfaces but those of the links named.
    pub(super) fn remove_links_except(&self, wanted: &[String]) -> Result<(), DatapathError> {
        for name in self.names()? {
            if name.starts_with("link_") && !wanted.contains(&name) {
                attachment::remove_pinned(&self.path.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes everything, the links first: programs without their maps' names are still programs.
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
