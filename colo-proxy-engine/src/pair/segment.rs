//! The connection that a TCP segment belongs to, as the kernel's flow table names it.

use colo_proxy_common::decode::{Tcp, decode, decode_tcp, protocol};
use colo_proxy_common::record::FlowKey;

#[derive(Clone, Copy, Debug)]
pub(super) enum FrameDirection {
    ToGuest,
    FromGuest,
}

/// The TCP segment in `frame` and its connection from the guest's point of view.
pub(super) fn segment(frame: &[u8], direction: FrameDirection) -> Option<(FlowKey, Tcp)> {
    let packet = decode(frame, None).ok()?;
    let ip = packet.ip.filter(|ip| ip.protocol == protocol::TCP && ip.fragment.is_none())?;
    let tcp = decode_tcp(frame, &ip).ok()?;
    let (guest_addr, peer_addr, guest_port, peer_port) = match direction {
        FrameDirection::ToGuest => (ip.dst, ip.src, tcp.dst_port, tcp.src_port),
        FrameDirection::FromGuest => (ip.src, ip.dst, tcp.src_port, tcp.dst_port),
    };
    let key = FlowKey {
        guest_addr,
        peer_addr,
        guest_port,
        peer_port,
        vlan: packet.vlan,
        ip_version: ip.version,
        protocol: ip.protocol,
        reserved: [0; 2],
    };
    Some((key, tcp))
}
