//! Brings the translated connections from one pair to the next.

use super::{Datapath, DatapathError};
use crate::offsets::Offset;

/// The changes that an import has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportedOffsets {
    /// Connections that were not known here.
    pub added: usize,
    /// Connections that were known, with the same offsets or with none.
    pub updated: usize,
}

impl Datapath {
    /// Every translated connection, with its offsets now.
    pub fn export_offsets(&self) -> Result<Vec<Offset>, DatapathError> {
        let epoch = self.settings.epoch;
        let flows = self.maps.flows()?;
        Ok(flows.iter().filter_map(|(key, flow)| Offset::of(key, flow, epoch)).collect())
    }

    /// Adds connections that an earlier pair has translated. From now on they are translated here too,
    /// also after checkpoints. Adds all of them, or none and returns the reason. `now_ns` is
    /// `CLOCK_MONOTONIC`.
    pub fn import_offsets(
        &mut self,
        offsets: &[Offset],
        now_ns: u64,
    ) -> Result<ImportedOffsets, DatapathError> {
        let mut done = ImportedOffsets::default();
        let mut conflicts = Vec::new();
        for offset in offsets {
            match self.known_otherwise(offset) {
                None => done.added += 1,
                Some(false) => done.updated += 1,
                Some(true) => conflicts.push(offset),
            }
        }
        if let Some(first) = conflicts.first() {
            return Err(DatapathError::OtherOffset {
                count: conflicts.len(),
                first: first.to_string(),
            });
        }
        let wanted = offsets.iter().filter(|offset| !self.maps.has_flow(&offset.key)).count();
        let room = (self.maps.flows_max() as usize).saturating_sub(self.maps.flows_len()?);
        if wanted > room {
            return Err(DatapathError::NoRoom { wanted, room });
        }
        self.put(offsets, now_ns)?;
        if self.part.is_primary() && !offsets.is_empty() {
            let settings = super::Settings { translates: 1, ..self.settings };
            self.maps.set_settings(&settings)?;
            self.settings = settings;
        }
        Ok(done)
    }

    /// `None` if the connection is not known, else whether it has another offset here. An offset of 0
    /// is no conflict: it may come from the time between a checkpoint and the import.
    fn known_otherwise(&self, offset: &Offset) -> Option<bool> {
        let flow = self.maps.get(&offset.key)?;
        let now = flow.translation(self.settings.epoch);
        Some(!now.is_identity() && (now.seq, now.ts) != (offset.seq, offset.ts))
    }

    /// Writes the entries. A program may have taken the room meanwhile; then all entries written here are
    /// as they were before.
    fn put(&mut self, offsets: &[Offset], now_ns: u64) -> Result<(), DatapathError> {
        let epoch = self.settings.epoch;
        let mut before = Vec::with_capacity(offsets.len());
        for offset in offsets {
            before.push((offset.key, self.maps.get(&offset.key)));
            if let Err(error) = self.maps.insert_flow(&offset.key, &offset.flow(epoch, now_ns)) {
                for (key, flow) in before {
                    match flow {
                        Some(flow) => self.maps.insert_flow(&key, &flow)?,
                        None => self.maps.remove_flow(&key)?,
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }
}
