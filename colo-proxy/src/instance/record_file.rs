//! The file with the record of who serves: read once, and written when the decision of a pair wants it.
//!
//! A write takes the disk's time, so it has a thread of its own. A new record replaces the old one as a
//! whole, and counts as written when the disk has both the file and its name.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use colo_proxy_engine::log_limit::LogLimit;
use colo_proxy_engine::pair::Role;
use colo_proxy_engine::pair::service_record::{RecordError, ServiceRecord};
use tokio::task::JoinHandle;

use crate::error_chain::chain;

/// The name of the file in the instance's directory.
const FILE: &str = "service.json";
/// A disk that takes longer for a record may be broken, and the guest must not stand still for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// A longer file is none of ours.
const SIZE_MAX: u64 = 4096;

/// Why an instance cannot know who served last.
#[derive(Debug, thiserror::Error)]
pub enum RecordFileError {
    #[error("cannot create the directory {} for the record of who serves", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot read {}, the record of who serves", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the record of who serves to {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "cannot read {}, the record of who serves. If you know which host served last, remove the file \
         on both hosts, and start the daemon of that host first",
        path.display()
    )]
    Parse { path: PathBuf, source: RecordError },
}

/// The file of one instance.
#[derive(Debug)]
pub(super) struct RecordFile {
    instance: String,
    directory: PathBuf,
    role: Role,
    writing: Option<JoinHandle<io::Result<()>>>,
    log: LogLimit,
}

impl RecordFile {
    /// Opens the file of `instance` below `state_dir`, and returns the record in it. `None`: there was
    /// never one. If no earlier daemon of this `role` has left programs, the record says from here on that
    /// the guest is another one.
    pub(super) fn open(
        state_dir: &Path,
        instance: &str,
        role: Role,
        has_leftover: bool,
    ) -> Result<(Self, Option<ServiceRecord>), RecordFileError> {
        let directory = state_dir.join(instance);
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| RecordFileError::Directory { path: directory.clone(), source })?;
        let found = read(&directory.join(FILE))?;
        let record = found.map(|(was, record)| {
            if was == role && has_leftover { record } else { record.of_a_new_guest(role) }
        });
        let changed = record.map(|record| (role, record)).filter(|record| Some(*record) != found);
        if let Some((role, record)) = changed {
            replace(&directory, role, record)
                .map_err(|source| RecordFileError::Write { path: directory.clone(), source })?;
        }
        let instance = instance.to_owned();
        let file = Self { instance, directory, role, writing: None, log: LogLimit::default() };
        Ok((file, record))
    }

    /// Begins to write `record`. [`Self::next`] has the end of it.
    pub(super) fn write(&mut self, record: ServiceRecord) {
        let (directory, role) = (self.directory.clone(), self.role);
        let write = move || replace(&directory, role, record);
        self.writing = Some(tokio::task::spawn_blocking(write));
    }

    /// Waits for the end of a write. Whether the disk has the record. Can be dropped without losing it.
    pub(super) async fn next(&mut self) -> bool {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.writing = None;
        let Err(error) = written else { return true };
        if let Some(more) = self.log.admit(Instant::now()) {
            log::error!(
                "{}: the record of who serves cannot be written to {}: {}. Until it can, no guest of this \
                 pair takes over or goes on alone by itself{more}",
                self.instance,
                self.directory.display(),
                chain(&error)
            );
        }
        false
    }

    /// The same for an operator who waits, or a daemon that ends: no longer than [`PATIENCE`]. `None`: the
    /// write goes on.
    pub(super) async fn next_soon(&mut self) -> Option<bool> {
        tokio::time::timeout(PATIENCE, self.next()).await.ok()
    }

    /// A record is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }
}

fn read(path: &Path) -> Result<Option<(Role, ServiceRecord)>, RecordFileError> {
    let fail = |source| RecordFileError::Read { path: path.into(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(fail(source)),
    };
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, SIZE_MAX), &mut text).map_err(fail)?;
    let record = ServiceRecord::parse(&text)
        .map_err(|source| RecordFileError::Parse { path: path.into(), source })?;
    Ok(Some(record))
}

fn replace(directory: &Path, role: Role, record: ServiceRecord) -> io::Result<()> {
    let new = directory.join(format!("{FILE}.new"));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(record.text(role).as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use colo_proxy_engine::pair::service_record::Server;

    use super::*;

    fn record(generation: u64) -> ServiceRecord {
        ServiceRecord::new(generation, Server::Either)
    }

    #[tokio::test]
    async fn a_record_is_there_after_a_restart() {
        let state = tempfile::tempdir().expect("a directory");
        let (mut file, none) =
            RecordFile::open(state.path(), "web", Role::Primary, true).expect("a new one");
        assert_eq!(none, None);
        for generation in [1, 2] {
            file.write(record(generation));
            assert!(file.is_writing());
            assert!(file.next().await);
            let (_, found) =
                RecordFile::open(state.path(), "web", Role::Primary, true).expect("the same one");
            assert_eq!(found, Some(record(generation)));
        }
        let (_, other) =
            RecordFile::open(state.path(), "db", Role::Primary, true).expect("another guest's");
        assert_eq!(other, None);
    }

    #[tokio::test]
    async fn a_guest_that_was_started_anew_is_known_as_such_at_every_later_start() {
        let state = tempfile::tempdir().expect("a directory");
        let (mut file, _) =
            RecordFile::open(state.path(), "web", Role::Primary, true).expect("a new one");
        file.write(record(1));
        assert!(file.next().await);
        for has_leftover in [false, true] {
            let opened = RecordFile::open(state.path(), "web", Role::Primary, has_leftover);
            let (_, found) = opened.expect("it is there");
            assert_eq!(found, Some(record(1).of_a_new_guest(Role::Primary)));
        }
    }

    #[tokio::test]
    async fn a_host_that_becomes_a_secondary_has_no_guest_that_could_take_over() {
        let state = tempfile::tempdir().expect("a directory");
        let (mut file, _) =
            RecordFile::open(state.path(), "web", Role::Primary, true).expect("a new one");
        file.write(record(1));
        assert!(file.next().await);
        for _ in 0..2 {
            let opened = RecordFile::open(state.path(), "web", Role::Secondary, true);
            let (_, found) = opened.expect("it is there");
            assert_eq!(found, Some(ServiceRecord::new(1, Server::OtherHost)));
        }
    }

    #[tokio::test]
    async fn a_write_that_fails_leaves_the_old_record() {
        let state = tempfile::tempdir().expect("a directory");
        let (mut file, _) =
            RecordFile::open(state.path(), "web", Role::Primary, true).expect("a new one");
        file.write(record(1));
        assert!(file.next().await);
        // A directory where the new file is to be: root may write everywhere else.
        std::fs::create_dir(state.path().join("web/service.json.new")).expect("a directory");
        file.write(record(2));
        assert!(!file.next().await);
        let (_, found) =
            RecordFile::open(state.path(), "web", Role::Primary, true).expect("the old one");
        assert_eq!(found, Some(record(1)));
    }

    #[test]
    fn a_file_that_is_no_record_is_refused_with_what_to_do() {
        let state = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(state.path().join("web")).expect("a directory");
        let path = state.path().join("web/service.json");
        for text in ["", "{}", &"x".repeat(9000)] {
            std::fs::write(&path, text).expect("a file");
            let error =
                RecordFile::open(state.path(), "web", Role::Primary, true).expect_err("no record");
            assert!(error.to_string().contains("which host served last"), "{error}");
        }
        let error =
            RecordFile::open(&path, "web", Role::Primary, true).expect_err("not below a file");
        assert!(chain(&error).contains("directory"), "{error}");
    }
}
