//! Telling the network where the guest is after a takeover.
//!
//! Switches learned the guest's address behind the primary host. They go on sending there until a
//! frame of the guest comes by another port. So the survivor announces every address that its guest
//! used recently: gratuitous ARP (RFC 826, RFC 5227), unsolicited neighbour advertisement
//! (RFC 4861, section 7.2.6), and a reverse ARP for switches, as QEMU sends after a migration.

use std::time::{Duration, Instant};

use bytes::Bytes;
use colo_proxy_common::checksum;
use colo_proxy_common::decode::{FrameBytes, decode, ethertype, protocol};
use colo_proxy_common::lane::Speaker;

use colo_proxy_engine::frame::Frame;

/// Addresses that are remembered; a guest that uses more has the last ones announced.
const ADDRESSES_MAX: usize = 32;
/// An address that the guest has not used for so long may be somebody else's now. A switch forgets its
/// place after the same time (IEEE 802.1Q), so nobody misses its announcement.
const SILENT_MAX: Duration = Duration::from_mins(5);
const RARP: u16 = 0x8035;
const BROADCAST: [u8; 6] = [0xff; 6];
/// `ff02::1`, all nodes, and its Ethernet address.
const ALL_NODES: [u8; 16] = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// The addresses that the guest was seen to use.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    known: Vec<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    mac: [u8; 6],
    /// VLAN tags as they stand in the frame: 0, 4 or 8 bytes.
    tags: Vec<u8>,
    ip: Ip,
    /// When the guest used it last.
    used: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ip {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Addresses {
    /// Remembers who sent `frame`, which the guest did.
    pub(super) fn learn(&mut self, now: Instant, frame: &[u8]) {
        let Some((mac, tags, ip)) = sender(frame) else { return };
        self.remember(now, mac, tags, ip);
    }

    /// Remembers an address that the kernel has seen the guest use, last at that time.
    pub(super) fn add(&mut self, used: Instant, speaker: &Speaker) {
        let [a, b, c, d, ..] = speaker.address;
        let ip =
            if speaker.ip_version == 4 { Ip::V4([a, b, c, d]) } else { Ip::V6(speaker.address) };
        if is_usable(ip) {
            self.remember(used, speaker.mac, &tags(speaker.vlan), ip);
        }
    }

    fn remember(&mut self, used: Instant, mac: [u8; 6], tags: &[u8], ip: Ip) {
        let is = |known: &&mut Address| known.mac == mac && known.tags == tags && known.ip == ip;
        if let Some(known) = self.known.iter_mut().find(is) {
            known.used = known.used.max(used);
            return;
        }
        let address = Address { mac, tags: tags.into(), ip, used };
        if self.known.len() < ADDRESSES_MAX {
            self.known.push(address);
        } else if let Some(oldest) = self.known.iter_mut().min_by_key(|known| known.used) {
            *oldest = address;
        }
    }

    /// A frame for each address that was used recently, and one for each MAC, which is nobody else's.
    pub(super) fn announcements(&self, now: Instant) -> Vec<Frame> {
        let is_recent = |known: &&Address| now.duration_since(known.used) <= SILENT_MAX;
        let mut frames: Vec<Vec<u8>> = self.known.iter().filter(is_recent).map(announce).collect();
        for (i, address) in self.known.iter().enumerate() {
            let earlier = self.known.iter().take(i);
            if !earlier
                .into_iter()
                .any(|other| (other.mac, &other.tags) == (address.mac, &address.tags))
            {
                frames.push(arp(address, RARP, 3, [0; 4]));
            }
        }
        frames.into_iter().filter_map(|frame| Frame::new(Bytes::from(frame), 0)).collect()
    }
}

fn sender(frame: &[u8]) -> Option<([u8; 6], &[u8], Ip)> {
    let packet = decode(frame, None).ok()?;
    let mac: [u8; 6] = frame.read(6)?;
    if let Some(ip) = packet.ip {
        let tags = frame.get(12..(ip.at as usize).checked_sub(2)?)?;
        let [a, b, c, d, ..] = ip.src;
        let source = if ip.version == 4 { Ip::V4([a, b, c, d]) } else { Ip::V6(ip.src) };
        return is_usable(source).then_some((mac, tags, source));
    }
    // Sender protocol address of an ARP packet for IPv4 over Ethernet.
    if packet.ethertype == ethertype::ARP && packet.vlan == [0, 0] {
        let source = Ip::V4(frame.read(28)?);
        return is_usable(source).then_some((mac, &[], source));
    }
    None
}

/// VLAN tags of these ids, outer first: a service tag outside (IEEE 802.1ad) where there are two.
fn tags(vlan: [u16; 2]) -> Vec<u8> {
    let tag = |kind: u16, id: u16| [kind.to_be_bytes(), id.to_be_bytes()].concat();
    match vlan {
        [0, _] => Vec::new(),
        [id, 0] => tag(ethertype::VLAN, id),
        [outer, inner] => [tag(ethertype::QINQ, outer), tag(ethertype::VLAN, inner)].concat(),
    }
}

/// Neither unspecified nor multicast: somebody's own address.
fn is_usable(ip: Ip) -> bool {
    match ip {
        Ip::V4(address) => address != [0; 4] && address[0] < 224,
        Ip::V6(address) => address != [0; 16] && address[0] != 0xff,
    }
}

fn announce(address: &Address) -> Vec<u8> {
    match address.ip {
        Ip::V4(ip) => arp(address, ethertype::ARP, 1, ip),
        Ip::V6(ip) => advertisement(address, ip),
    }
}

fn ethernet(address: &Address, dst: [u8; 6], kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(dst);
    frame.extend(address.mac);
    frame.extend(&address.tags);
    frame.extend(kind.to_be_bytes());
    frame
}

fn arp(address: &Address, kind: u16, operation: u16, ip: [u8; 4]) -> Vec<u8> {
    let mut frame = ethernet(address, BROADCAST, kind);
    // Ethernet, IPv4, and their address lengths.
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(address.mac);
    frame.extend(ip);
    frame.extend(if kind == RARP { address.mac } else { [0; 6] });
    frame.extend(ip);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn advertisement(address: &Address, ip: [u8; 16]) -> Vec<u8> {
    // Type 136, the Override flag, the target, and its link-layer address as an option.
    let mut icmp = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    icmp.extend(ip);
    icmp.extend([2, 1]);
    icmp.extend(address.mac);
    let length = icmp.len() as u16;
    let pseudo = checksum::pseudo_header([&ip, &ALL_NODES], protocol::ICMPV6, length.into());
    let sum = checksum::finish(checksum::sum(&icmp, pseudo)).to_be_bytes();
    icmp.splice(2..4, sum);

    let mut frame = ethernet(address, ALL_NODES_MAC, ethertype::IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // ICMPv6 with the hop limit that proves it was not routed.
    frame.extend([protocol::ICMPV6, 255]);
    frame.extend(ip);
    frame.extend(ALL_NODES);
    frame.extend(icmp);
    frame
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv6Slice, PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn udp4(source: [u8; 4]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(MAC, [4; 6])
            .ipv4(source, [10, 0, 0, 1], 64)
            .udp(1, 2)
            .write(&mut frame, &[])
            .expect("a Vec takes everything");
        frame
    }

    #[test]
    fn every_address_is_announced_once_and_every_mac() {
        let (mut known, now) = (Addresses::default(), Instant::now());
        for _ in 0..3 {
            known.learn(now, &udp4([10, 0, 0, 2]));
            known.learn(now, &udp4([10, 0, 0, 3]));
        }
        known.learn(now, &udp4([0; 4]));
        known.learn(now, &udp4([224, 0, 0, 1]));
        let frames = known.announcements(now);
        assert_eq!(frames.len(), 3);
        let arp = frames[0].ethernet();
        assert_eq!((&arp[..6], &arp[6..12], &arp[12..14]), (&BROADCAST[..], &MAC[..], &[8, 6][..]));
        assert_eq!((&arp[28..32], &arp[38..42]), (&[10, 0, 0, 2][..], &[10, 0, 0, 2][..]));
        assert_eq!(frames[2].ethernet()[12..14], RARP.to_be_bytes());
    }

    #[test]
    fn an_ipv6_address_is_advertised_with_a_right_checksum() {
        let ip = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(MAC, [4; 6])
            .single_vlan(5.try_into().expect("12 bits"))
            .ipv6(ip, [1; 16], 64)
            .udp(1, 2)
            .write(&mut frame, &[])
            .expect("a Vec takes everything");
        let (mut known, now) = (Addresses::default(), Instant::now());
        known.learn(now, &frame);
        let frames = known.announcements(now);
        let sliced = SlicedPacket::from_ethernet(frames[0].ethernet()).expect("it parses");
        assert_eq!(sliced.vlan_ids().len(), 1);
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
        let icmp = Icmpv6Slice::from_slice(icmp.slice()).expect("it parses");
        assert!(icmp.is_checksum_valid(ip, ALL_NODES));
        assert_eq!(icmp.slice()[8..24], ip);
    }

    #[test]
    fn a_guest_with_too_many_addresses_is_bounded() {
        let (mut known, now) = (Addresses::default(), Instant::now());
        for i in 0..200 {
            known.learn(now + Duration::from_secs(i.into()), &udp4([10, 0, 1, i]));
        }
        let frames = known.announcements(now + Duration::from_secs(200));
        assert_eq!(frames.len(), ADDRESSES_MAX + 1);
        assert!(frames.iter().any(|frame| frame.ethernet()[28..32] == [10, 0, 1, 199]));
    }

    /// Whether the daemon has seen it or the kernel.
    #[test]
    fn an_address_of_long_ago_may_be_somebody_elses() {
        let (mut known, start) = (Addresses::default(), Instant::now());
        let speaker = |last| Speaker {
            address: [10, 0, 0, last, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            mac: MAC,
            ip_version: 4,
            ..Speaker::default()
        };
        known.learn(start, &udp4([10, 0, 0, 1]));
        known.add(start, &speaker(2));
        known.add(start, &speaker(3));
        let now = start + SILENT_MAX + Duration::from_secs(1);
        known.add(now, &speaker(3));
        known.add(start, &speaker(3));
        let frames = known.announcements(now);
        let [announced, mac] = &*frames else { panic!("{frames:?}") };
        assert_eq!(announced.ethernet()[28..32], [10, 0, 0, 3]);
        assert_eq!(mac.ethernet()[12..14], RARP.to_be_bytes());
    }
}
