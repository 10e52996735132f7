//! Moving a TCP segment from one count of sequence numbers and timestamps to another.
//!
//! The network counts as the primary guest does, the secondary guest counts by itself, and
//! `wire = guest + offset` (modulo 2^32). What the guest says of itself is its sequence number and
//! its `TSval`; what the peer says of the guest is the acknowledgment, the SACK blocks and `TSecr`.
//! Only these are touched; the guest's words about the peer are true on both sides.

use crate::checksum;
use crate::decode::{Octets, Tcp, TcpOptions, flag};
use crate::seq::Seq;

/// Where the checksum lies in the TCP header.
const CHECKSUM_AT: u32 = 16;

/// A frame in which a number can be changed together with the checksum that covers it.
pub trait Edit: Octets {
    /// Changes the 32-bit number `old` at `at` to `new`, and the checksum at `checksum_at`
    /// accordingly; `false` where the frame could not be changed.
    ///
    /// Nothing is computed anew, and a partial checksum does not cover the number at all.
    fn replace(&mut self, at: usize, checksum_at: usize, old: u32, new: u32) -> bool;
}

/// A frame whose checksum is complete.
impl Edit for [u8] {
    #[inline]
    fn replace(&mut self, at: usize, checksum_at: usize, old: u32, new: u32) -> bool {
        let Some(field) = self.read(checksum_at) else { return false };
        if !write(self, at, &new.to_be_bytes()) {
            return false;
        }
        let odd = (at ^ checksum_at) & 1 == 1;
        let updated = checksum::update(u16::from_be_bytes(field), old, new, odd);
        write(self, checksum_at, &updated.to_be_bytes())
    }
}

/// A frame whose checksum is partial: the field holds the sum of the pseudo-header, and whoever
/// sends the frame on will complete it.
#[derive(Debug)]
pub struct Partial<'a>(pub &'a mut [u8]);

impl Octets for Partial<'_> {
    #[inline]
    fn len(&self) -> usize {
        Octets::len(&*self.0)
    }

    #[inline]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.read(at)
    }

    #[inline]
    fn read_into(
        &self,
        at: usize,
        len: usize,
        into: &mut [u8; crate::decode::OPTIONS_MAX],
    ) -> bool {
        self.0.read_into(at, len, into)
    }
}

impl Edit for Partial<'_> {
    #[inline]
    fn replace(&mut self, at: usize, _checksum_at: usize, _old: u32, new: u32) -> bool {
        write(self.0, at, &new.to_be_bytes())
    }
}

#[inline]
fn write<const N: usize>(frame: &mut [u8], at: usize, octets: &[u8; N]) -> bool {
    match frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        Some(place) => {
            *place = *octets;
            true
        }
        None => false,
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
    /// Both sides count alike.
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
/// `false` where the frame could not be changed in full; it must not be used then.
#[inline(always)]
#[must_use]
pub fn to_guest<F: Edit + ?Sized>(
    frame: &mut F,
    tcp: &Tcp,
    options: &TcpOptions,
    translation: Translation,
) -> bool {
    // RFC 9293, section 3.1, and RFC 7323, section 3.2: without ACK, the acknowledgment number and
    // TSecr mean nothing.
    if tcp.flags & flag::ACK == 0 {
        return true;
    }
    let checksum_at = (tcp.at + CHECKSUM_AT) as usize;
    let mut done = true;
    if translation.seq != 0 {
        let ack = Seq(tcp.ack).minus(translation.seq).0;
        done &= frame.replace((tcp.at + 8) as usize, checksum_at, tcp.ack, ack);
        done &= sack_to_guest(frame, checksum_at, options, translation.seq);
    }
    if translation.ts != 0
        && let Some(timestamps) = options.timestamps
    {
        let echo = timestamps.echo.wrapping_sub(translation.ts);
        done &= frame.replace((timestamps.at + 4) as usize, checksum_at, timestamps.echo, echo);
    }
    done
}

#[inline(always)]
fn sack_to_guest<F: Edit + ?Sized>(
    frame: &mut F,
    checksum_at: usize,
    options: &TcpOptions,
    seq_offset: u32,
) -> bool {
    let Some(sack) = options.sack else { return true };
    // RFC 2018, section 3: four blocks of two edges fill the options.
    for edge in 0..8u32 {
        if edge >= u32::from(sack.blocks) * 2 {
            break;
        }
        let at = (sack.at + edge * 4) as usize;
        let Some(octets) = frame.read(at) else { return false };
        let old = u32::from_be_bytes(octets);
        if !frame.replace(at, checksum_at, old, Seq(old).minus(seq_offset).0) {
            return false;
        }
    }
    true
}

/// Rewrites a segment of the guest for the network: sequence number and `TSval`.
///
/// `false` where the frame could not be changed in full; it must not be used then.
#[inline(always)]
#[must_use]
pub fn from_guest<F: Edit + ?Sized>(
    frame: &mut F,
    tcp: &Tcp,
    options: &TcpOptions,
    translation: Translation,
) -> bool {
    let checksum_at = (tcp.at + CHECKSUM_AT) as usize;
    let mut done = true;
    if translation.seq != 0 {
        let seq = Seq(tcp.seq).plus(translation.seq).0;
        done &= frame.replace((tcp.at + 4) as usize, checksum_at, tcp.seq, seq);
    }
    if translation.ts != 0
        && let Some(timestamps) = options.timestamps
    {
        let value = timestamps.value.wrapping_add(translation.ts);
        done &= frame.replace(timestamps.at as usize, checksum_at, timestamps.value, value);
    }
    done
}
