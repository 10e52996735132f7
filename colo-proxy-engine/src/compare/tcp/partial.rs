//! Acknowledging to the peer what both guests have received, when the primary has received more.
//!
//! The secondary can miss a segment that the primary got: a queue was full, or its window smaller.
//! The primary then acknowledges all of it at once, and that frame is held. The peer receives
//! nothing, and repeats its oldest unacknowledged segment, which both guests have. It would do so for
//! ever, because no frame says that another segment is missing. So the engine sends the peer the
//! secondary's acknowledgment, which is true of both guests, in a frame that carries nothing else.

use bytes::Bytes;
use colo_proxy_common::checksum;
use colo_proxy_common::decode::{FrameBytes, IpHeader, decode_tcp_options, flag};
use colo_proxy_common::segment::TcpSegment;
use colo_proxy_common::seq::Seq;

use crate::frame::Frame;

/// A no-operation option (RFC 9293, section 3.2).
const NOP: u8 = 1;

/// A bare acknowledgment of `ack` with `window`, made from `held`, which acknowledges more. It has the
/// headers and options of `held`. It lacks the data and the selective acknowledgments, which are true
/// of the primary alone. `None` where `held` is no whole TCP segment.
pub(super) fn acknowledgment(held: &Frame, ack: Seq, window: u16) -> Option<Frame> {
    bare_acknowledgment(held, held.ethernet(), ack, window)
}

/// Likewise where `held` may be the headers alone of the frame that `octets` describes.
pub(crate) fn bare_acknowledgment(
    held: &Frame,
    octets: &(impl FrameBytes + ?Sized),
    ack: Seq,
    window: u16,
) -> Option<Frame> {
    let TcpSegment { ip, tcp, .. } = TcpSegment::find(octets)?;
    let vnet_len = held.vnet().len();
    let mut copy = Vec::with_capacity(vnet_len + tcp.payload_at as usize);
    // A header of zeros: nothing to segment, and the checksums are complete.
    copy.resize(vnet_len, 0);
    copy.extend_from_slice(held.ethernet().get(..tcp.payload_at as usize)?);
    let frame = copy.get_mut(vnet_len..)?;
    let at = tcp.at as usize;
    put(frame, at + 8, &ack.0.to_be_bytes())?;
    put(frame, at + 13, &[flag::ACK])?;
    put(frame, at + 14, &window.to_be_bytes())?;
    put(frame, at + 18, &[0, 0])?;
    if let Some(sack) = decode_tcp_options(octets, &tcp).sack {
        let end = sack.at as usize + usize::from(sack.blocks) * 8;
        frame.get_mut(sack.at as usize - 2..end)?.fill(NOP);
    }
    close(frame, &ip, at)?;
    Frame::new(Bytes::from(copy), vnet_len)
}

/// Lengths and checksums of a packet that now ends with its TCP header.
fn close(frame: &mut [u8], ip: &IpHeader, tcp_at: usize) -> Option<()> {
    let at = ip.at as usize;
    let (src, dst) = if ip.version == 4 {
        put(frame, at + 2, &((frame.len() - at) as u16).to_be_bytes())?;
        put(frame, at + 10, &[0, 0])?;
        let sum = checksum::finish(checksum::sum(frame.get(at..ip.payload_at as usize)?, 0));
        put(frame, at + 10, &sum.to_be_bytes())?;
        (ip.src.get(..4)?, ip.dst.get(..4)?)
    } else {
        put(frame, at + 4, &((frame.len() - at - 40) as u16).to_be_bytes())?;
        (&ip.src[..], &ip.dst[..])
    };
    let segment_len = (frame.len() - tcp_at) as u32;
    put(frame, tcp_at + 16, &[0, 0])?;
    let pseudo = checksum::pseudo_header([src, dst], ip.protocol, segment_len);
    let sum = checksum::finish(checksum::sum(frame.get(tcp_at..)?, pseudo));
    put(frame, tcp_at + 16, &sum.to_be_bytes())
}

fn put(frame: &mut [u8], at: usize, octets: &[u8]) -> Option<()> {
    frame.get_mut(at..at + octets.len())?.copy_from_slice(octets);
    Some(())
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    fn held(v6: bool, payload: &[u8]) -> Frame {
        let options = [1, 1, 5, 10, 0, 0, 9, 0, 0, 0, 9, 9];
        let base = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut octets = vec![7; 12];
        let tcp = if v6 {
            base.ipv6([1; 16], [2; 16], 64).tcp(80, 5000, 1000, 60000)
        } else {
            base.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(80, 5000, 1000, 60000)
        };
        let tcp = tcp.ack(5000).psh().fin().urg(3).options_raw(&options).expect("they fit");
        tcp.write(&mut octets, payload).expect("a Vec takes everything");
        Frame::new(octets.into(), 12).expect("the header is there")
    }

    #[test]
    fn it_acknowledges_less_carries_nothing_and_its_checksums_are_right() {
        for (v6, payload) in [(false, &b"data"[..]), (true, b"data"), (false, b""), (true, b"odd")]
        {
            let frame = acknowledgment(&held(v6, payload), Seq(3000), 777).expect("a segment");
            assert_eq!(frame.vnet(), [0; 12]);
            let packet = SlicedPacket::from_ethernet(frame.ethernet()).expect("it parses");
            let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
            assert_eq!((tcp.acknowledgment_number(), tcp.sequence_number()), (3000, 1000));
            assert_eq!(tcp.window_size(), 777);
            assert!(tcp.ack() && !tcp.psh() && !tcp.fin() && !tcp.urg());
            assert_eq!((tcp.payload().len(), tcp.urgent_pointer()), (0, 0));
            assert_eq!(tcp.options(), [NOP; 12]);
            let sum = match &packet.net {
                Some(etherparse::NetSlice::Ipv4(ip)) => {
                    let header = ip.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                    tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                }
                Some(etherparse::NetSlice::Ipv6(ip)) => {
                    tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                }
                other => panic!("no IP: {other:?}"),
            };
            assert_eq!(sum.expect("it is short"), tcp.checksum());
        }
    }

    #[test]
    fn what_is_no_segment_gives_none() {
        let whole = held(false, b"data");
        for len in 12..66 {
            let cut = Frame::new(whole.bytes().slice(..len), 12).expect("the header is there");
            assert_eq!(acknowledgment(&cut, Seq(3000), 0), None, "{len}");
        }
    }
}
