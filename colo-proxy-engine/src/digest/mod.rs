//! Digests on the secondary lane: the secondary sends a digest in the place of a payload. If the guests
//! are equal, the primary has the payload's bytes itself.
//!
//! # How
//!
//! * The secondary ([`Digester`]) sends the headers of a TCP segment, the length of its payload and a
//!   digest (`DigestKey`). It keeps the segment for a while.
//! * The primary ([`Expander`]) takes the bytes from its own guest's output, wherever that was split
//!   into segments. If they have this digest, they and the headers are the secondary's frame. The engine
//!   gets that frame, so its verdict is the same as on any other lane.
//! * If they have another digest, cannot come any more, or do not come in time, the primary asks for the
//!   frame.
//!
//! Some frames go whole: short ones, SYNs and resets, frames with headers of more than 200 bytes, frames
//! with bytes behind the packet, and everything that is no TCP segment.
//!
//! # Why that is enough
//!
//! The digest is POLYVAL (RFC 8452, appendix A). Two different payloads of n bytes have the same digest
//! for at most (n / 16 + 1) / 2^128 of all keys. The key is random for each connection of the lane. A
//! guest sees nothing that depends on it, so it cannot search for two payloads of this kind.

mod expander;
mod heads;
mod key;
mod produced;
mod report;
mod sender;
mod wire;

pub use self::expander::Expander;
pub use self::report::{DigesterReport, ExpanderReport};
pub use self::sender::{Digester, DigesterStats};
pub use self::wire::{ReturnedRecord, ReturnedRecords};

#[cfg(test)]
mod tests;

/// Limits on the frames that are kept for digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestLimits {
    /// Bytes of the guest's output. The primary keeps them until the secondary has said the same, and a
    /// little longer because it may repeat itself. The secondary keeps them because the primary may ask
    /// for them. The same limit holds for the secondary's records that the primary cannot use yet.
    pub bytes_max: usize,
    /// Frames of the secondary of which the primary has not said the same yet.
    pub frames_max: usize,
}

impl Default for DigestLimits {
    fn default() -> Self {
        Self { bytes_max: 16 << 20, frames_max: 16 * 1024 }
    }
}

/// Shorter payloads go whole: headers are most of such a frame.
pub const PAYLOAD_MIN: u32 = 256;
