//! The steps that open a lane.

use std::sync::Arc;

use colo_proxy_engine::pair::Role;
use colo_proxy_engine::pair::message::TunnelOffer;

use super::back_off::BackOff;
use super::drops::DropWatch;
use super::questions::queries;
use super::slots::Slots;
use super::{KernelLane, KernelLaneError, LaneGuest, OpenLane, ReturnGate, system};
use crate::datapath::{Datapath, LanePlan};
use crate::gate::readable::Readable;
use crate::gate::{Gate, GateError, GateOptions};
use crate::tunnel::{self, Tunnel, Underlay};

impl KernelLane {
    pub(super) async fn open(
        &mut self,
        channel: TunnelOffer,
        underlay: Underlay,
        guest: LaneGuest,
        datapath: &mut Datapath,
    ) -> Result<(), KernelLaneError> {
        underlay.check(guest.mtu.unwrap_or_default())?;
        let tunnel = Tunnel::open(&tunnel::name(&self.name), &underlay, channel).await?;
        let returns = match self.role {
            Role::Primary => Some([self.open_return()?, self.open_return()?]),
            Role::Secondary => None,
        };
        let ifindex = |returns: &[ReturnGate; 2]| [0, 1].map(|i: usize| returns[i].gate.ifindex());
        datapath.open_lane(&LanePlan {
            tunnel_ifindex: tunnel.ifindex(),
            return_gate_ifindex: returns.as_ref().map(ifindex).unwrap_or_default(),
            frame_max: underlay.frame_max(),
        })?;
        for ReturnGate { gate, .. } in returns.iter().flatten() {
            gate.set_up()?;
        }
        let slot = datapath.settings().lane_slot.wrapping_add(1);
        datapath.set_lane_slot(slot)?;
        let slots =
            Slots::new(slot, datapath.epoch(), self.silent_ticks, &datapath.lane_counters()?);
        datapath.send_lane_input_to_gate(guest.is_stopped)?;
        tunnel.set_up().await?;
        let mut drops = DropWatch::default();
        // The first look sets the counters from which later drops count.
        drops.look(tunnel.links(&self.behind(datapath)).await?);
        let queries =
            queries(self.name.clone()).map_err(system("start a thread for the tunnel"))?;
        self.open = Some(OpenLane {
            tunnel,
            underlay,
            channel,
            returns,
            slots,
            drops,
            back_off: BackOff::default(),
            queries,
            ticks: 0,
            arrived_at_look: 0,
            has_written: false,
        });
        Ok(())
    }

    fn open_gate(&self) -> Result<Arc<Gate>, GateError> {
        let name_template = "colo-ret%d".into();
        let options = GateOptions { name_template, vnet_hdr: true, queue_len: self.queue_frames };
        Ok(Arc::new(Gate::open(&options)?))
    }

    fn open_return(&self) -> Result<ReturnGate, KernelLaneError> {
        let gate = self.open_gate()?;
        let ready = Readable::new(&*gate).map_err(system("watch a return gate"))?;
        Ok(ReturnGate { gate, ready })
    }
}
