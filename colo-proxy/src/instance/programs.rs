//! The kernel programs of a guest: attached with their gates, and taken off.
//!
//! Attaching takes the verifier some tenths of a second, and taking off waits for a lock of the
//! host's. So both are done on a thread where no other guest waits meanwhile.

use std::sync::Arc;

use colo_proxy_engine::pair::{ProgramMode, Role};

use super::InstanceError;
use crate::config::Guest;
use crate::datapath::{Datapath, DatapathPlan};
use crate::gate::{Gate, GateOptions};

/// The programs, attached to a guest's TAP and to two gates.
pub(super) struct AttachedPrograms {
    pub(super) datapath: Datapath,
    pub(super) output_gate: Arc<Gate>,
    pub(super) input_gate: Arc<Gate>,
    /// An earlier daemon let the guest go on unprotected, and died.
    pub(super) was_off: bool,
}

impl AttachedPrograms {
    /// Frames can go through the gates, which are down at first.
    pub(super) fn open_gates(&self) -> Result<(), InstanceError> {
        self.output_gate.set_up()?;
        self.input_gate.set_up()?;
        Ok(())
    }
}

/// Attaches the programs of `guest`, which is served as `name`. The gates are down still.
pub(super) async fn attach(
    guest: &Guest,
    name: &str,
    netdev_ifindex: u32,
) -> Result<AttachedPrograms, InstanceError> {
    let (guest, name) = (guest.clone(), name.to_owned());
    on_another_thread(move || attach_now(&guest, &name, netdev_ifindex)).await
}

/// Takes the programs off.
pub(super) async fn detach(datapath: Datapath) -> Result<(), InstanceError> {
    on_another_thread(move || Ok(datapath.detach()?)).await
}

async fn on_another_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InstanceError> + Send + 'static,
) -> Result<T, InstanceError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(InstanceError::Ended))
}

fn attach_now(
    guest: &Guest,
    name: &str,
    netdev_ifindex: u32,
) -> Result<AttachedPrograms, InstanceError> {
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
        netdev_ifindex,
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
    Ok(AttachedPrograms { datapath, output_gate, input_gate, was_off })
}

fn open_gate(
    name_template: &str,
    vnet_hdr: bool,
    queue_len: u32,
) -> Result<Arc<Gate>, InstanceError> {
    let options = GateOptions { name_template: name_template.into(), vnet_hdr, queue_len };
    Ok(Arc::new(Gate::open(&options)?))
}
