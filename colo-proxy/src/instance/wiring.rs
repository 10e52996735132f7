//! What both halves are put together from.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use colo_proxy_common::record::Counters;
use serde_json::{Value, json};

use super::InstanceError;
use super::lanes::BATCH;
use super::peer::{Peer, PeerEvent};
use super::readable::Drained;
use crate::endpoint::{Endpoint, Port};
use crate::frame::Frame;
use crate::gate::{Gate, GateOptions};

pub(super) fn open_gate(name_template: &str, vnet_hdr: bool) -> Result<Arc<Gate>, InstanceError> {
    let options =
        GateOptions { name_template: name_template.into(), vnet_hdr, ..GateOptions::default() };
    Ok(Arc::new(Gate::open(&options)?))
}

/// The lane that may be absent.
pub(super) async fn open_port(endpoint: Option<&Endpoint>) -> Result<Option<Port>, InstanceError> {
    match endpoint {
        Some(endpoint) => Ok(Some(Port::open(endpoint.clone()).await?)),
        None => Ok(None),
    }
}

/// One batch; an error means that the gate is gone.
pub(super) fn read_gate(gate: &Gate, into: &mut Vec<Frame>) -> io::Result<((), Drained)> {
    while into.len() < BATCH {
        match gate.read_frame()? {
            Some(frame) => into.push(frame),
            None => return Ok(((), Drained::Yes)),
        }
    }
    Ok(((), Drained::No))
}

pub(super) async fn next_peer_event(peer: Option<&mut Peer>) -> PeerEvent {
    if let Some(peer) = peer
        && let Some(event) = peer.events.recv().await
    {
        return event;
    }
    std::future::pending().await
}

pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Names what was attempted when the system refused it.
pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> InstanceError {
    move |source| InstanceError::System { what, source }
}

/// Counts by reason, zeros left out.
pub(super) fn nonzero<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)).collect()
}

/// The kernel programs' counters under the names that `bpftool` shows.
pub(super) fn counters_json(counters: &Counters) -> Value {
    json!({
        "captured": counters.captured,
        "released": counters.released,
        "mirrored": counters.mirrored,
        "mirror_failed": counters.mirror_failed,
        "passed": counters.passed,
        "translated_to_guest": counters.translated_to_guest,
        "translated_from_guest": counters.translated_from_guest,
        "input_held": counters.input_held,
        "dropped_lan_input": counters.dropped_lan_input,
        "dropped_no_offset": counters.dropped_no_offset,
        "dropped_foreign": counters.dropped_foreign,
        "dropped_no_settings": counters.dropped_no_settings,
        "malformed": counters.malformed,
        "flow_table_full": counters.flow_table_full,
        "rewrite_failed": counters.rewrite_failed,
    })
}
