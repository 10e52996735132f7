//! What both halves are put together from.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::InstanceError;
use colo_proxy_engine::pair::BATCH;
use colo_proxy_engine::pair::Role;

use crate::config::{Guest, PeerLimits};
use crate::datapath::{Datapath, DatapathPlan};
use crate::endpoint::{Endpoint, Port};
use crate::error_chain::chain;
use crate::gate::{Gate, GateOptions};
use crate::lane::control::{Peer, PeerEvent};
use crate::link::{Link, LinkError, LinkWatch};
use crate::name::{self, Claim};
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::ProgramMode;

/// The guest's TAP as it is now, and the name under which it is served.
pub(super) async fn find(
    guest: &Guest,
    dir: &Path,
) -> Result<(LinkWatch, Link, Claim), InstanceError> {
    let (watch, netdev) = LinkWatch::start(&guest.netdev).await?;
    let claim = name::claim(dir, guest.name.as_deref(), &guest.netdev, Datapath::is_foreign)?;
    Ok((watch, netdev, claim))
}

/// Puts the programs on a TAP that has come back, and says how many of its frames passed before.
/// It is down meanwhile; a frame can pass only between its making and our taking it down.
pub(crate) async fn reattach<E: From<LinkError>>(
    watch: &LinkWatch,
    link: Link,
    limits: &PeerLimits,
    attach: impl FnOnce(u32) -> Result<(), E>,
) -> Result<u64, E> {
    if link.up {
        watch.set_up(link.ifindex, false).await?;
    }
    attach(link.ifindex)?;
    lengthen_queue(watch, link, limits).await;
    let passed = watch.get().await.map_or(0, |link| link.rx_frames);
    if link.up {
        watch.set_up(link.ifindex, true).await?;
    }
    Ok(passed)
}

/// Gives the guest's TAP the queue that a pair needs.
pub(crate) async fn lengthen_queue(watch: &LinkWatch, netdev: Link, limits: &PeerLimits) {
    if let Err(error) = watch.raise_queue(netdev, limits.guest_queue_frames).await {
        log::warn!("{}; a guest that is slow for a moment may lose input", chain(&error));
    }
}

/// The kernel's half, attached, with its gates still down.
pub(super) struct Kernel {
    pub(super) datapath: Datapath,
    pub(super) output_gate: Arc<Gate>,
    pub(super) input_gate: Arc<Gate>,
    /// An earlier daemon let the guest go on unprotected, and died.
    pub(super) was_off: bool,
}

/// Attaches, which takes the verifier some tenths of a second, on a thread where no other guest waits
/// meanwhile.
pub(super) async fn attach(
    guest: &Guest,
    name: &str,
    netdev: Link,
) -> Result<Kernel, InstanceError> {
    let (guest, name) = (guest.clone(), name.to_owned());
    elsewhere(move || attach_now(&guest, &name, netdev)).await
}

/// Takes the programs off, likewise: that waits for a lock of the host's.
pub(super) async fn detach(datapath: Datapath) -> Result<(), InstanceError> {
    elsewhere(move || Ok(datapath.detach()?)).await
}

async fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InstanceError> + Send + 'static,
) -> Result<T, InstanceError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(InstanceError::Ended))
}

fn attach_now(guest: &Guest, name: &str, netdev: Link) -> Result<Kernel, InstanceError> {
    // The primary's captured output never touches the wire, so its gate keeps it as the guest made
    // it; all else goes to the peer in the shape that was agreed on.
    let whole = guest.role() == Role::Primary || guest.vnet_hdr_support;
    let queue_len = guest.limits.peer.gate_queue_frames;
    let output_gate = open_gate("colo-out%d", whole, queue_len)?;
    let input_gate = open_gate("colo-in%d", guest.vnet_hdr_support, queue_len)?;
    let mut datapath = Datapath::attach(&DatapathPlan {
        instance: name,
        role: guest.role(),
        mode: ProgramMode::Protected,
        netdev_ifindex: netdev.ifindex,
        output_gate_ifindex: output_gate.ifindex(),
        input_gate_ifindex: input_gate.ifindex(),
        on_death: guest.on_death,
        limits: guest.limits.translation,
    })?;
    let was_off = datapath.taken_over() && datapath.mode() == ProgramMode::Off;
    // A daemon that died after a failover left its guest on the network, and there it stays. Of any
    // other leftover nothing is known, so this one begins by holding.
    if guest.role() == Role::Primary || datapath.mode() != ProgramMode::FailedOver {
        datapath.set_mode(ProgramMode::Protected)?;
    }
    Ok(Kernel { datapath, output_gate, input_gate, was_off })
}

fn open_gate(
    name_template: &str,
    vnet_hdr: bool,
    queue_len: u32,
) -> Result<Arc<Gate>, InstanceError> {
    let options = GateOptions { name_template: name_template.into(), vnet_hdr, queue_len };
    Ok(Arc::new(Gate::open(&options)?))
}

/// The lane that may be absent.
pub(super) async fn open_port(endpoint: Option<&Endpoint>) -> Result<Option<Port>, InstanceError> {
    match endpoint {
        Some(endpoint) => Ok(Some(Port::open(endpoint.clone()).await?)),
        None => Ok(None),
    }
}

pub(super) async fn next_peer_event(peer: Option<&mut Peer>) -> PeerEvent {
    if let Some(peer) = peer
        && let Some(event) = peer.next_event().await
    {
        return event;
    }
    std::future::pending().await
}

pub(crate) async fn sleep_until(deadline: Option<Instant>) {
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
pub(crate) fn nonzero<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)).collect()
}
