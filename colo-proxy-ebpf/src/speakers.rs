//! The addresses of a guest whose output the daemon does not see. After a failover the daemon announces
//! them.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::btf_map;
use colo_proxy_common::decode::{FrameBytes, decode, ethertype};
use colo_proxy_common::lane::{SPEAKERS_MAX, Speaker};

use crate::access::SkBuff;
use crate::maps::lane_counters;

/// Time between two looks. A look at every frame would cost more than the frame's way into the tunnel.
/// All addresses of a guest are behind one MAC, so an announcement of any of them suffices for the
/// switches.
const PAUSE_NS: u64 = 1_000_000;

#[btf_map(name = "speakers")]
static SPEAKERS: LruHashMap<Speaker, u64, SPEAKERS_MAX> = LruHashMap::new();

/// Remembers the sender of this frame, if the last look was long enough ago.
#[inline(always)]
pub fn look(frame: &SkBuff) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let Some(counters) = lane_counters() else { return };
    if now.wrapping_sub(counters.looked_ns) < PAUSE_NS {
        return;
    }
    counters.looked_ns = now;
    if let Some(speaker) = speaker(frame) {
        let _full = SPEAKERS.insert(speaker, now, 0);
    }
}

#[inline(always)]
fn speaker(frame: &SkBuff) -> Option<Speaker> {
    let packet = decode(frame, frame.outer_tag()).ok()?;
    let mac = frame.read(6)?;
    let mut speaker = Speaker { mac, vlan: packet.vlan, ..Speaker::default() };
    if let Some(ip) = packet.ip {
        (speaker.address, speaker.ip_version) = (ip.src, ip.version);
    } else if packet.ethertype == ethertype::ARP && packet.vlan == [0; 2] {
        // The sender protocol address (RFC 826), in a frame without tags.
        let [a, b, c, d] = frame.read(28)?;
        speaker.address = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        speaker.ip_version = 4;
    } else {
        return None;
    }
    Some(speaker)
}
