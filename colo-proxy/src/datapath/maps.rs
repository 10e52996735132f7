//! The maps of an instance, from the daemon's side.

use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use colo_proxy_common::flow::{known, state};
use colo_proxy_common::lane::{LaneCounters, Speaker};
use colo_proxy_common::record::{FlowKey, FlowRecord, ProgramCounters, Settings};

use super::age::{AgedFlows, FlowAgeing};
use super::{DatapathError, DatapathEvents, walk};

/// All maps that are pinned, by their names.
pub(super) const NAMES: &[&str] = &[
    "settings",
    "counters",
    "flows",
    "unconfirmed",
    "half_open",
    "events",
    "scratch",
    "xsks",
    "lane",
    "speakers",
];

pub(super) struct InstanceMaps {
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, ProgramCounters>,
    flows: FlowMap,
    unconfirmed: FlowMap,
    half_open: FlowMap,
    events: Option<DatapathEvents>,
    lane: PerCpuArray<MapData, LaneCounters>,
    speakers: HashMap<MapData, Speaker, u64>,
}

/// aya's arrays have no `Debug`.
impl std::fmt::Debug for InstanceMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InstanceMaps").field("flows", &self.flows.name).finish_non_exhaustive()
    }
}

impl InstanceMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let ring: RingBuf<MapData> = take(ebpf, "events")?;
        Ok(Self {
            settings: take(ebpf, "settings")?,
            counters: take(ebpf, "counters")?,
            flows: FlowMap::take(ebpf, "flows")?,
            unconfirmed: FlowMap::take(ebpf, "unconfirmed")?,
            half_open: FlowMap::take(ebpf, "half_open")?,
            events: Some(DatapathEvents::new(ring)),
            lane: take(ebpf, "lane")?,
            speakers: take(ebpf, "speakers")?,
        })
    }

    pub(super) fn set_settings(&mut self, settings: &Settings) -> Result<(), DatapathError> {
        self.settings.set(0, settings, 0).map_err(failed("write", "settings"))
    }

    pub(super) fn counters(&self) -> Result<ProgramCounters, DatapathError> {
        let mut sum = ProgramCounters::default();
        let values = self.counters.get(&0, 0).map_err(failed("read", "counters"))?;
        for value in values.iter() {
            sum.add(value);
        }
        Ok(sum)
    }

    pub(super) fn lane_counters(&self) -> Result<LaneCounters, DatapathError> {
        let mut sum = LaneCounters::default();
        for value in self.lane.get(&0, 0).map_err(failed("read", "lane"))?.iter() {
            sum.add(value);
        }
        Ok(sum)
    }

    pub(super) fn speakers(&self) -> Vec<(Speaker, u64)> {
        self.speakers.iter().filter_map(Result::ok).collect()
    }

    /// Removes all addresses that the guest has used.
    pub(super) fn forget_speakers(&mut self) {
        for (speaker, _) in self.speakers() {
            // The kernel may have evicted it already.
            let _absent = self.speakers.remove(&speaker);
        }
    }

    /// The translated connections. Those in which the guest has sent something of its own come first.
    pub(super) fn flows(&self) -> Result<Vec<(FlowKey, FlowRecord)>, DatapathError> {
        let mut flows = self.flows.entries()?;
        flows.extend(self.unconfirmed.entries()?);
        Ok(flows)
    }

    pub(super) fn half_open(&self) -> Result<Vec<(FlowKey, FlowRecord)>, DatapathError> {
        self.half_open.entries()
    }

    pub(super) fn knows(&self, key: &FlowKey) -> bool {
        [&self.flows, &self.unconfirmed, &self.half_open].iter().any(|table| {
            table
                .map
                .get(key, 0)
                .is_ok_and(|flow| flow.known & known::OFFSET != 0 && flow.state != state::REOPENING)
        })
    }

    pub(super) fn has_flow(&self, key: &FlowKey) -> bool {
        self.flows.map.get(key, 0).is_ok()
    }

    /// The entry of `key`, in any of the tables.
    pub(super) fn get(&self, key: &FlowKey) -> Option<FlowRecord> {
        let tables = [&self.flows, &self.unconfirmed, &self.half_open];
        tables.iter().find_map(|table| table.map.get(key, 0).ok())
    }

    pub(super) fn insert_flow(
        &mut self,
        key: &FlowKey,
        flow: &FlowRecord,
    ) -> Result<(), DatapathError> {
        self.flows.map.insert(key, flow, 0).map_err(failed("write", "flows"))?;
        // Programs look into `flows` first.
        self.unconfirmed.remove(key)?;
        self.half_open.remove(key).map(drop)
    }

    pub(super) fn remove_flow(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        self.flows.remove(key).map(drop)
    }

    /// The number of entries in `flows`.
    pub(super) fn flows_len(&self) -> Result<usize, DatapathError> {
        Ok(self.flows.entries()?.len())
    }

    /// The number of entries for which `flows` has room.
    pub(super) fn flows_max(&self) -> u32 {
        self.flows.entries_max
    }

    pub(super) fn take_events(&mut self) -> Option<DatapathEvents> {
        self.events.take()
    }

    pub(super) fn age_flows(
        &mut self,
        ageing: &mut FlowAgeing,
        now_ns: u64,
        epoch: u32,
    ) -> Result<AgedFlows, DatapathError> {
        let entries = self.flows.entries()?;
        let plan = ageing.look(&entries, self.flows.entries_max, now_ns, epoch);
        let mut aged = AgedFlows {
            kept: entries.len() as u64,
            wants_checkpoint: plan.wants_checkpoint,
            ..AgedFlows::default()
        };
        for victim in plan.victims {
            if self.flows.remove(&victim.key)? {
                aged.note(&victim);
            }
        }
        let entries = self.unconfirmed.entries()?;
        aged.kept += entries.len() as u64;
        for victim in ageing.look_at_unconfirmed(&entries, now_ns, epoch) {
            if self.unconfirmed.remove(&victim.key)? {
                aged.note(&victim);
            }
        }
        Ok(aged)
    }
}

/// A map of connections.
struct FlowMap {
    name: &'static str,
    map: HashMap<MapData, FlowKey, FlowRecord>,
    entries_max: u32,
}

impl FlowMap {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, DatapathError> {
        use aya::maps::IterableMap as _;

        let map: HashMap<MapData, FlowKey, FlowRecord> = take(ebpf, name)?;
        let entries_max = map.map().info().map_err(failed("inspect", name))?.max_entries();
        Ok(Self { name, map, entries_max })
    }

    fn entries(&self) -> Result<Vec<(FlowKey, FlowRecord)>, DatapathError> {
        use aya::maps::IterableMap as _;

        walk::entries(self.map.map().fd().as_fd(), self.entries_max)
            .map_err(|source| DatapathError::Walk { map: self.name, source })
    }

    /// `false` if the entry was not there: a program was faster.
    fn remove(&mut self, key: &FlowKey) -> Result<bool, DatapathError> {
        match self.map.remove(key) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(MapError::SyscallError(e)) if is_absent(&e.io_error) => Ok(false),
            Err(source) => Err(failed("remove from", self.name)(source)),
        }
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

fn failed(action: &'static str, map: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { action, map, source: Box::new(source) }
}

fn take<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, DatapathError> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| DatapathError::Missing { kind: "map", name: name.to_owned() })?;
    M::try_from(map).map_err(failed("use", name))
}
