//! The windows that both guests offer.
//!
//! Windows need not be equal: a window shows how far the guest's application has read. But if the
//! secondary's window stays closed while the primary's is open, the secondary has stopped doing the
//! primary's work, and misses the data that the peer sends meanwhile.

use std::time::{Duration, Instant};

use colo_proxy_common::record::FlowKey;

use super::{SegmentClaim, TcpFlow};
use crate::compare::Side;
use crate::compare::divergence::Difference;
use crate::compare::ledger::Ledger;
use crate::compare::reason::Reason;

/// RFC 7323, section 2.3: more counts as this.
const SCALE_MAX: u8 = 14;

/// The last window of each guest, and since when the secondary's alone is closed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OfferedWindows {
    /// By side, as in the header: zero is zero, whatever the scale.
    last: [Option<u16>; 2],
    shut_since: Option<Instant>,
}

impl OfferedWindows {
    pub(super) fn note(&mut self, side: Side, window: u16, now: Instant) {
        if let Some(last) = self.last.get_mut(side as usize) {
            *last = Some(window);
        }
        let [primary, secondary] = self.last;
        let is_shut = secondary == Some(0) && primary.is_some_and(|window| window > 0);
        self.shut_since = is_shut.then(|| self.shut_since.unwrap_or(now));
    }

    /// The last windows, unless the secondary's alone is closed.
    pub(super) fn at_rest(&self) -> Option<[Option<u16>; 2]> {
        self.shut_since.is_none().then_some(self.last)
    }

    pub(super) fn with(last: [Option<u16>; 2]) -> Self {
        Self { last, shut_since: None }
    }

    /// A checkpoint was made: the secondary's state is the primary's.
    pub(super) fn begin_epoch(&mut self) {
        let [primary, _] = self.last;
        *self = Self { last: [primary; 2], shut_since: None };
    }
}

impl TcpFlow {
    /// When the flow wants to be looked at.
    pub(in crate::compare) fn timer(&self, ledger: &Ledger) -> Option<Instant> {
        let since = self.windows.shut_since.filter(|_| !self.closed)?;
        since.checked_add(ledger.limits.zero_window_timeout.max(Duration::from_millis(1)))
    }

    /// Asks for a checkpoint where the secondary's window was closed for too long, and again after
    /// as long. Returns when to look again.
    pub(in crate::compare) fn on_timer(
        &mut self,
        ledger: &mut Ledger,
        name: &FlowKey,
    ) -> Option<Instant> {
        if self.timer(ledger)? <= ledger.now() {
            ledger.diverge(name, Difference::new(Reason::ZeroWindow, self.high - self.start));
            self.windows.shut_since = Some(ledger.now());
        }
        self.timer(ledger)
    }

    /// How far the peer may send after it has received `segment`; `None` where that is not known,
    /// as in a connection that was met in its middle.
    pub(super) fn edge(&self, segment: &SegmentClaim) -> Option<i64> {
        // RFC 7323, section 2.2: the window of a SYN is never scaled.
        let scale = if segment.opening.is_some() { Some(0) } else { self.window_scale() };
        Some(segment.ack? + (i64::from(segment.window) << scale?))
    }

    /// The shift of the primary's window. A SYN only offers one. The peer's SYN/ACK decides whether it
    /// is used, and the engine does not see that.
    fn window_scale(&self) -> Option<u8> {
        self.opening.window_scale().map(|scale| scale.min(SCALE_MAX))
    }

    /// The window to send with the acknowledgment of `ack`, where the held frame has `window` with a
    /// higher one. It must not withdraw an earlier offer (RFC 9293, section 3.8.6).
    pub(super) fn window_for(&self, ack: i64, window: u16) -> u16 {
        let Some((edge, scale)) = self.edge.zip(self.window_scale()) else { return window };
        let open = (edge - ack).max(0);
        // Rounds up: bytes lost by the shift would withdraw an earlier offer.
        let needed = (open >> scale) + i64::from(open & ((1 << scale) - 1) != 0);
        window.max(u16::try_from(needed).unwrap_or(u16::MAX))
    }
}
