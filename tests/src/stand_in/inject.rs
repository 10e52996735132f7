//! A divergence on request: it changes one byte of the guest's output.

use super::command::Flipped;
use super::packet::{PacketPlaces, TCP, be16, be32};
use super::sum;
use super::tap::VnetHdr;

/// The place of the byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    pub protocol: u8,
    pub guest_port: u16,
    pub at: u32,
    pub keep_sum: bool,
}

impl Flip {
    /// Changes the frame if it has that byte.
    pub fn apply(self, frame: &mut [u8], packet: &PacketPlaces, vnet: VnetHdr) -> Option<Flipped> {
        if packet.protocol != self.protocol || be16(frame, packet.l4_at)? != self.guest_port {
            return None;
        }
        let payload_at = packet.payload_at(frame)?;
        let at = payload_at + self.at as usize;
        if at >= packet.end {
            return None;
        }
        let was = *frame.get(at)?;
        let is = was ^ 0x20;
        if self.keep_sum {
            sum::put(frame, packet, vnet, at, &[is])?;
        } else {
            *frame.get_mut(at)? = is;
        }
        let seq = if self.protocol == TCP { be32(frame, packet.l4_at + 4)? } else { 0 };
        Some(Flipped {
            guest_port: self.guest_port,
            peer_port: be16(frame, packet.l4_at + 2)?,
            seq: seq.wrapping_add(self.at),
            at: self.at,
            was,
            is,
        })
    }
}
