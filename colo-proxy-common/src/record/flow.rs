//! The records of connections: the entries of the maps `flows`, `unconfirmed` and `half_open`.

use crate::rewrite::Translation;

/// A TCP connection from the guest's point of view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// IPv4 addresses fill the first four bytes.
    pub guest_addr: [u8; 16],
    pub peer_addr: [u8; 16],
    pub guest_port: u16,
    pub peer_port: u16,
    /// VLAN ids, outer first; 0 is no tag.
    pub vlan: [u16; 2],
    /// 4 or 6.
    pub ip_version: u8,
    /// IP protocol number.
    pub protocol: u8,
    pub reserved: [u8; 2],
}

/// A connection: an entry of the `flows`, `unconfirmed` and `half_open` maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowRecord {
    /// `settings.epoch` when the offsets were learnt.
    pub epoch: u32,
    /// One of [`state`].
    pub state: u32,
    /// Bits of [`known`]. The number has 64 bits because two processors may add bits at once, and
    /// every BPF instruction set has that operation on 64 bits.
    pub known: u64,
    /// The initial sequence number that this guest chose.
    pub guest_isn: u32,
    /// The initial sequence number that the network knows. The primary guest chose it.
    pub wire_isn: u32,
    /// The last `TSval` of this guest's SYN or SYN/ACK.
    pub guest_ts: u32,
    /// The `TSecr` that the network answered: the primary guest's value.
    pub wire_ts: u32,
    /// `wire = guest + offset`, modulo 2^32, for sequence numbers.
    pub seq_offset: u32,
    /// The same for timestamps.
    pub ts_offset: u32,
    /// The `seq_offset` after a checkpoint. It is 0, because both guests then count alike. For a
    /// connection that an earlier pair translated it is the offset in that pair, because both guests
    /// are then copies of the guest that survived.
    pub base_seq_offset: u32,
    /// The same for timestamps.
    pub base_ts_offset: u32,
    /// The initial sequence number that the peer chose.
    pub peer_isn: u32,
    /// Bytes of data in the peer's SYN (TCP Fast Open).
    pub peer_early: u32,
    /// `CLOCK_MONOTONIC` of the last frame.
    pub last_seen_ns: u64,
    /// Frames translated towards the guest.
    pub to_guest_frames: u64,
    /// Frames translated from the guest.
    pub from_guest_frames: u64,
}

impl FlowRecord {
    /// The translation of its frames in `epoch`; none if no offset is known.
    pub fn translation(&self, epoch: u32) -> Translation {
        if self.known & known::OFFSET == 0 {
            Translation::default()
        } else if self.epoch == epoch {
            Translation { seq: self.seq_offset, ts: self.ts_offset }
        } else {
            Translation { seq: self.base_seq_offset, ts: self.base_ts_offset }
        }
    }
}

/// Where a connection is in its life: [`FlowRecord::state`].
pub mod state {
    /// The peer has sent a SYN.
    pub const OPENING_PASSIVE: u32 = 1;
    /// The guest has sent a SYN, or the peer has answered one.
    pub const OPENING_ACTIVE: u32 = 2;
    /// The offset is known, or known to be 0.
    pub const ESTABLISHED: u32 = 3;
    /// The guest has sent a FIN.
    pub const FIN_GUEST: u32 = 4;
    /// The peer has sent a FIN.
    pub const FIN_PEER: u32 = 5;
    /// Both have, or the guest has sent a RST. Retransmissions are still translated.
    pub const CLOSED: u32 = 6;
    /// The peer has sent a RST, which may be forged: the guest's next segment revives the entry.
    /// With [`super::known::PEER`] a SYN has followed, and the segments behind that SYN are parked
    /// until the guest answers.
    pub const RESET: u32 = 7;
    /// The peer wants to use the tuple of a closed connection again. The guest has not answered yet.
    pub const REOPENING: u32 = 8;
}

/// The facts that are known about a connection: [`FlowRecord::known`].
pub mod known {
    /// `guest_isn`.
    pub const GUEST: u64 = 1;
    /// `wire_isn`.
    pub const WIRE: u64 = 2;
    /// `guest_ts`.
    pub const GUEST_TS: u64 = 4;
    /// `wire_ts`.
    pub const WIRE_TS: u64 = 8;
    /// `seq_offset` and `ts_offset`.
    pub const OFFSET: u64 = 16;
    /// Both guests count alike: the connection is older than the last checkpoint, or older than
    /// protection.
    pub const IDENTITY: u64 = 32;
    /// `peer_isn` and `peer_early`.
    pub const PEER: u64 = 64;
    /// A segment that does not follow the peer's SYN was parked.
    pub const PARKED: u64 = 128;
    /// The guest has sent more than a SYN or SYN/ACK: the connection is real.
    pub const CONFIRMED: u64 = 256;
}

const _: () = assert!(size_of::<FlowKey>() == 44);
const _: () = assert!(size_of::<FlowRecord>() == 80);

#[cfg(feature = "user")]
mod pod {
    use super::{FlowKey, FlowRecord};

    // SAFETY: repr(C), made of integers only, and without implicit padding (the sizes above are the
    // sums of the fields), so any bytes are a value and every value is its bytes.
    unsafe impl aya::Pod for FlowKey {}
    // SAFETY: see above.
    unsafe impl aya::Pod for FlowRecord {}
}
