//! Moves the sequence numbers and timestamps of a guest by constants, in both directions, so that
//! its peers see numbers that its kernel did not choose.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;

use anyhow::{Context, Result};

use super::packet::{PacketPlaces, TCP, be32};
use super::sum;
use super::tap::VnetHdr;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const OPTION_SACK: u8 = 5;
const OPTION_TIMESTAMPS: u8 = 8;

/// The amounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    pub seq: u32,
    pub timestamp: u32,
}

impl Shift {
    /// Other numbers, for any guest.
    pub fn random() -> io::Result<Self> {
        let mut random = File::open("/dev/urandom")?;
        let mut number = || {
            let mut bytes = [0; 4];
            random.read_exact(&mut bytes).map(|()| u32::from_ne_bytes(bytes))
        };
        Ok(Self { seq: number()?, timestamp: number()? })
    }

    /// From the guest: its sequence numbers and `TSval` grow.
    pub fn from_guest(self, frame: &mut [u8], packet: &PacketPlaces, vnet: VnetHdr) -> Option<()> {
        if packet.protocol != TCP || packet.fragment {
            return None;
        }
        let flags = *frame.get(packet.l4_at + 13)?;
        let seq = be32(frame, packet.l4_at + 4)?;
        // The RST that answers a SYN to a closed port has the number 0 on purpose (RFC 9293,
        // 3.5.2).
        if seq != 0 || flags & RST == 0 {
            let seq = seq.wrapping_add(self.seq);
            sum::put(frame, packet, vnet, packet.l4_at + 4, &seq.to_be_bytes())?;
        }
        let (at, _) = packet.tcp_option(frame, OPTION_TIMESTAMPS)?;
        let value = be32(frame, at)?.wrapping_add(self.timestamp);
        sum::put(frame, packet, vnet, at, &value.to_be_bytes())
    }

    /// To the guest: all fields with the guest's numbers shrink, that is acknowledgment, SACK and
    /// `TSecr`.
    pub fn to_guest(self, frame: &mut [u8], packet: &PacketPlaces, vnet: VnetHdr) -> Option<()> {
        if packet.protocol != TCP || packet.fragment {
            return None;
        }
        let flags = *frame.get(packet.l4_at + 13)?;
        if flags & ACK == 0 {
            // Without it, only the `TSecr` of a bare RST has one of the guest's numbers.
            if flags & (RST | SYN) != RST {
                return None;
            }
            let (at, _) = packet.tcp_option(frame, OPTION_TIMESTAMPS)?;
            return lower(frame, packet, vnet, at + 4, self.timestamp);
        }
        lower(frame, packet, vnet, packet.l4_at + 8, self.seq)?;
        if let Some((at, len)) = packet.tcp_option(frame, OPTION_SACK) {
            for edge in 0..len / 4 {
                lower(frame, packet, vnet, at + edge * 4, self.seq)?;
            }
        }
        let (at, _) = packet.tcp_option(frame, OPTION_TIMESTAMPS)?;
        lower(frame, packet, vnet, at + 4, self.timestamp)
    }
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.seq, self.timestamp)
    }
}

impl FromStr for Shift {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (seq, timestamp) = text.split_once(',').context("a shift is two numbers")?;
        Ok(Self { seq: seq.parse()?, timestamp: timestamp.parse()? })
    }
}

fn lower(frame: &mut [u8], packet: &PacketPlaces, vnet: VnetHdr, at: usize, by: u32) -> Option<()> {
    let value = be32(frame, at)?.wrapping_sub(by);
    sum::put(frame, packet, vnet, at, &value.to_be_bytes())
}
