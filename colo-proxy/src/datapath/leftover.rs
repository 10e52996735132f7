//! What a dead daemon left: used again, put away, or left alone.

use aya::maps::{Array, Map, MapData, MapInfo};
use colo_proxy_common::record::{
    EVENTS_LEN, FlowKey, FlowRecord, LAYOUT_VERSION, ProgramCounters, Settings, mode,
};

use super::{DatapathError, InstanceDir, maps};

/// Name, bytes of a key, bytes of a value.
const SHAPES: &[(&str, usize, usize)] = &[
    ("events", 0, 0),
    ("settings", 4, size_of::<Settings>()),
    ("counters", 4, size_of::<ProgramCounters>()),
    ("flows", size_of::<FlowKey>(), size_of::<FlowRecord>()),
    ("unconfirmed", size_of::<FlowKey>(), size_of::<FlowRecord>()),
    ("half_open", size_of::<FlowKey>(), size_of::<FlowRecord>()),
];

/// The settings of a dead daemon whose maps can be used again: same layout, same network
/// namespace.
///
/// The pins of any other are removed, so that loading creates the maps anew; programs that are
/// still attached keep the old ones until they are replaced. That costs a checkpoint. But not those
/// of another layout that hold a guest after a failover: it is the service, its connections would
/// break, and no checkpoint would mend them.
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
        "{}: a leftover of another version or of another network namespace; its connections are \
         forgotten",
        dir.path().display()
    );
    if here.is_none() {
        dir.remove_links_except(&[])?;
    }
    dir.remove_maps(maps::NAMES)?;
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
