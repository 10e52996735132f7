//! The way of the secondary's output if digests go in the place of frames.

use super::plan::{DaemonWire, ReturnForm, RunSabotage, Site};
use super::world::{PairWorld, WireCargo};
use crate::digest::{Digester, ReturnedRecord, ReturnedRecords};
use crate::frame::Frame;
use crate::record::LaneRecord;

/// Bytes of frames that the secondary keeps. So few that now and then one is gone when it is wanted.
const KEPT_BYTES: usize = 40_000;

/// Both ends of the lane.
#[derive(Debug)]
pub(super) struct DigestWire {
    sender: Digester,
    receiver: ReturnedRecords,
}

impl Default for DigestWire {
    fn default() -> Self {
        let sender = Digester::new(true, KEPT_BYTES, std::sync::Arc::default());
        Self { sender, receiver: ReturnedRecords::default() }
    }
}

impl PairWorld {
    /// The lane is connected.
    pub(super) fn begin_digests(&mut self) {
        if self.plan.return_form == ReturnForm::Frames {
            return;
        }
        self.digests.receiver = ReturnedRecords::default();
        let mut key = [0; 16];
        // By the key of zeros all payloads of a length have the same digest.
        if self.plan.sabotage != RunSabotage::Digests {
            key[..8].copy_from_slice(&self.random.next().to_be_bytes());
        }
        let record = self.digests.sender.begin(key);
        self.return_record(record);
    }

    /// Sends a frame of the secondary, or its digest.
    pub(super) fn send_back(&mut self, frame: Frame) {
        if !self.plan.has_control() {
            return self.send_into_socket(frame);
        }
        let sent = self.output.sent;
        let is_up = self.output.is_up && self.plan.return_form == ReturnForm::Digests;
        let record = is_up.then(|| self.digests.sender.digest(sent, &frame)).flatten();
        match record {
            Some(record) => self.return_record(record),
            None => self.return_cargo(frame.into()),
        }
    }

    pub(super) fn on_frames_wanted(&mut self, wanted: &[u32]) {
        assert!(self.digests.sender.want(wanted), "more than were sent");
        while let Some(record) = self.digests.sender.next_answer() {
            self.return_record(record);
        }
    }

    /// Reads the records in the order in which they were sent.
    fn return_record(&mut self, (kind, octets): (crate::record::RecordKind, bytes::Bytes)) {
        let returned = self.digests.receiver.read(kind, octets).expect("it was just written");
        self.return_cargo(returned);
    }

    fn return_cargo(&mut self, returned: ReturnedRecord) {
        let is_frame = returned.is_frame();
        self.send_by(DaemonWire::Output, Site::Primary, WireCargo::Returned(returned));
        if self.output.is_up && !is_frame {
            self.output.sent -= 1;
        }
    }
}
