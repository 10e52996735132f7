//! Translates the sequence numbers and timestamps of a TCP segment.
//!
//! The network uses the primary guest's numbers, the secondary guest has its own, and
//! `wire = guest + offset` (modulo 2^32). A segment of the guest has the guest's sequence number and
//! `TSval`. A segment of the peer refers to them in its acknowledgment, its SACK blocks and its
//! `TSecr`. Only these change. The peer's own numbers are the same for both guests.

use crate::checksum::ChecksumDifference;
use crate::decode::{FrameBytes, OPTIONS_MAX, Sack, Tcp, TcpOptions, flag};
use crate::seq::Seq;

/// Where the checksum lies in the TCP header.
const CHECKSUM_AT: u32 = 16;

/// A frame that can be changed, together with the checksum that covers it.
pub trait Edit: FrameBytes {
    /// Overwrites the bytes at `at`, and leaves the checksum as it is; `false` if the frame could not
    /// be changed.
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool;

    /// Updates the checksum at `at` by the difference of all writes; `false` if the frame could not be
    /// changed.
    ///
    /// This does not compute the checksum anew. A partial checksum does not cover the numbers, and
    /// stays as it is.
    fn adjust(&mut self, at: usize, difference: ChecksumDifference) -> bool;
}

/// A frame whose checksum is complete.
impl Edit for [u8] {
    #[inline]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        match self.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            Some(place) => {
                *place = bytes;
                true
            }
            None => false,
        }
    }

    #[inline]
    fn adjust(&mut self, at: usize, difference: ChecksumDifference) -> bool {
        let Some(field) = self.read(at) else { return false };
        self.write(at, difference.apply(u16::from_be_bytes(field)).to_be_bytes())
    }
}

/// A frame whose checksum is partial: the field has the sum of the pseudo-header. The device that
/// sends the frame completes it.
#[derive(Debug)]
pub struct PartialChecksum<'a>(pub &'a mut [u8]);

impl FrameBytes for PartialChecksum<'_> {
    #[inline]
    fn len(&self) -> usize {
        FrameBytes::len(&*self.0)
    }

    #[inline]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.read(at)
    }

    #[inline]
    fn read_into(&self, at: usize, len: usize, into: &mut [u8; OPTIONS_MAX]) -> bool {
        self.0.read_into(at, len, into)
    }
}

impl Edit for PartialChecksum<'_> {
    #[inline]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        self.0.write(at, bytes)
    }

    #[inline]
    fn adjust(&mut self, _at: usize, _difference: ChecksumDifference) -> bool {
        true
    }
}

/// How the numbers on the wire differ from the guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Translation {
    /// `wire = guest + seq` for sequence numbers.
    pub seq: u32,
    /// `wire = guest + ts` for timestamps.
    pub ts: u32,
}

impl Translation {
    /// Guest and network have the same numbers.
    #[inline]
    #[must_use]
    pub const fn is_identity(self) -> bool {
        self.seq == 0 && self.ts == 0
    }

    /// The way back.
    #[inline]
    #[must_use]
    pub const fn inverse(self) -> Self {
        Self { seq: self.seq.wrapping_neg(), ts: self.ts.wrapping_neg() }
    }
}

/// Rewrites a segment of the peer for the guest: acknowledgment, SACK blocks and `TSecr`.
///
/// `false` if a part of the frame could not be changed. The frame must not be used then.
#[inline(always)]
#[must_use]
pub fn to_guest<F: Edit + ?Sized>(
    frame: &mut F,
    tcp: &Tcp,
    options: &TcpOptions,
    translation: Translation,
) -> bool {
    // RFC 9293, section 3.1, and RFC 7323, section 3.2: without ACK, acknowledgment number and TSecr
    // have no meaning.
    if tcp.flags & flag::ACK == 0 {
        return true;
    }
    let mut changes = Changes::new(frame, tcp);
    let mut done = true;
    if translation.seq != 0 {
        let ack = Seq(tcp.ack).minus(translation.seq).0;
        done &= changes.replace(tcp.at + 8, tcp.ack, ack);
        if let Some(sack) = options.sack {
            done &= sack_to_guest(&mut changes, sack, translation.seq);
        }
    }
    if translation.ts != 0
        && let Some(timestamps) = options.timestamps
    {
        let echo = timestamps.echo.wrapping_sub(translation.ts);
        done &= changes.replace(timestamps.at + 4, timestamps.echo, echo);
    }
    done && changes.finish()
}

/// RFC 2018, section 3: four blocks of two edges fill the options.
#[inline(always)]
fn sack_to_guest<F: Edit + ?Sized>(
    changes: &mut Changes<'_, F>,
    sack: Sack,
    seq_offset: u32,
) -> bool {
    let shift = |edge| Seq(edge).minus(seq_offset).0;
    match sack.blocks {
        1 => changes.replace_all::<8>(sack.at, shift),
        2 => changes.replace_all::<16>(sack.at, shift),
        3 => changes.replace_all::<24>(sack.at, shift),
        4 => changes.replace_all::<32>(sack.at, shift),
        _ => true,
    }
}

/// Rewrites a segment of the guest for the network: sequence number and `TSval`.
///
/// `false` if a part of the frame could not be changed. The frame must not be used then.
#[inline(always)]
#[must_use]
pub fn from_guest<F: Edit + ?Sized>(
    frame: &mut F,
    tcp: &Tcp,
    options: &TcpOptions,
    translation: Translation,
) -> bool {
    let mut changes = Changes::new(frame, tcp);
    let mut done = true;
    if translation.seq != 0 {
        let seq = Seq(tcp.seq).plus(translation.seq).0;
        done &= changes.replace(tcp.at + 4, tcp.seq, seq);
    }
    if translation.ts != 0
        && let Some(timestamps) = options.timestamps
    {
        let value = timestamps.value.wrapping_add(translation.ts);
        done &= changes.replace(timestamps.at, timestamps.value, value);
    }
    done && changes.finish()
}

/// The changes to the numbers of one segment. The checksum changes once, at the end.
struct Changes<'a, F: ?Sized> {
    frame: &'a mut F,
    checksum_at: u32,
    difference: ChecksumDifference,
}

impl<'a, F: Edit + ?Sized> Changes<'a, F> {
    #[inline(always)]
    fn new(frame: &'a mut F, tcp: &Tcp) -> Self {
        let checksum_at = tcp.at + CHECKSUM_AT;
        Self { frame, checksum_at, difference: ChecksumDifference::default() }
    }

    /// The number lies at an odd distance from the checksum: options may put it anywhere.
    #[inline(always)]
    fn is_odd(&self, at: u32) -> bool {
        (at ^ self.checksum_at) & 1 == 1
    }

    /// The number `old` at `at` becomes `new`.
    #[inline(always)]
    fn replace(&mut self, at: u32, old: u32, new: u32) -> bool {
        self.difference.note(old, new, self.is_odd(at));
        self.frame.write(at as usize, new.to_be_bytes())
    }

    /// Each number in the `N` bytes at `at` goes through `by`.
    #[inline(always)]
    fn replace_all<const N: usize>(&mut self, at: u32, by: impl Fn(u32) -> u32) -> bool {
        let odd = self.is_odd(at);
        let Some(mut bytes) = self.frame.read::<N>(at as usize) else { return false };
        for number in bytes.as_chunks_mut().0 {
            let old = u32::from_be_bytes(*number);
            let new = by(old);
            self.difference.note(old, new, odd);
            *number = new.to_be_bytes();
        }
        self.frame.write(at as usize, bytes)
    }

    #[inline(always)]
    fn finish(self) -> bool {
        let Self { frame, checksum_at, difference } = self;
        difference.is_none() || frame.adjust(checksum_at as usize, difference)
    }
}
