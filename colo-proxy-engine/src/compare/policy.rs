//! What becomes of frames that are not plainly compared: by the operator's choice.

use colo_proxy_common::decode::Malformed;

use super::classify::{Subject, classify, opaque};
use super::ledger::{Cause, What};
use super::packet::Packet;
use super::{Engine, Output, Side};
use crate::frame::Frame;

/// What to do with a kind of frames.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The primary's frame leaves when the secondary has sent the same.
    Compare,
    /// The primary's frame leaves at once.
    Release,
    /// The primary's frame is held until a checkpoint.
    Hold,
}

impl Engine {
    /// The policy asks for a comparison of `frame`, or for a checkpoint before it leaves.
    pub fn is_compared(&self, frame: &Frame) -> bool {
        let (subject, malformed) = classify(frame);
        self.policy(&subject, malformed) != Policy::Release
    }

    #[inline]
    pub(super) fn policy(&self, subject: &Subject, malformed: Option<Malformed>) -> Policy {
        match (subject, malformed) {
            (_, Some(_)) => self.ledger.limits.on_malformed,
            (Subject::Uncompared(_), None) => self.ledger.limits.on_uncompared,
            _ => Policy::Compare,
        }
    }

    /// Takes a packet of which it is known what it is.
    #[inline(always)]
    pub(super) fn admit(
        &mut self,
        side: Side,
        (subject, policy): (&Subject, Policy),
        packet: Packet,
        out: &mut Output,
    ) {
        let stats = &mut self.ledger.stats;
        match (policy, side, subject) {
            (Policy::Compare, _, Subject::Uncompared(_)) => {
                let (name, body) = opaque(&packet.frame);
                self.compare(side, &Subject::Datagram(name, body), packet, out);
            }
            (Policy::Compare, ..) => self.compare(side, subject, packet, out),
            (Policy::Release, Side::Primary, _) => {
                match subject {
                    Subject::Uncompared(kind) => stats.uncompared.add(*kind),
                    _ => stats.malformed_released += 1,
                }
                self.ledger.pass(packet, Cause::Uncompared, out);
            }
            (Policy::Hold, Side::Primary, _) => {
                match subject {
                    Subject::Uncompared(kind) => stats.uncompared_held.add(*kind),
                    _ => stats.malformed_held += 1,
                }
                self.ledger.hold(packet, What::Checkpoint);
            }
            (_, Side::Secondary, Subject::Uncompared(kind)) => {
                stats.secondary_dropped.uncompared.add(*kind);
            }
            (_, Side::Secondary, _) => stats.secondary_dropped.malformed += 1,
        }
    }
}
