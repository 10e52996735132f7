//! The frames that each side has handed in, and those that have left. Each frame has a number of
//! its own.

use std::collections::HashMap;

use colo_proxy_common::decode::{decode, decode_ports, protocol};
use colo_proxy_engine::frame::Frame;

use super::build;

/// The identity of a flow of datagrams, if it is certain: everything but complete TCP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DatagramFlow {
    ends: [[u8; 16]; 2],
    vlan: [u16; 2],
    ports: (u16, u16),
}

/// The primary's frames.
#[derive(Debug, Default)]
pub(super) struct Books {
    given: Vec<HandedIn>,
    /// The last datagram of each flow that has left.
    last: HashMap<DatagramFlow, u32>,
    left: usize,
    /// Frames before this one are from before the cut.
    pub(super) cut: usize,
}

#[derive(Debug)]
struct HandedIn {
    frame: Frame,
    has_left: bool,
}

impl Books {
    /// The number of the next frame, of either side.
    pub(super) fn next(&self) -> u32 {
        self.given.len() as u32
    }

    /// The primary has sent `frame`, which has the next number.
    pub(super) fn enter(&mut self, frame: &Frame) {
        self.given.push(HandedIn { frame: frame.clone(), has_left: false });
    }

    /// The engine releases `frame`.
    pub(super) fn leave(&mut self, frame: &Frame) -> u32 {
        let number = build::number_of(frame);
        let given = number.and_then(|number| self.given.get_mut(number as usize));
        let (Some(number), Some(given)) = (number, given) else {
            return assert_no(frame, "it was never handed in");
        };
        assert!(!given.has_left, "frame {number} has left already");
        assert_eq!(given.frame, *frame, "frame {number} has changed");
        given.has_left = true;
        self.left += 1;
        if let Some(flow) = datagram_flow(frame) {
            let before = self.last.insert(flow, number);
            assert!(before < Some(number), "frame {number} leaves behind {before:?}");
        }
        number
    }

    /// Frames that have not left.
    pub(super) fn held(&self) -> u64 {
        (self.given.len() - self.left) as u64
    }

    /// Every frame from before the cut has left.
    pub(super) fn is_settled(&self) -> bool {
        self.given.iter().take(self.cut).all(|given| given.has_left)
    }

    /// A frame that arrived recently.
    pub(super) fn recent(&self, back: usize) -> Option<&Frame> {
        let at = self.given.len().checked_sub(1 + back)?;
        Some(&self.given[at].frame)
    }
}

fn assert_no(frame: &Frame, why: &str) -> u32 {
    assert!(frame.is_empty() && !frame.is_empty(), "{frame:?}: {why}");
    0
}

/// Only UDP with the length that its header says. For other protocols, one tuple may be several
/// flows.
fn datagram_flow(frame: &Frame) -> Option<DatagramFlow> {
    let octets = frame.ethernet();
    let packet = decode(octets, None).ok()?;
    let ip = packet.ip.filter(|ip| ip.protocol == protocol::UDP && ip.fragment.is_none())?;
    let ports = decode_ports(octets, &ip).ok()?;
    let datagram = octets.get(ip.payload_at as usize..ip.end as usize)?;
    let len = u16::from_be_bytes(*datagram.get(4..8)?.first_chunk()?);
    if usize::from(len) != datagram.len() {
        return None;
    }
    Some(DatagramFlow { ends: [ip.src, ip.dst], vlan: packet.vlan, ports })
}
