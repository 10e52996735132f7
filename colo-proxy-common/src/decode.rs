//! The packet decoder: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with extension
//! headers, and the transport header.
//!
//! One decoder serves the eBPF programs (which read in place or through helpers), the engines and the
//! tests (which read slices). So all of them see the same packet. It reads through [`FrameBytes`] and
//! trusts no length in the frame: a packet ends where its IP header says, and only if the frame is
//! that long.

mod options;

pub use options::{OPTIONS_MAX, OptionWalk, Sack, TcpOptions, Timestamps, decode_tcp_options};

/// A frame that can be read at any place.
pub trait FrameBytes {
    /// The decoder goes on behind an IPv6 header that an extension header follows. A program that
    /// reads in place cannot: the kernel's verifier has to know the distances. It has another
    /// [`FrameBytes`] for these frames.
    const FOLLOWS_EXTENSIONS: bool = true;

    /// Length of the frame in bytes, from the Ethernet header on.
    fn len(&self) -> usize;

    /// `N` bytes at `at`, or `None` if the frame is shorter.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Fills the first `len` bytes of `into` from `at`; `false` if either is shorter.
    fn read_into(&self, at: usize, len: usize, into: &mut [u8; OPTIONS_MAX]) -> bool;

    /// The frame has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes `walk` to its end. Programs have another way: the kernel's verifier follows a loop of
    /// its own helper more easily than this one.
    #[inline(always)]
    fn finish(walk: &mut OptionWalk) {
        // Each turn reads at least one byte, so the bound is the length of the options.
        for _ in 0..OPTIONS_MAX {
            if !walk.step() {
                break;
            }
        }
    }
}

impl FrameBytes for [u8] {
    #[inline]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    #[inline]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..)?.first_chunk().copied()
    }

    #[inline]
    fn read_into(&self, at: usize, len: usize, into: &mut [u8; OPTIONS_MAX]) -> bool {
        let from = self.get(at..).and_then(|rest| rest.get(..len));
        match (from, into.get_mut(..len)) {
            (Some(from), Some(into)) => {
                into.copy_from_slice(from);
                true
            }
            _ => false,
        }
    }
}

/// IPv6 extension headers that are followed before the packet counts as malformed.
const EXTENSIONS_MAX: usize = 6;
const ETHERNET_LEN: usize = 14;

/// `EtherType` values that the decoder knows.
pub mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const IPV6: u16 = 0x86dd;
    pub const QINQ: u16 = 0x88a8;
}

/// IP protocol numbers that the decoder knows.
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT: u8 = 59;
    pub const DESTINATION: u8 = 60;
}

/// TCP flag bits.
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
}

/// Why a frame is not the packet that it says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Shorter than an Ethernet header with its tags.
    Ethernet,
    /// IP version, header length or total length do not fit the frame.
    Ip,
    /// An IPv6 extension header is truncated, or there are too many of them.
    Extension,
    /// The transport header is truncated, or its length is impossible.
    Transport,
}

/// The contents of a frame's Ethernet and IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHeaders {
    /// VLAN ids, outer first; 0 if there is no tag.
    pub vlan: [u16; 2],
    /// The `EtherType` behind the tags.
    pub ethertype: u16,
    /// The IP header, if there is one.
    pub ip: Option<IpHeader>,
}

/// An IPv4 or IPv6 header with everything up to the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// 4 or 6.
    pub version: u8,
    /// The transport protocol, behind all extension headers.
    pub protocol: u8,
    /// Where the IP header starts.
    pub at: u32,
    /// Where the transport header starts.
    pub payload_at: u32,
    /// One past the last byte of the packet; Ethernet padding lies beyond.
    pub end: u32,
    /// Set if this is a fragment of a longer packet.
    pub fragment: Option<IpFragment>,
    /// Source address; an IPv4 address fills the first four bytes.
    pub src: [u8; 16],
    /// Destination address, likewise.
    pub dst: [u8; 16],
}

/// Position of a fragment in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpFragment {
    /// Identification, 16 bits for IPv4 and 32 for IPv6.
    pub id: u32,
    /// Offset in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

/// A TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    /// Where the TCP header starts.
    pub at: u32,
    /// Length of the options in bytes, at `at + 20`.
    pub options_len: u8,
    /// Where the payload starts.
    pub payload_at: u32,
    /// Length of the payload in bytes; segments of a GSO frame counted together.
    pub payload_len: u32,
}

/// Reads the Ethernet and IP headers of `frame`.
///
/// `outer_tag` is the VLAN TCI, if the kernel has the outermost tag beside the frame
/// (`skb->vlan_tci`) and not in it.
#[inline(always)]
pub fn decode<F: FrameBytes + ?Sized>(
    frame: &F,
    outer_tag: Option<u16>,
) -> Result<PacketHeaders, Malformed> {
    let mut vlan = [0u16; 2];
    let mut tags = 0;
    if let Some(tci) = outer_tag {
        vlan[0] = tci & 0xfff;
        tags = 1;
    }
    let mut at = ETHERNET_LEN;
    let mut kind = u16::from_be_bytes(frame.read(at - 2).ok_or(Malformed::Ethernet)?);
    while tags < 2 && (kind == ethertype::VLAN || kind == ethertype::QINQ) {
        let [t0, t1, k0, k1] = frame.read(at).ok_or(Malformed::Ethernet)?;
        let id = u16::from_be_bytes([t0, t1]) & 0xfff;
        if tags == 0 {
            vlan[0] = id;
        } else {
            vlan[1] = id;
        }
        kind = u16::from_be_bytes([k0, k1]);
        tags += 1;
        at += 4;
    }
    let ip = match kind {
        ethertype::IPV4 => Some(decode_ipv4(frame, at)?),
        ethertype::IPV6 => Some(decode_ipv6(frame, at)?),
        _ => None,
    };
    Ok(PacketHeaders { vlan, ethertype: kind, ip })
}

/// RFC 791, section 3.1.
#[inline(always)]
fn decode_ipv4<F: FrameBytes + ?Sized>(frame: &F, at: usize) -> Result<IpHeader, Malformed> {
    let h: [u8; 20] = frame.read(at).ok_or(Malformed::Ip)?;
    let header_len = usize::from(h[0] & 0xf) * 4;
    let total_len = usize::from(u16::from_be_bytes([h[2], h[3]]));
    if h[0] >> 4 != 4 || header_len < 20 || total_len < header_len || at + total_len > frame.len() {
        return Err(Malformed::Ip);
    }
    let word = u16::from_be_bytes([h[6], h[7]]);
    let (offset, more) = ((word & 0x1fff) << 3, word & 0x2000 != 0);
    let id = u32::from(u16::from_be_bytes([h[4], h[5]]));
    let mut src = [0; 16];
    let mut dst = [0; 16];
    src[..4].copy_from_slice(&[h[12], h[13], h[14], h[15]]);
    dst[..4].copy_from_slice(&[h[16], h[17], h[18], h[19]]);
    Ok(IpHeader {
        version: 4,
        protocol: h[9],
        at: at as u32,
        payload_at: (at + header_len) as u32,
        end: (at + total_len) as u32,
        fragment: (offset != 0 || more).then_some(IpFragment { id, offset, more }),
        src,
        dst,
    })
}

/// The decoder knows this header as one that may lie between IPv6's and the transport's.
#[inline(always)]
const fn is_extension(kind: u8) -> bool {
    use protocol::{AH, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};

    matches!(kind, HOP_BY_HOP | ROUTING | DESTINATION | AH | FRAGMENT)
}

/// RFC 8200, sections 3 and 4.
#[inline(always)]
fn decode_ipv6<F: FrameBytes + ?Sized>(frame: &F, at: usize) -> Result<IpHeader, Malformed> {
    let h: [u8; 8] = frame.read(at).ok_or(Malformed::Ip)?;
    let src = frame.read(at + 8).ok_or(Malformed::Ip)?;
    let dst = frame.read(at + 24).ok_or(Malformed::Ip)?;
    let end = at + 40 + usize::from(u16::from_be_bytes([h[4], h[5]]));
    if h[0] >> 4 != 6 || end > frame.len() {
        return Err(Malformed::Ip);
    }
    let mut next = h[6];
    let mut payload_at = at + 40;
    let mut fragment = None;
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(next) {
            break;
        }
        if !F::FOLLOWS_EXTENSIONS {
            return Err(Malformed::Extension);
        }
        let ext_len = match next {
            // RFC 4302, section 2.2: counted in 4-byte words, minus 2.
            protocol::AH => {
                let [_, len]: [u8; 2] = frame.read(payload_at).ok_or(Malformed::Extension)?;
                (usize::from(len) + 2) * 4
            }
            protocol::FRAGMENT => {
                let f: [u8; 8] = frame.read(payload_at).ok_or(Malformed::Extension)?;
                let word = u16::from_be_bytes([f[2], f[3]]);
                let id = u32::from_be_bytes([f[4], f[5], f[6], f[7]]);
                let (offset, more) = (word & 0xfff8, word & 1 != 0);
                // One that is all of its packet is a whole one (RFC 6946).
                if offset != 0 || more {
                    fragment = Some(IpFragment { id, offset, more });
                }
                8
            }
            // RFC 6564: the others alike.
            _ => {
                let [_, len]: [u8; 2] = frame.read(payload_at).ok_or(Malformed::Extension)?;
                (usize::from(len) + 1) * 8
            }
        };
        let [following]: [u8; 1] = frame.read(payload_at).ok_or(Malformed::Extension)?;
        payload_at += ext_len;
        if payload_at > end {
            return Err(Malformed::Extension);
        }
        next = following;
        // Behind a fragment header that is not the first lies payload, not a header.
        if matches!(fragment, Some(IpFragment { offset: 1.., .. })) {
            break;
        }
    }
    Ok(IpHeader {
        version: 6,
        protocol: next,
        at: at as u32,
        payload_at: payload_at as u32,
        end: end as u32,
        fragment,
        src,
        dst,
    })
}

/// Reads the TCP header of `ip`, which must not be a fragment (RFC 9293, section 3.1).
#[inline(always)]
pub fn decode_tcp<F: FrameBytes + ?Sized>(frame: &F, ip: &IpHeader) -> Result<Tcp, Malformed> {
    let at = ip.payload_at as usize;
    let end = ip.end as usize;
    if at + 20 > end {
        return Err(Malformed::Transport);
    }
    let h: [u8; 20] = frame.read(at).ok_or(Malformed::Transport)?;
    let header_len = usize::from(h[12] >> 4) * 4;
    if header_len < 20 || at + header_len > end {
        return Err(Malformed::Transport);
    }
    Ok(Tcp {
        src_port: u16::from_be_bytes([h[0], h[1]]),
        dst_port: u16::from_be_bytes([h[2], h[3]]),
        seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
        ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
        flags: h[13],
        window: u16::from_be_bytes([h[14], h[15]]),
        urgent: u16::from_be_bytes([h[18], h[19]]),
        at: at as u32,
        options_len: (header_len - 20) as u8,
        payload_at: (at + header_len) as u32,
        payload_len: (end - at - header_len) as u32,
    })
}

/// The source and destination port that UDP, UDP-Lite, SCTP and DCCP put first.
#[inline(always)]
pub fn decode_ports<F: FrameBytes + ?Sized>(
    frame: &F,
    ip: &IpHeader,
) -> Result<(u16, u16), Malformed> {
    if ip.payload_at + 4 > ip.end {
        return Err(Malformed::Transport);
    }
    let [s0, s1, d0, d1] = frame.read(ip.payload_at as usize).ok_or(Malformed::Transport)?;
    Ok((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}
