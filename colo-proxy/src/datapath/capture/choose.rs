//! Chooses the backend that captures the output of a guest.

use std::sync::Arc;

use super::{CaptureBackend, CaptureKind, GateCapture};
use crate::datapath::af_xdp::{self, AfXdp, XdpRefusal, XdpTarget};
use crate::{error_chain::chain, gate::Gate};

/// Opens the backend `kind` if it can take every frame of the guest. Otherwise it opens the gate, and
/// logs and returns the reason why `AF_XDP` cannot.
pub fn choose(
    kind: CaptureKind,
    gate: &Arc<Gate>,
    target: XdpTarget<'_>,
) -> (Box<dyn CaptureBackend>, Option<XdpRefusal>) {
    let (netdev, pins) = (target.netdev, target.pins);
    let opened = match kind {
        CaptureKind::Gate => None,
        CaptureKind::AfXdp | CaptureKind::Auto => Some(AfXdp::attach(target, Arc::clone(gate))),
    };
    let refusal = match opened {
        Some(Ok(capture)) => {
            let queues = capture.queues();
            log::info!("{netdev}: AF_XDP captures the guest's output on {queues} queue(s)");
            return (Box::new(capture), None);
        }
        Some(Err(refusal)) => {
            let hint = refusal.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            let level = if kind == CaptureKind::Auto { log::Level::Info } else { log::Level::Warn };
            let why = chain(&refusal);
            log::log!(
                level,
                "{netdev}: the gate captures the guest's output, because AF_XDP cannot: {why}{hint}"
            );
            Some(refusal)
        }
        None => None,
    };
    if let Err(error) = af_xdp::remove_leftover(pins) {
        log::warn!(
            "{netdev}: cannot detach the XDP program that a dead daemon has left: {}",
            chain(&error)
        );
    }
    (Box::new(GateCapture::new(Arc::clone(gate))), refusal)
}
