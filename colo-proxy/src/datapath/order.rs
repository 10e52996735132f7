//! The order of filters on one TAP, which is the order in which they were started.
//!
//! A new filter goes to the tail. That is not enough if a TAP comes back after its guest was restarted:
//! every filter attaches to the new TAP by itself, and in no order. So each filter has its place in its
//! `filter` record, and looks for the filter that has to come next behind it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapInfo};
use aya::programs::tc::SchedClassifierLink;
use colo_proxy_common::filter::FilterRecord;
use colo_proxy_common::record::LAYOUT_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::time::{ClockId, clock_gettime};

use super::attachment::Hook;
use super::{DatapathError, InstanceDir, netns, pin, tc_link};

/// The name of the map with a filter's record.
pub(super) const MAP: &str = "filter";

/// A filter's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct FilterOrder {
    pub(super) position_ns: u64,
    pub(super) netns_cookie: u64,
}

impl FilterOrder {
    /// The place of a filter that died, or the last place.
    pub(super) fn of(leftover: Option<&FilterRecord>, netns_cookie: u64) -> Self {
        let position_ns = leftover.map_or_else(now_ns, |filter| filter.position_ns);
        Self { position_ns, netns_cookie }
    }

    pub(super) fn in_record(filter: &FilterRecord) -> Self {
        Self { position_ns: filter.position_ns, netns_cookie: filter.netns_cookie }
    }

    /// Takes the lock. While it is taken no other filter looks for its place.
    pub(super) fn lock(dir: &InstanceDir) -> Result<Flock<File>, DatapathError> {
        lock(dir.path().parent().unwrap_or(dir.path()))
    }

    /// The link of the next filter behind this one on the way to the guest, among those on `ifindex`.
    pub(super) fn successor(
        self,
        own: &InstanceDir,
        ifindex: u32,
        hook: Hook,
    ) -> Option<SchedClassifierLink> {
        let root = own.path().parent()?;
        let mut behind: Vec<(u64, SchedClassifierLink)> = fs::read_dir(root)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path != own.path())
            .filter_map(|path| {
                let filter = read(&path.join(MAP))?;
                let is_behind = filter.netns_cookie == self.netns_cookie
                    && filter.position_ns > self.position_ns;
                is_behind.then_some(())?;
                Some((filter.position_ns, link_on(&path, ifindex, hook)?))
            })
            .collect();
        behind.sort_by_key(|(position_ns, _)| *position_ns);
        behind.into_iter().next().map(|(_, link)| link)
    }
}

/// The link of the filter in `dir`, if it is on `ifindex`.
fn link_on(dir: &Path, ifindex: u32, hook: Hook) -> Option<SchedClassifierLink> {
    let names = match hook {
        Hook::Egress => ["link_colo_filter_tx", "link_colo_rewrite_tx"],
        Hook::Ingress => ["link_colo_filter_rx", "link_colo_rewrite_rx"],
    };
    // A link that cannot be read counts as none: its filter is about to end.
    names.iter().find_map(|name| tc_link::on_interface(&dir.join(name), ifindex).ok().flatten())
}

/// The record that a dead filter has left, if it has this version and this network namespace.
pub(super) fn leftover(dir: &InstanceDir, netns_cookie: u64) -> Option<FilterRecord> {
    read(&dir.map(MAP)).filter(|filter| filter.netns_cookie == netns_cookie)
}

/// Removes a record that cannot be used, to make room for a new one.
pub(super) fn put_away(dir: &InstanceDir) -> Result<(), DatapathError> {
    if dir.map(MAP).exists() {
        log::warn!(
            "{}: a dead filter has left a record of another version or of another network namespace. \
             It cannot be used and is replaced",
            dir.path().display()
        );
    }
    dir.remove_maps(&[MAP])
}

/// The record of the filter whose map is pinned at `path`.
pub(super) fn read(path: &Path) -> Option<FilterRecord> {
    let info = MapInfo::from_pin(path).ok()?;
    if info.value_size() as usize != size_of::<FilterRecord>() {
        return None;
    }
    let map = Map::from_map_data(MapData::from_pin(path).ok()?).ok()?;
    let filter = Array::<_, FilterRecord>::try_from(map).ok()?.get(&0, 0).ok()?;
    (filter.layout_version == LAYOUT_VERSION).then_some(filter)
}

/// Writes the record of a new filter, for its programs and for other filters. Refuses a token that
/// another filter has: each would take the other's injected frames for its own. The lock lasts from the
/// look to the record, so that of two filters that start at once one sees the other.
pub(super) fn write(ebpf: &mut Ebpf, filter: &FilterRecord) -> Result<(), DatapathError> {
    let root = root()?;
    let _lock = lock(&root)?;
    let is_other = |found: &FilterRecord| found.position_ns != filter.position_ns;
    if tokens(&root, filter.netns_cookie, is_other).contains(&filter.token) {
        let why = format!("another filter has the token {:#x}; start this one again", filter.token);
        let source = std::io::Error::new(std::io::ErrorKind::AddrInUse, why);
        return Err(DatapathError::Directory { action: "add a filter to", path: root, source });
    }
    update(ebpf, filter)
}

/// Changes the record of a filter.
pub(super) fn update(ebpf: &mut Ebpf, filter: &FilterRecord) -> Result<(), DatapathError> {
    let failed =
        |source| DatapathError::Map { action: "write", map: MAP, source: Box::new(source) };
    let map = ebpf
        .map_mut(MAP)
        .ok_or_else(|| DatapathError::Missing { kind: "map", name: MAP.to_owned() })?;
    Array::try_from(map).and_then(|mut map| map.set(0, *filter, 0)).map_err(failed)
}

/// The tokens of the filters of this network namespace, dead ones too, without that of `own`.
pub(super) fn taken_tokens(own: &str) -> Result<Vec<u32>, DatapathError> {
    let (root, cookie) = (root()?, netns::cookie()?);
    let position_ns = read(&root.join(own).join(MAP)).map(|filter| filter.position_ns);
    Ok(tokens(&root, cookie, |found| Some(found.position_ns) != position_ns))
}

fn tokens(root: &Path, netns_cookie: u64, wanted: impl Fn(&FilterRecord) -> bool) -> Vec<u32> {
    // The directory does not exist before the first filter starts.
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let filters = entries.filter_map(|entry| read(&entry.path().join(MAP)));
    filters
        .filter(|found| found.netns_cookie == netns_cookie && wanted(found))
        .map(|found| found.token)
        .collect()
}

/// The directory in which [`InstanceDir`] makes one for every filter.
fn root() -> Result<PathBuf, DatapathError> {
    Ok(pin::find_bpffs()?.join("colo-proxy"))
}

fn lock(root: &Path) -> Result<Flock<File>, DatapathError> {
    let locked = File::open(root).and_then(|file| {
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    });
    locked.map_err(|source| DatapathError::Directory {
        action: "lock",
        path: root.to_owned(),
        source,
    })
}

/// The time for a filter's place. This clock goes on while the host sleeps, and no two filters start in
/// the same nanosecond.
fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
