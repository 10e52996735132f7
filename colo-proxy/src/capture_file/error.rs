//! Errors of a capture file.

use std::io;

use super::link_type;

/// Why a capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("cannot read the file")]
    Read(#[source] io::Error),
    #[error("the file is empty")]
    Empty,
    #[error("the file is neither pcap nor pcapng{hint}")]
    NoCapture { hint: &'static str },
    #[error("the file ends within its header")]
    NoHeader,
    #[error(
        "packet {number} has link type {link_type} ({}), not Ethernet: capture on the guest's TAP",
        link_type::name(*link_type)
    )]
    LinkType { number: u64, link_type: u16 },
    #[error("packet {number}, at byte {at}, claims a length of {len} bytes: the file is damaged")]
    PacketLength { number: u64, at: u64, len: u32 },
    #[error("the block at byte {at} is damaged: {what}")]
    Block { at: u64, what: &'static str },
    #[error("packet {number} names interface {interface}, which the file does not describe")]
    Interface { number: u64, interface: u32 },
    #[error("packet {number} has no time (a simple packet block), so it cannot be compared")]
    NoTime { number: u64 },
    #[error("the file describes more than {max} interfaces")]
    Interfaces { max: usize },
}
