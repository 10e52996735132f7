//! The digest lane: the secondary returns, in the place of what its guest has said in a connection,
//! a digest of it. Of what is equal the primary has the octets itself.
//!
//! # How
//!
//! * The secondary ([`Digester`]) sends the headers of a TCP segment as they are, and of its payload
//!   the length and a digest ([`DigestKey`](key::DigestKey)). It keeps the segment for a while.
//! * The primary ([`Expander`]) takes the octets from its own guest's output, wherever that was cut
//!   into segments, and where they have this digest it has the secondary's frame. The engine gets
//!   that frame, and so comes to the verdict that it would have come to by any other lane.
//! * Where they have another digest, do not come any more, or are not there in time, the primary asks for
//!   the frame.
//!
//! What is short goes whole, and so do a SYN and a reset, a frame with headers of more than 200 octets or
//! with something behind its packet, and everything that is no TCP segment.
//!
//! # Why that is enough
//!
//! The digest is POLYVAL (RFC 8452, appendix A): two different payloads of n octets have the same
//! one for a share of (n / 16 + 1) / 2^128 of all keys at the most. The key is random for each
//! connection of the lane and nothing that a guest sees depends on it, so a guest cannot look for
//! two such payloads.

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

/// What the digest lane keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestLimits {
    /// FrameBytes of the guest's output: on the primary until the secondary has said the same, and a little
    /// longer, for it may repeat it; on the secondary for the primary to ask for them. Likewise octets of
    /// the secondary that wait on the primary.
    pub bytes_max: usize,
    /// Frames of the secondary that wait for the primary to say the same.
    pub frames_max: usize,
}

impl Default for DigestLimits {
    fn default() -> Self {
        Self { bytes_max: 16 << 20, frames_max: 16 * 1024 }
    }
}

/// Shorter payloads go whole: headers are most of such a frame.
pub const PAYLOAD_MIN: u32 = 256;
