//! Frames that are not simply compared: the operator's policy decides.

use colo_proxy_common::decode::Malformed;

use super::classify::{FrameSubject, classify, opaque};
use super::ledger::{HeldKind, ReleaseCause};
use super::packet::WholePacket;
use super::policy::Policy;
use super::{Engine, Output, Side};
use crate::frame::Frame;

impl Engine {
    /// The policy asks for a comparison of `frame`, or for a checkpoint before it leaves.
    pub fn is_compared(&self, frame: &Frame) -> bool {
        let (subject, malformed) = classify(frame);
        self.policy(&subject, malformed) != Policy::Release
    }

    #[inline]
    pub(super) fn policy(&self, subject: &FrameSubject, malformed: Option<Malformed>) -> Policy {
        match (subject, malformed) {
            (_, Some(_)) => self.ledger.limits.on_malformed,
            (FrameSubject::Uncompared(_), None) => self.ledger.limits.on_uncompared,
            _ => Policy::Compare,
        }
    }

    /// Takes a classified packet.
    #[inline(always)]
    pub(super) fn admit(
        &mut self,
        side: Side,
        (subject, policy): (&FrameSubject, Policy),
        packet: WholePacket,
        out: &mut Output,
    ) {
        let stats = &mut self.ledger.stats;
        match (policy, side, subject) {
            (Policy::Compare, _, FrameSubject::Uncompared(_)) => {
                let (name, body) = opaque(&packet.frame);
                self.compare(side, &FrameSubject::Datagram(name, body), packet, out);
            }
            (Policy::Compare, ..) => self.compare(side, subject, packet, out),
            (Policy::Release, Side::Primary, _) => {
                match subject {
                    FrameSubject::Uncompared(kind) => stats.uncompared.add(*kind),
                    _ => stats.malformed_released += 1,
                }
                self.ledger.pass(packet, ReleaseCause::Uncompared, out);
            }
            (Policy::Hold, Side::Primary, _) => {
                match subject {
                    FrameSubject::Uncompared(kind) => stats.uncompared_held.add(*kind),
                    _ => stats.malformed_held += 1,
                }
                self.ledger.hold(packet, HeldKind::Checkpoint);
            }
            (_, Side::Secondary, FrameSubject::Uncompared(kind)) => {
                stats.secondary_dropped.uncompared.add(*kind);
            }
            (_, Side::Secondary, _) => stats.secondary_dropped.malformed += 1,
        }
    }
}
