//! The leftover of a dead daemon: it is used again, removed, or left alone.

use aya::maps::{Array, Map, MapData, MapInfo};
use colo_proxy_common::record::{
    EVENTS_LEN, FlowKey, FlowRecord, LAYOUT_VERSION, ProgramCounters, Settings, mode,
};

use super::{DatapathError, InstanceDir, maps};

/// Name, length of a key in bytes, length of a value in bytes.
const SHAPES: &[(&str, usize, usize)] = &[
    ("events", 0, 0),
    ("settings", 4, size_of::<Settings>()),
    ("counters", 4, size_of::<ProgramCounters>()),
    ("flows", size_of::<FlowKey>(), size_of::<FlowRecord>()),
    ("unconfirmed", size_of::<FlowKey>(), size_of::<FlowRecord>()),
    ("half_open", size_of::<FlowKey>(), size_of::<FlowRecord>()),
];

/// The settings of a dead daemon, if its maps can be used again: they have the same layout, and belong
/// to the same network namespace.
///
/// Otherwise the pins of the maps are removed, so that loading creates new maps. Programs that are still
/// attached use the old maps until they are replaced. That costs a checkpoint. The exception is maps of
/// another layout for a guest after a failover. That guest is the service: its connections would break,
/// and no checkpoint could repair them.
pub(super) fn take(
    dir: &InstanceDir,
    netns_cookie: u64,
) -> Result<Option<Settings>, DatapathError> {
    if !dir.map("settings").exists() {
        dir.remove_maps(maps::NAMES)?;
        return Ok(None);
    }
    let settings = read_settings(dir);
    let here = settings.filter(|settings| settings.netns_cookie == netns_cookie);
    if let Some(settings) = here {
        if settings.layout_version == LAYOUT_VERSION
            && SHAPES.iter().all(|shape| has_shape(dir, shape))
        {
            return Ok(Some(settings));
        }
        if settings.mode == mode::FAILED_OVER && dir.has_live_link() {
            return Err(DatapathError::OtherLayout {
                path: dir.path().to_owned(),
                found: settings.layout_version,
            });
        }
    }
    log::warn!(
        "{}: a dead daemon has left maps of another version or of another network namespace. They \
         cannot be used, so the translations of its connections are lost, and a checkpoint is needed",
        dir.path().display()
    );
    if here.is_none() {
        dir.remove_links_except(&[])?;
    }
    dir.remove_maps(maps::NAMES)?;
    Ok(None)
}

/// There are settings of a dead daemon, and they belong to another network namespace.
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
        // A ring has no values. But the daemon maps its memory, and has to know its size.
        (*name != "events" || info.max_entries() as usize == EVENTS_LEN)
            && info.key_size() as usize == *key_len
            && info.value_size() as usize == *value_len
    })
}
