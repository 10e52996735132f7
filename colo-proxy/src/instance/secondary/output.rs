//! The guest's output on its way to the primary: how it is captured, and who else sees it.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::{Inputs, SecondaryStats};
use crate::config::Guest;
use crate::datapath::Datapath;
use crate::datapath::capture::{self, CaptureBackend, CaptureKind};
use crate::endpoint::Port;
use crate::gate::Gate;
use crate::instance::announce::Addresses;
use crate::instance::kept_input::KeptInput;
use crate::instance::{InstanceError, system};
use crate::lane::{self, LaneEvent, Outgoing, OutgoingRequest};
use colo_proxy_engine::digest::Digester;
use colo_proxy_engine::frame::Frame;

/// The cut: so many frames have gone into the secondary lane, with those that were captured by now.
pub(super) async fn take_cut(inputs: &Inputs) -> Option<u64> {
    let (reply, sent) = oneshot::channel();
    inputs.lanes.output_requests.send(OutgoingRequest::Cut(reply)).await.ok()?;
    sent.await.ok()
}

/// The configured backend, or the gate, which always works. A refusal is logged.
pub(super) fn choose_capture(
    kind: CaptureKind,
    netdev: &str,
    gate: &Arc<Gate>,
    datapath: &mut Datapath,
) -> Result<Box<dyn CaptureBackend>, InstanceError> {
    Ok(capture::choose(kind, gate, datapath.xdp_target(netdev)?).0)
}

/// Learns from the guest's output on its way to the primary.
pub(super) struct OutputObserver {
    pub(super) addresses: Arc<Mutex<Addresses>>,
    pub(super) kept_input: KeptInput,
}

impl OutputObserver {
    fn frame(&self, frame: &Frame) {
        if let Ok(mut known) = self.addresses.lock() {
            known.learn(Instant::now(), frame.ethernet());
        }
        self.kept_input.on_output(frame);
    }
}

pub(super) fn spawn_output(
    guest: &Guest,
    port: Port,
    source: Box<dyn CaptureBackend>,
    stats: &SecondaryStats,
    observer: OutputObserver,
) -> Result<(mpsc::Sender<OutgoingRequest>, mpsc::Receiver<LaneEvent>), InstanceError> {
    let busy = stats.busy.clone();
    let digester = stats
        .digests
        .clone()
        .map(|stats| Digester::new(guest.vnet_hdr_support, guest.limits.digest.bytes_max, stats));
    lane::spawn_outgoing(Outgoing {
        port,
        source,
        vnet_hdr: guest.vnet_hdr_support,
        limits: guest.limits.peer,
        stats: stats.output.clone(),
        observe: Box::new(move |frame| {
            busy.on_frame();
            observer.frame(frame);
        }),
        digester,
    })
    .map_err(system("watch the guest's output"))
}
