//! What `status` shows of the lane.

use super::{KernelLane, is_used};
use crate::datapath::Datapath;
use crate::status::{KernelLaneReport, TunnelReport};

impl KernelLane {
    /// What `status` shows.
    pub(crate) fn report(&self, datapath: &Datapath) -> KernelLaneReport {
        let why = match (&self.open, &self.offer) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(self.why.clone()),
            (None, None) => Some("not asked for".to_owned()),
        };
        let counters = datapath.lane_counters().unwrap_or_default();
        KernelLaneReport {
            open: self.open.is_some(),
            used: self.open.is_some() && is_used(datapath),
            why,
            tunnel: self.open.as_ref().map(|open| TunnelReport {
                tunnel: open.tunnel.name().to_owned(),
                local: open.underlay.local,
                remote: open.underlay.remote,
                mtu: open.underlay.mtu,
                vni: open.channel.vni,
                port: open.channel.port,
                sent_frames: counters.sent.iter().sum(),
                received_frames: counters.received.iter().sum(),
            }),
            lost_frames: self.lost(),
            dropped_frames: self.dropped(),
        }
    }

    /// Frames of the peer that were lost in the tunnel.
    pub(crate) fn lost(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.slots.lost).saturating_add(self.lost_before)
    }

    /// Frames of the peer that came through the tunnel and were dropped behind it.
    pub(crate) fn dropped(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.drops.dropped).saturating_add(self.dropped_before)
    }

    /// The names of the gates through which frames come. Their drops are counted elsewhere.
    pub(crate) fn gates(&self) -> impl Iterator<Item = &str> {
        let returns = self.open.iter().filter_map(|open| open.returns.as_ref());
        returns.flatten().map(|returns| returns.gate.name())
    }
}
