//! Which host serves, as a host remembers it when its daemon or the host itself has ended.
//!
//! Each host has one [`ServiceRecord`] for each guest. The caller keeps it on a disk. A record is written
//! when the right to serve changes hands, and when a secondary becomes able to take over or stops being
//! able to. It is never written for a checkpoint. What depends on a record is done only after the record
//! is on the disk: see [`RecordKeeper`].

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::Role;

/// The host that may answer the network, as one of the two hosts knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// This host, and no other one.
    ThisHost,
    /// The pair is protected: the primary's host serves, and the secondary's may take over.
    Either,
    /// The other host. This one does not serve by itself.
    OtherHost,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ThisHost => "this host",
            Self::Either => "either host",
            Self::OtherHost => "the other host",
        })
    }
}

/// Who serves, and since which change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ServiceRecord {
    /// Counts the times that one host has got the right to serve alone. Of two hosts that both claim it,
    /// the one with the lower generation is wrong.
    pub generation: u64,
    /// The host that may serve.
    pub server: Server,
    /// A primary's guest has started since the pair was protected, and knows nothing of what its clients
    /// were told.
    #[serde(default, skip_serializing_if = "is_false")]
    pub guest_is_new: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The record, as the file on the disk has it.
#[derive(Serialize, Deserialize)]
struct RecordFile {
    version: u32,
    /// The half that the host was.
    role: Role,
    #[serde(flatten)]
    record: ServiceRecord,
}

/// Version of the file.
const VERSION: u32 = 1;

/// Why a text is not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is not the JSON object that a daemon writes.
    #[error("it is not a record of who serves")]
    Syntax(#[from] serde_json::Error),
    /// A later daemon wrote it.
    #[error("it has version {0}, and this daemon knows version {VERSION}")]
    Version(u32),
}

impl ServiceRecord {
    /// A record that says so.
    pub fn new(generation: u64, server: Server) -> Self {
        Self { generation, server, guest_is_new: false }
    }

    /// The record of a daemon that starts and finds no programs of an earlier one, or was the other half
    /// before: the guest that the record speaks of has ended. The caller writes it before it leaves
    /// programs of its own, by which the next daemon would take the new guest for the old one.
    #[must_use]
    pub fn of_a_new_guest(self, role: Role) -> Self {
        match (role, self.server) {
            (Role::Primary, Server::Either) => Self { guest_is_new: true, ..self },
            (Role::Secondary, Server::Either) => Self { server: Server::OtherHost, ..self },
            _ => self,
        }
    }

    /// The text of the file, of a host that is this half.
    pub fn text(self, role: Role) -> String {
        let file = RecordFile { version: VERSION, role, record: self };
        // Integers and words always serialise.
        serde_json::to_string(&file).unwrap_or_default() + "\n"
    }

    /// Reads the text of the file, and says which half the host was.
    pub fn parse(text: &str) -> Result<(Role, Self), RecordError> {
        let file: RecordFile = serde_json::from_str(text)?;
        if file.version != VERSION {
            return Err(RecordError::Version(file.version));
        }
        Ok((file.role, file.record))
    }
}

/// The state of the last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RecordWrite {
    None,
    /// It has not ended. The disk has the old record or this one.
    Running(ServiceRecord),
    Failed,
}

/// One host's record: on the disk, and as it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordKeeper {
    on_disk: Option<ServiceRecord>,
    wanted: Option<ServiceRecord>,
    write: RecordWrite,
    /// There is a disk. Without one, a record counts as kept at once, and is forgotten with the process.
    has_disk: bool,
}

impl RecordKeeper {
    /// The keeper of a daemon that has just started, and has found `on_disk`.
    pub fn new(on_disk: Option<ServiceRecord>) -> Self {
        Self { on_disk, wanted: on_disk, write: RecordWrite::None, has_disk: true }
    }

    /// A keeper that remembers as long as its process lives.
    pub fn in_memory() -> Self {
        Self { has_disk: false, ..Self::new(None) }
    }

    /// The record that is on the disk or is to be. `None`: the guest was never protected.
    pub fn record(&self) -> Option<ServiceRecord> {
        self.wanted
    }

    /// The generation of [`Self::record`].
    pub fn generation(&self) -> u64 {
        self.wanted.map_or(0, |record| record.generation)
    }

    /// The host that may serve.
    pub fn server(&self) -> Option<Server> {
        self.wanted.map(|record| record.server)
    }

    /// The record is to become this one.
    pub fn want(&mut self, generation: u64, server: Server) {
        let wanted = Some(ServiceRecord::new(generation, server));
        if self.wanted == wanted {
            return;
        }
        self.wanted = wanted;
        if !self.has_disk {
            self.on_disk = wanted;
        }
        if self.write == RecordWrite::Failed {
            self.write = RecordWrite::None;
        }
    }

    /// The record to write now, once. The caller answers with [`Self::on_written`].
    pub fn next_write(&mut self) -> Option<ServiceRecord> {
        let record = self.wanted.filter(|_| self.write == RecordWrite::None && !self.is_kept())?;
        self.write = RecordWrite::Running(record);
        Some(record)
    }

    /// The write has ended. `is_done`: the record is on the disk, and stays there when the host dies.
    pub fn on_written(&mut self, is_done: bool) {
        if let RecordWrite::Running(record) = self.write {
            self.write = if is_done { RecordWrite::None } else { RecordWrite::Failed };
            if is_done {
                self.on_disk = Some(record);
            }
        }
    }

    /// The record that the other host is told. While the disk may have more than one record, it is the one
    /// by which this host could still take over. A claim to serve alone is none before the disk has it.
    pub fn standing(&self) -> Option<ServiceRecord> {
        let record = self.wanted?;
        if self.is_kept() {
            return Some(record);
        }
        let written = match self.write {
            RecordWrite::Running(record) => Some(record),
            RecordWrite::None | RecordWrite::Failed => None,
        };
        let possible = [self.on_disk, written, Some(record)].into_iter().flatten();
        let may_take_over = record.server == Server::ThisHost
            || possible.into_iter().any(|record| record.server == Server::Either);
        Some(if may_take_over {
            ServiceRecord { server: Server::Either, ..record }
        } else {
            record
        })
    }

    /// The disk has [`Self::record`], and nothing is being written.
    pub fn is_kept(&self) -> bool {
        self.write == RecordWrite::None && self.on_disk == self.wanted
    }

    /// The last write failed.
    pub fn has_failed(&self) -> bool {
        self.write == RecordWrite::Failed
    }

    /// A write that failed is tried again.
    pub fn retry(&mut self) {
        if self.has_failed() {
            self.write = RecordWrite::None;
        }
    }
}

#[cfg(test)]
mod tests;
