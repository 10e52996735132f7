//! The maps of an instance, from the daemon's side.

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf};
use colo_proxy_common::flow::{known, state};
use colo_proxy_common::record::{Counters, EVENTS_LEN, Flow, FlowKey, LAYOUT_VERSION, Settings};

use super::age::{self, AgeLimits, Aged};
use super::{DatapathError, Events, InstanceDir};

/// All maps that are pinned, by their names.
pub(super) const NAMES: &[&str] =
    &["settings", "counters", "flows", "unconfirmed", "half_open", "events", "scratch", "xsks"];

/// Name, octets of a key, octets of a value.
const SHAPES: &[(&str, usize, usize)] = &[
    ("events", 0, 0),
    ("settings", 4, size_of::<Settings>()),
    ("counters", 4, size_of::<Counters>()),
    ("flows", size_of::<FlowKey>(), size_of::<Flow>()),
    ("unconfirmed", size_of::<FlowKey>(), size_of::<Flow>()),
    ("half_open", size_of::<FlowKey>(), size_of::<Flow>()),
];

pub(super) struct Maps {
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counters>,
    flows: HashMap<MapData, FlowKey, Flow>,
    half_open: HashMap<MapData, FlowKey, Flow>,
    flows_max: u32,
    events: Option<Events>,
}

/// aya's arrays have no `Debug`.
impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").field("flows_max", &self.flows_max).finish_non_exhaustive()
    }
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let flows: HashMap<MapData, FlowKey, Flow> = take(ebpf, "flows")?;
        let flows_max = map_info(&flows, "flows")?.max_entries();
        let ring: RingBuf<MapData> = take(ebpf, "events")?;
        Ok(Self {
            settings: take(ebpf, "settings")?,
            counters: take(ebpf, "counters")?,
            flows,
            half_open: take(ebpf, "half_open")?,
            flows_max,
            events: Some(Events::new(ring)),
        })
    }

    pub(super) fn set_settings(&mut self, settings: &Settings) -> Result<(), DatapathError> {
        self.settings.set(0, settings, 0).map_err(failed("write", "settings"))
    }

    pub(super) fn counters(&self) -> Result<Counters, DatapathError> {
        let mut sum = Counters::default();
        let values = self.counters.get(&0, 0).map_err(failed("read", "counters"))?;
        for value in values.iter() {
            sum.add(value);
        }
        Ok(sum)
    }

    pub(super) fn flows(&self) -> impl Iterator<Item = (FlowKey, Flow)> + '_ {
        // Entries that come and go can send the walk back to the start; it ends all the same.
        self.flows.iter().flatten().take(self.flows_max as usize)
    }

    pub(super) fn knows(&self, key: &FlowKey) -> bool {
        self.flows.get(key, 0).is_ok_and(|flow| flow.state != state::REOPENING)
            || self
                .half_open
                .get(key, 0)
                .is_ok_and(|flow| flow.known & known::OFFSET != 0 && flow.state != state::REOPENING)
    }

    pub(super) fn insert_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), DatapathError> {
        self.flows.insert(key, flow, 0).map_err(failed("write", "flows"))
    }

    pub(super) fn half_open(&self) -> impl Iterator<Item = (FlowKey, Flow)> + '_ {
        self.half_open.iter().flatten().take(self.flows_max as usize)
    }

    pub(super) fn flows_max(&self) -> u32 {
        self.flows_max
    }

    pub(super) fn take_events(&mut self) -> Option<Events> {
        self.events.take()
    }

    pub(super) fn age_flows(
        &mut self,
        now_ns: u64,
        epoch: u32,
        limits: &AgeLimits,
    ) -> Result<Aged, DatapathError> {
        let entries: Vec<_> = self.flows().collect();
        let victims = age::victims(&entries, self.flows_max, now_ns, epoch, limits);
        let mut aged = Aged { kept: entries.len() as u64, ..Aged::default() };
        for victim in victims {
            match self.flows.remove(&victim.key) {
                Ok(()) => aged.note(&victim),
                // Somebody was faster.
                Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(e)) if is_absent(&e.io_error) => {}
                Err(source) => return Err(failed("age", "flows")(source)),
            }
        }
        Ok(aged)
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

fn map_info(
    map: &HashMap<MapData, FlowKey, Flow>,
    name: &'static str,
) -> Result<MapInfo, DatapathError> {
    use aya::maps::IterableMap as _;
    map.map().info().map_err(failed("inspect", name))
}

/// The settings of a dead daemon whose maps can be used again: same layout, same network
/// namespace. The pins of any other are removed, so that loading creates the maps anew; programs
/// that are still attached keep the old ones until they are replaced.
pub(super) fn leftover(
    dir: &InstanceDir,
    netns_cookie: u64,
) -> Result<Option<Settings>, DatapathError> {
    if !dir.map("settings").exists() {
        dir.remove_maps(NAMES)?;
        return Ok(None);
    }
    let settings = read_settings(dir);
    if let Some(settings) = settings
        && settings.layout_version == LAYOUT_VERSION
        && settings.netns_cookie == netns_cookie
        && SHAPES.iter().all(|shape| has_shape(dir, shape))
    {
        return Ok(Some(settings));
    }
    log::warn!(
        "{}: a leftover of another version or of another network namespace; its connections are \
         forgotten",
        dir.path().display()
    );
    if settings.is_none_or(|settings| settings.netns_cookie != netns_cookie) {
        dir.remove_links_except(&[])?;
    }
    dir.remove_maps(NAMES)?;
    Ok(None)
}

/// There are settings of a dead daemon, and they speak of another network namespace.
pub(super) fn is_of_another_namespace(dir: &InstanceDir, netns_cookie: u64) -> bool {
    read_settings(dir).is_some_and(|settings| settings.netns_cookie != netns_cookie)
}

fn read_settings(dir: &InstanceDir) -> Option<Settings> {
    if !has_shape(dir, &("settings", 4, size_of::<Settings>())) {
        return None;
    }
    let map = Map::from_map_data(MapData::from_pin(dir.map("settings")).ok()?).ok()?;
    Array::<_, Settings>::try_from(map).ok()?.get(&0, 0).ok()
}

fn has_shape(dir: &InstanceDir, (name, key_len, value_len): &(&str, usize, usize)) -> bool {
    MapInfo::from_pin(dir.map(name)).is_ok_and(|info| {
        // A ring has no values, but we map its memory and must know how much of it there is.
        (*name != "events" || info.max_entries() as usize == EVENTS_LEN)
            && info.key_size() as usize == *key_len
            && info.value_size() as usize == *value_len
    })
}
