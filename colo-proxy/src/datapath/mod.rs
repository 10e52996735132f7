//! The daemon's side of the kernel programs: it loads them, attaches them to the guest's TAP and to
//! the gates, and controls and watches them through maps.
//!
//! Programs, links and maps are pinned under `<bpffs>/colo-proxy/<instance>/` ([`pin`]), for three
//! reasons:
//!
//! * An operator sees them (`bpftool map dump pinned …/flows`).
//! * When the daemon dies, the guest's network stays in the configured state ([`OnDeath`]).
//! * The next daemon takes over the leftover of the dead one. The links get the new programs in one
//!   step. The maps, with the translations of live connections, are used again.
//!
//! So a guest that has survived a failover can become the primary of the next pair: its connections
//! stay translated, although the programs are on other hooks. Maps of another layout are replaced,
//! unless a guest after a failover depends on them ([`DatapathError::OtherLayout`]).
//!
//! Connections are in three maps: in `half_open` during the opening, in `unconfirmed` when their
//! offset is known, in `flows` when the guest has sent something of its own. The kernel evicts entries
//! from the first two, so a flood evicts only these. [`Datapath::age_flows`] removes entries from the
//! third. [`Datapath::export_offsets`] and [`Datapath::import_offsets`] bring the translated
//! connections from one pair to the next.
//!
//! Only one daemon may work on an instance. The caller of [`Datapath::attach`] has to make sure of that
//! with a lock. So everything that is found here is a leftover.

pub mod af_xdp;
mod age;
mod attached;
mod attachment;
pub mod capture;
mod detach;
mod error;
mod events;
pub mod filter;
mod lane;
mod leftover;
mod limits;
mod links;
mod maps;
mod netns;
mod offsets;
mod order;
pub mod pin;
mod primary;
mod realtime;
mod rewriter;
mod secondary;
mod settings;
mod syscall;
mod tc_link;
mod walk;

use std::path::Path;
use std::time::Duration;

use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use colo_proxy_common::filter::FilterRecord;
use colo_proxy_common::record::{FlowKey, FlowRecord, ProgramCounters, Settings};
use colo_proxy_engine::pair::{OnDeath, ProgramMode, Role};

pub use age::{AgeLimits, AgedFlows, FlowsByClass};
pub use attached::Attached;
pub use attachment::{Attachment, AttachmentPlace, Hook};
pub use error::DatapathError;
pub use events::{DatapathEvent, DatapathEvents};
pub use lane::LanePlan;
pub use limits::TranslationLimits;
pub use netns::cookie as netns_cookie;
pub use offsets::ImportedOffsets;
pub use pin::InstanceDir;
pub use rewriter::RewriterPlan;

use age::FlowAgeing;
use links::ProgramLinks;
use maps::InstanceMaps;
use order::FilterOrder;
use settings::{mode_of_word, mode_word, random_mark, settings_for};

/// The kernel programs, as built by `cargo xtask build-ebpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("colo-proxy.bpf.o");

/// aya's numbers of log levels. The verifier removes log calls above the level.
const LOG_OFF: u8 = 0;
const LOG_DEBUG: u8 = 4;

/// What [`Datapath::attach`] attaches, and where.
#[derive(Clone, Debug)]
pub struct DatapathPlan<'a> {
    /// Name of the guest: the directory under bpffs.
    pub instance: &'a str,
    pub role: Role,
    /// The first mode. A leftover that is taken over stays in its own mode.
    pub mode: ProgramMode,
    /// The guest's TAP.
    pub netdev_ifindex: u32,
    pub output_gate_ifindex: u32,
    pub input_gate_ifindex: u32,
    pub on_death: OnDeath,
    pub limits: TranslationLimits,
}

/// The set of programs: that of one half of the pair, or that of a rewriter that stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProgramSet {
    Half(Role),
    Rewriter,
}

impl ProgramSet {
    fn attachments(self) -> &'static [Attachment] {
        match self {
            Self::Half(Role::Primary) => primary::ATTACHMENTS,
            Self::Half(Role::Secondary) => secondary::ATTACHMENTS,
            Self::Rewriter => rewriter::ATTACHMENTS,
        }
    }

    fn is_primary(self) -> bool {
        self == Self::Half(Role::Primary)
    }
}

/// The attached programs of one guest. Dropping it closes everything that is not pinned.
/// [`Datapath::detach`] is the clean end.
#[derive(Debug)]
pub struct Datapath {
    part: ProgramSet,
    ebpf: Ebpf,
    maps: InstanceMaps,
    settings: Settings,
    /// The tunnel of the kernel lane; 0 without one.
    tunnel_ifindex: u32,
    ageing: FlowAgeing,
    ageing_interval: Duration,
    links: ProgramLinks,
    taken_over: bool,
}

impl Datapath {
    /// Loads the programs and attaches them to the interfaces of `plan`, or puts them into the links of
    /// a dead daemon. The network namespace is that of the calling thread.
    pub fn attach(plan: &DatapathPlan<'_>) -> Result<Self, DatapathError> {
        Self::attach_in(plan, &pin::find_bpffs()?)
    }

    /// The same with a given bpffs.
    pub fn attach_in(plan: &DatapathPlan<'_>, bpffs: &Path) -> Result<Self, DatapathError> {
        realtime::refuse()?;
        let dir = InstanceDir::create(bpffs, plan.instance)?;
        Self::attach_part(ProgramSet::Half(plan.role), plan, random_mark(), dir, None)
    }

    fn attach_part(
        part: ProgramSet,
        plan: &DatapathPlan<'_>,
        mark: u32,
        dir: InstanceDir,
        filter: Option<FilterRecord>,
    ) -> Result<Self, DatapathError> {
        let cookie = netns::cookie()?;
        let leftover = leftover::take(&dir, cookie)?;
        if filter.is_some() && order::leftover(&dir, cookie).is_none() {
            order::put_away(&dir)?;
        }
        let mut pinned = maps::NAMES.to_vec();
        pinned.extend(filter.map(|_| order::MAP));
        let mut ebpf = load_object(&dir, &pinned, &plan.limits)?;
        let mut maps = InstanceMaps::take(&mut ebpf)?;
        if let Some(record) = &filter {
            order::write(&mut ebpf, record)?;
        }
        let mut settings = settings_for(plan, cookie, leftover.as_ref());
        settings.mark = mark;
        if part.is_primary() && leftover.is_some() && !maps.flows()?.is_empty() {
            // The leftover was a secondary's, and its guest has survived.
            settings.translates = 1;
        }
        if leftover.is_none() {
            // Before a program is attached: without settings it drops everything.
            maps.set_settings(&settings)?;
        }
        let mut datapath = Self {
            part,
            ebpf,
            maps,
            settings,
            tunnel_ifindex: 0,
            ageing: FlowAgeing::new(plan.limits.age),
            ageing_interval: plan.limits.ageing_interval,
            links: ProgramLinks::new(
                dir,
                plan.on_death == OnDeath::Hold,
                filter.as_ref().map(FilterOrder::in_record),
            ),
            taken_over: leftover.is_some(),
        };
        datapath.attach_all()?;
        // An earlier guest may have used other addresses. Only now: the programs of the dead daemon
        // went on noting addresses until ours replaced them.
        datapath.maps.forget_speakers();
        Ok(datapath)
    }

    /// Attaches to the gates first, so that no frame of the guest arrives at an unguarded gate. The
    /// settings of a leftover change after that: its programs still send frames to gates that are gone.
    fn attach_all(&mut self) -> Result<(), DatapathError> {
        let all = self.part.attachments();
        for attachment in all.iter().filter(|a| a.place != AttachmentPlace::Netdev) {
            self.attach_one(attachment)?;
        }
        let settings = self.settings;
        self.maps.set_settings(&settings)?;
        for attachment in all.iter().filter(|a| a.place == AttachmentPlace::Netdev) {
            self.attach_one(attachment)?;
        }
        // `capture::choose` replaces or removes this link, immediately after.
        self.links.remove_others(all, &[af_xdp::LINK_NAME])
    }

    fn attach_one(&mut self, attachment: &Attachment) -> Result<(), DatapathError> {
        let ifindex = match attachment.place {
            AttachmentPlace::Netdev => self.settings.netdev_ifindex,
            AttachmentPlace::OutputGate => self.settings.output_gate_ifindex,
            AttachmentPlace::InputGate => self.settings.input_gate_ifindex,
            AttachmentPlace::Tunnel => self.tunnel_ifindex,
            AttachmentPlace::EvenGate => self.settings.return_gate_ifindex[0],
            AttachmentPlace::OddGate => self.settings.return_gate_ifindex[1],
        };
        self.links.attach(&mut self.ebpf, attachment, ifindex)
    }

    /// The guest's TAP has been created anew (guest restart): attaches the programs to it.
    pub fn set_netdev(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.settings.netdev_ifindex = ifindex;
        let settings = self.settings;
        self.maps.set_settings(&settings)?;
        for attachment in
            self.part.attachments().iter().filter(|a| a.place == AttachmentPlace::Netdev)
        {
            self.attach_one(attachment)?;
        }
        Ok(())
    }

    /// The leftover under this name belongs to a guest of another network namespace. This daemon must
    /// not take it over.
    pub fn is_foreign(instance: &str) -> bool {
        let Ok(bpffs) = pin::find_bpffs() else { return false };
        let Ok(dir) = InstanceDir::existing(&bpffs, instance) else { return false };
        let Ok(cookie) = netns::cookie() else { return false };
        leftover::is_of_another_namespace(&dir, cookie) && dir.has_live_link()
    }

    /// A dead daemon has left programs under this name that are on a TAP, whose guest may live.
    pub fn has_leftover(instance: &str) -> bool {
        let Ok(bpffs) = pin::find_bpffs() else { return false };
        InstanceDir::existing(&bpffs, instance).is_ok_and(|dir| dir.has_live_link())
    }

    /// A leftover of a dead daemon was taken over, with its mode and its epoch.
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }

    pub fn mode(&self) -> ProgramMode {
        mode_of_word(self.settings.mode)
    }

    /// Changes the mode of the programs, from the next frame on.
    pub fn set_mode(&mut self, mode: ProgramMode) -> Result<(), DatapathError> {
        self.change(|settings| settings.mode = mode_word(mode))
    }

    fn change(&mut self, change: impl FnOnce(&mut Settings)) -> Result<(), DatapathError> {
        let mut settings = self.settings;
        change(&mut settings);
        self.maps.set_settings(&settings)?;
        self.settings = settings;
        Ok(())
    }

    /// The number of checkpoints that have loaded state into this guest.
    pub fn epoch(&self) -> u32 {
        self.settings.epoch
    }

    /// A checkpoint has made both guests equal: offsets learnt before it become void.
    pub fn bump_epoch(&mut self) -> Result<u32, DatapathError> {
        self.change(|settings| settings.epoch = settings.epoch.wrapping_add(1))?;
        Ok(self.settings.epoch)
    }

    /// The last checkpoint failed: the offsets that it made void are valid again. Allowed only if no
    /// frame has gone through the programs since.
    pub fn restore_epoch(&mut self) -> Result<(), DatapathError> {
        self.change(|settings| settings.epoch = settings.epoch.wrapping_sub(1))
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The programs' counters, summed over the processors.
    pub fn counters(&self) -> Result<ProgramCounters, DatapathError> {
        self.maps.counters()
    }

    /// The translated connections. One that comes or goes during the call may be missing.
    pub fn flows(&self) -> impl Iterator<Item = (FlowKey, FlowRecord)> + '_ {
        self.maps.flows().unwrap_or_default().into_iter()
    }

    /// Adds a connection.
    pub fn insert_flow(&mut self, key: &FlowKey, flow: &FlowRecord) -> Result<(), DatapathError> {
        self.maps.insert_flow(key, flow)
    }

    /// The programs stay after the daemon, unless it detaches them.
    pub fn is_pinned(&self) -> bool {
        self.links.are_pinned()
    }

    /// Some connection that is not over would break without translation.
    pub fn has_live_flows(&self) -> bool {
        self.flows().any(|(_, flow)| age::needs_translation(&flow, self.settings.epoch))
    }

    /// The connections in the middle of their opening. One that comes or goes during the call may be
    /// missing.
    pub fn half_open(&self) -> impl Iterator<Item = (FlowKey, FlowRecord)> + '_ {
        self.maps.half_open().unwrap_or_default().into_iter()
    }

    /// The number of connections that can be translated at once.
    pub fn flows_max(&self) -> u32 {
        self.maps.flows_max()
    }

    /// Removes the connections that are over, and the least useful ones if the table is nearly full.
    /// `now_ns` is `CLOCK_MONOTONIC`.
    pub fn age_flows(&mut self, now_ns: u64) -> Result<AgedFlows, DatapathError> {
        self.maps.age_flows(&mut self.ageing, now_ns, self.settings.epoch)
    }

    /// The time between two calls of [`Datapath::age_flows`].
    pub fn ageing_interval(&self) -> Duration {
        self.ageing_interval
    }

    /// The events of the programs. Take them once, and poll their file descriptor.
    pub fn take_events(&mut self) -> Option<DatapathEvents> {
        self.maps.take_events()
    }

    /// The log of the programs, if the daemon's log is at "debug". Take it once, poll its file
    /// descriptor, and flush it.
    pub fn take_log(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        EbpfLogger::init(&mut self.ebpf).ok()
    }

    /// The offset of this connection is known, or the connection is older than protection: its input
    /// is not parked any more. Ask when input to be parked has arrived, because the event with the
    /// offset may have come before it.
    pub fn knows(&self, key: &FlowKey) -> bool {
        self.maps.knows(key)
    }

    /// The attached programs.
    pub fn programs(&self) -> &[Attached] {
        self.links.attached()
    }

    /// The directory of all pins.
    pub fn dir(&self) -> &InstanceDir {
        self.links.dir()
    }

    /// The target for [`capture::choose`], to capture guest output by `AF_XDP` on `netdev`.
    pub fn xdp_target<'a>(
        &'a mut self,
        netdev: &'a str,
    ) -> Result<af_xdp::XdpTarget<'a>, DatapathError> {
        let name = "colo_xdp_capture";
        let program: &mut Xdp = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| DatapathError::Missing { kind: "program", name: name.to_owned() })?
            .try_into()
            .map_err(|source| DatapathError::Program { program: name, source: Box::new(source) })?;
        let ifindex = self.settings.netdev_ifindex;
        Ok(af_xdp::XdpTarget { netdev, ifindex, program, pins: self.links.dir().path() })
    }

    /// The clean end: the guest's network and bpffs are as if there had been no colo-proxy. A failure
    /// does not stop the rest; the first one is returned at the end.
    pub fn detach(mut self) -> Result<(), DatapathError> {
        self.links.detach()
    }
}

/// Loads the object. It uses the maps `pinned` that are in `dir` already, and pins the others there.
fn load_object(
    dir: &InstanceDir,
    pinned: &[&str],
    limits: &TranslationLimits,
) -> Result<Ebpf, DatapathError> {
    let log_level: u8 = if log::log_enabled!(log::Level::Debug) { LOG_DEBUG } else { LOG_OFF };
    let mut loader = EbpfLoader::new();
    loader.override_global("AYA_LOG_LEVEL", &log_level, true);
    for name in pinned {
        loader.map_pin_path(name, dir.map(name));
    }
    for (name, entries_max) in limits.sizes() {
        loader.map_max_entries(name, entries_max);
    }
    loader.load(OBJECT).map_err(|source| DatapathError::Load { source: Box::new(source) })
}
