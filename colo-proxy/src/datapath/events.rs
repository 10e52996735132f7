//! Events of the kernel programs for the daemon.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{MapData, RingBuf};
use colo_proxy_common::record::{EventRecord, event};
use colo_proxy_common::record::{FlowKey, FlowRecord};

/// The ring buffer of one instance. Its file descriptor is readable when there is an event.
#[derive(Debug)]
pub struct DatapathEvents {
    ring: Ring,
}

/// aya's ring has no `Debug`.
struct Ring(RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RingBuf").field(&self.0.as_raw_fd()).finish()
    }
}

/// An event of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatapathEvent {
    /// Parked input of this connection may go to the guest now.
    OffsetKnown(FlowKey, FlowRecord),
}

impl DatapathEvents {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring: Ring(ring) }
    }

    /// The next event; `None` if there is none yet. Unknown events are skipped.
    pub fn next_event(&mut self) -> Option<DatapathEvent> {
        while let Some(item) = self.ring.0.next() {
            if let Some(told) = read(&item) {
                return Some(told);
            }
        }
        None
    }
}

fn read(item: &[u8]) -> Option<DatapathEvent> {
    if item.len() < size_of::<EventRecord>() {
        return None;
    }
    // SAFETY: there are enough bytes, an `EventRecord` has only integers, and the read does not rely
    // on alignment.
    let record = unsafe { item.as_ptr().cast::<EventRecord>().read_unaligned() };
    (record.kind == event::OFFSET_KNOWN)
        .then_some(DatapathEvent::OffsetKnown(record.key, record.flow))
}

impl AsFd for DatapathEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.0.as_fd()
    }
}

impl AsRawFd for DatapathEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.0.as_raw_fd()
    }
}
