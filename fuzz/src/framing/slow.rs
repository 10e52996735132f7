//! The framing, read byte by byte, with everything in one list.

use colo_proxy_engine::record::BadRecords;

/// QEMU's `NET_BUFSIZE`, written a second time.
const RECORD_MAX: u32 = 69632;

/// The parts of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamPart {
    /// A virtio-net header and an Ethernet frame.
    Frame(Vec<u8>, Vec<u8>),
    /// A length that ends the connection.
    Oversized(u32),
}

/// Reads one byte after another.
#[derive(Debug)]
pub(super) struct SlowReader {
    vnet_hdr: bool,
    /// The incomplete record.
    record: Vec<u8>,
    is_closed: bool,
    pub(super) bad: BadRecords,
}

impl SlowReader {
    pub(super) fn new(vnet_hdr: bool) -> Self {
        Self { vnet_hdr, record: Vec::new(), is_closed: false, bad: BadRecords::default() }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The bytes of an incomplete record.
    pub(super) fn pending(&self) -> usize {
        self.record.len()
    }

    pub(super) fn take(&mut self, octets: &[u8]) -> Vec<StreamPart> {
        let found = octets.iter().filter_map(|octet| self.octet(*octet));
        found.collect()
    }

    /// The stream ends here.
    pub(super) fn end(&mut self) {
        self.bad.truncated += u64::from(!self.record.is_empty());
    }

    fn octet(&mut self, octet: u8) -> Option<StreamPart> {
        if self.is_closed {
            return None;
        }
        self.record.push(octet);
        let number = |at: usize| {
            let octets = self.record.get(at..at + 4)?;
            Some(octets.iter().fold(0u32, |number, octet| number << 8 | u32::from(*octet)))
        };
        let length = number(0)?;
        if length > RECORD_MAX {
            self.is_closed = true;
            self.bad.oversized += 1;
            return Some(StreamPart::Oversized(length));
        }
        let head = if self.vnet_hdr { 8 } else { 4 };
        let vnet_len = if self.vnet_hdr { number(4)? } else { 0 };
        if self.record.len() < head + length as usize {
            return None;
        }
        let body = self.record.split_off(head);
        self.record.clear();
        self.sort(body, vnet_len)
    }

    /// The meaning of a complete record.
    fn sort(&mut self, mut body: Vec<u8>, vnet_len: u32) -> Option<StreamPart> {
        if body.is_empty() {
            self.bad.empty += 1;
        } else if ![0, 10, 12, 20].contains(&vnet_len) {
            self.bad.vnet_hdr_len += 1;
        } else if body.len() < vnet_len as usize + 14 {
            self.bad.runt += 1;
        } else {
            let ethernet = body.split_off(vnet_len as usize);
            return Some(StreamPart::Frame(body, ethernet));
        }
        None
    }
}
