//! A mirror or a redirector in the kernel: its programs on the guest's TAP and on its gates.
//!
//! Programs, links and maps are pinned as an instance's are. After the death of a redirector's process
//! its programs still take the frames away, as QEMU's redirector does without a peer. Those of a mirror
//! still let them pass. The next process with the same id takes over the links in their places.

use aya::Ebpf;
use aya::maps::PerCpuArray;
use colo_proxy_common::filter::{FilterCounters, FilterRecord, queue, token};
use colo_proxy_common::record::LAYOUT_VERSION;

use super::attached::Attached;
use super::attachment::{Attachment, AttachmentPlace, Hook};
use super::links::ProgramLinks;
use super::order::{self, FilterOrder};
use super::{
    DatapathError, InstanceDir, TranslationLimits, load_object, maps, netns, pin, realtime,
};

const PINNED: &[&str] = &[order::MAP, "filter_counters"];
const OUT: &[Attachment] =
    &[Attachment::new("colo_filter_guard", AttachmentPlace::OutputGate, Hook::Egress)];
const IN: &[Attachment] = &[
    Attachment::new("colo_filter_guard", AttachmentPlace::InputGate, Hook::Egress),
    Attachment::new("colo_filter_in", AttachmentPlace::InputGate, Hook::Ingress),
];
const RX: Attachment = Attachment::new("colo_filter_rx", AttachmentPlace::Netdev, Hook::Ingress);
const TX: Attachment = Attachment::new("colo_filter_tx", AttachmentPlace::Netdev, Hook::Egress);

/// What [`FilterPath::attach`] attaches, and where.
#[derive(Clone, Copy, Debug)]
pub struct FilterPlan<'a> {
    /// The directory under bpffs.
    pub id: &'a str,
    /// `MIRROR` or `REDIRECTOR` of [`colo_proxy_common::filter::kind`].
    pub kind: u32,
    /// Bits of [`queue`].
    pub queue: u32,
    /// The guest's TAP.
    pub netdev_ifindex: u32,
    /// The gate to `outdev`.
    pub out_gate_ifindex: Option<u32>,
    /// The gate from `indev`.
    pub in_gate_ifindex: Option<u32>,
}

/// The attached programs of one filter.
#[derive(Debug)]
pub struct FilterPath {
    ebpf: Ebpf,
    record: FilterRecord,
    in_gate_ifindex: Option<u32>,
    links: ProgramLinks,
    taken_over: bool,
}

impl FilterPath {
    /// Attaches the programs at the tail of the TAP's filters. If a filter with this id has died, it
    /// takes over that filter's programs in their place.
    pub fn attach(plan: &FilterPlan<'_>) -> Result<Self, DatapathError> {
        realtime::refuse()?;
        let dir = InstanceDir::create(&pin::find_bpffs()?, plan.id)?;
        let netns_cookie = netns::cookie()?;
        let leftover = order::leftover(&dir, netns_cookie);
        if leftover.is_none() {
            dir.remove_links_except(&[])?;
            order::put_away(&dir)?;
            dir.remove_maps(PINNED)?;
        }
        let order = FilterOrder::of(leftover.as_ref(), netns_cookie);
        let mut ebpf = load_object(&dir, PINNED, &smallest())?;
        let record = FilterRecord {
            layout_version: LAYOUT_VERSION,
            kind: plan.kind,
            queue: plan.queue,
            netdev_ifindex: plan.netdev_ifindex,
            out_gate_ifindex: plan.out_gate_ifindex.unwrap_or(0),
            token: token(plan.out_gate_ifindex.or(plan.in_gate_ifindex).unwrap_or(0)),
            position_ns: order.position_ns,
            netns_cookie,
        };
        // Before a program is attached: without a record it drops everything. The programs of a dead
        // process get the new gates from the record, too.
        order::write(&mut ebpf, &record)?;
        let mut path = Self {
            ebpf,
            record,
            in_gate_ifindex: plan.in_gate_ifindex,
            links: ProgramLinks::new(dir, true, Some(order)),
            taken_over: leftover.is_some(),
        };
        path.attach_all()?;
        Ok(path)
    }

    fn attach_all(&mut self) -> Result<(), DatapathError> {
        let all = self.attachments();
        for attachment in &all {
            self.attach_one(attachment)?;
        }
        // No loaded program needs these maps.
        for name in maps::NAMES {
            drop(self.ebpf.take_map(name));
        }
        self.links.remove_others(&all, &[])
    }

    /// The gates come first, so that no frame of the guest arrives at an unguarded gate.
    fn attachments(&self) -> Vec<Attachment> {
        let mut all = Vec::new();
        if self.record.out_gate_ifindex != 0 {
            all.extend(OUT);
        }
        if self.in_gate_ifindex.is_some() {
            all.extend(IN);
        }
        all.extend((self.record.queue & queue::RX != 0).then_some(RX));
        all.extend((self.record.queue & queue::TX != 0).then_some(TX));
        all
    }

    fn attach_one(&mut self, attachment: &Attachment) -> Result<(), DatapathError> {
        let ifindex = match attachment.place {
            AttachmentPlace::Netdev => self.record.netdev_ifindex,
            AttachmentPlace::OutputGate => self.record.out_gate_ifindex,
            AttachmentPlace::InputGate => self.in_gate_ifindex.unwrap_or(0),
            // They belong to the kernel lane of a pair; a filter has none.
            AttachmentPlace::Tunnel | AttachmentPlace::EvenGate | AttachmentPlace::OddGate => 0,
        };
        self.links.attach(&mut self.ebpf, attachment, ifindex)
    }

    /// The guest's TAP has been created anew (guest restart): attaches the programs to it.
    pub fn set_netdev(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.record.netdev_ifindex = ifindex;
        order::update(&mut self.ebpf, &self.record)?;
        for attachment in self.attachments().iter().filter(|a| a.place == AttachmentPlace::Netdev) {
            self.attach_one(attachment)?;
        }
        Ok(())
    }

    /// The leftover under this id is on a TAP of another network namespace. This filter must not take
    /// it over.
    pub fn is_foreign(id: &str) -> bool {
        let Ok(bpffs) = pin::find_bpffs() else { return false };
        let Ok(dir) = InstanceDir::existing(&bpffs, id) else { return false };
        let Ok(cookie) = netns::cookie() else { return false };
        order::read(&dir.map(order::MAP)).is_some_and(|left| left.netns_cookie != cookie)
            && dir.has_live_link()
    }

    /// The tokens that a filter with this id must not have, because others have them.
    pub fn taken_tokens(id: &str) -> Result<Vec<u32>, DatapathError> {
        order::taken_tokens(id)
    }

    /// A filter with this id had died, and this one has taken its place.
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }

    /// The programs' counters, summed over the processors.
    pub fn counters(&self) -> Result<FilterCounters, DatapathError> {
        let name = "filter_counters";
        let failed =
            |source| DatapathError::Map { action: "read", map: name, source: Box::new(source) };
        let map = self
            .ebpf
            .map(name)
            .ok_or_else(|| DatapathError::Missing { kind: "map", name: name.to_owned() })?;
        let map: PerCpuArray<_, FilterCounters> = map.try_into().map_err(failed)?;
        let mut sum = FilterCounters::default();
        map.get(&0, 0).map_err(failed)?.iter().for_each(|one| sum.add(one));
        Ok(sum)
    }

    /// The attached programs.
    pub fn programs(&self) -> &[Attached] {
        self.links.attached()
    }

    /// The clean end; the counters stay.
    pub fn detach(&mut self) -> Result<(), DatapathError> {
        self.links.detach()
    }
}

/// The smallest sizes: the object also has the maps of other programs, which exist for a moment.
fn smallest() -> TranslationLimits {
    TranslationLimits {
        flows_max: 1,
        unconfirmed_max: 1,
        half_open_max: 1,
        ..TranslationLimits::default()
    }
}
