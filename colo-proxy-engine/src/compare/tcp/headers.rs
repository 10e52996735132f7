//! Header fields that may differ although the output is the same. They are only recorded.

use colo_proxy_common::decode::{FrameBytes, Tcp, decode_tcp_options, ethertype};

use crate::compare::stats::Differences;

/// `EtherType` and tag of a VLAN.
const TAG_LEN: usize = 4;
/// Two no-operations, then timestamps: how nearly every stack puts them (RFC 7323, appendix A).
const ALIGNED_TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];

/// The fields of one segment that count as recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotedHeaders {
    window: u16,
    tos: u8,
    ttl: u8,
    /// 0 with IPv6.
    ip_id: u16,
    /// 0 where there is none.
    timestamp: u32,
    has_timestamp: bool,
}

impl NotedHeaders {
    /// Reads the fields of the frame that `tcp` was decoded from.
    pub(super) fn read(octets: &[u8], tcp: &Tcp) -> Option<Self> {
        let mut at = 14;
        let mut kind = u16::from_be_bytes(octets.read(12)?);
        while matches!(kind, ethertype::VLAN | ethertype::QINQ) {
            kind = u16::from_be_bytes(octets.read(at + 2)?);
            at += TAG_LEN;
        }
        let ip: [u8; 9] = octets.read(at)?;
        let is_v4 = kind == ethertype::IPV4;
        let (tos, ttl) = if is_v4 { (ip[1], ip[8]) } else { (ip[0] << 4 | ip[1] >> 4, ip[7]) };
        let ip_id = if is_v4 { u16::from_be_bytes([ip[4], ip[5]]) } else { 0 };
        let timestamp = timestamp(octets, tcp);
        Some(Self {
            window: tcp.window,
            tos,
            ttl,
            ip_id,
            timestamp: timestamp.unwrap_or_default(),
            has_timestamp: timestamp.is_some(),
        })
    }

    /// Counts where the last segments of the two guests differ.
    pub(super) fn record(&self, theirs: &Self, differences: &mut Differences) {
        differences.window += u64::from(self.window != theirs.window);
        differences.tos += u64::from(self.tos != theirs.tos);
        differences.ttl += u64::from(self.ttl != theirs.ttl);
        differences.ip_id += u64::from(self.ip_id != theirs.ip_id);
        let has_other = self.has_timestamp != theirs.has_timestamp;
        differences.timestamps += u64::from(has_other || self.timestamp != theirs.timestamp);
        let (less, more) = (self.window.min(theirs.window), self.window.max(theirs.window));
        let (less, more) = (u64::from(less), u64::from(more) * 100);
        // Divides only where it is more than so far.
        if more >= less * (differences.window_percent_max + 1)
            && let Some(percent) = more.checked_div(less)
        {
            differences.window_percent_max = percent;
        }
    }
}

fn timestamp(octets: &[u8], tcp: &Tcp) -> Option<u32> {
    if tcp.options_len == 0 {
        return None;
    }
    if tcp.options_len >= 12
        && let Some([kinds @ .., t0, t1, t2, t3]) = octets.read::<8>(tcp.at as usize + 20)
        && kinds == ALIGNED_TIMESTAMPS
    {
        return Some(u32::from_be_bytes([t0, t1, t2, t3]));
    }
    Some(decode_tcp_options::<[u8]>(octets, tcp).timestamps?.value)
}
