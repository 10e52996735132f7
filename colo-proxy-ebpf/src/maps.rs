//! The maps, by the names under which they are pinned, and what every program does with them.

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use colo_proxy_common::lane::LaneCounters;
use colo_proxy_common::record::{
    EVENTS_LEN, EventRecord, FlowKey, FlowRecord, LAYOUT_VERSION, ProgramCounters, Settings,
};

use crate::parsed::Parsed;

// Sizes unless the daemon says otherwise (`datapath::TranslationLimits`).

/// Connections that are translated, and in which the guest has spoken. The kernel evicts none of
/// them; the daemon ages them.
const FLOWS_MAX: usize = 65_536;
/// Connections whose offset is known, and in which the guest has yet to speak: a flood of ACKs that
/// answer SYN/ACKs churns only these.
const UNCONFIRMED_MAX: usize = 16_384;
/// Connections that are being opened: a flood of SYNs churns only these.
const HALF_OPEN_MAX: usize = 16_384;

#[btf_map(name = "settings")]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<ProgramCounters, 1> = PerCpuArray::new();
#[btf_map(name = "flows")]
pub static FLOWS: HashMap<FlowKey, FlowRecord, FLOWS_MAX> = HashMap::new();
#[btf_map(name = "unconfirmed")]
pub static UNCONFIRMED: LruHashMap<FlowKey, FlowRecord, UNCONFIRMED_MAX> = LruHashMap::new();
#[btf_map(name = "half_open")]
pub static HALF_OPEN: LruHashMap<FlowKey, FlowRecord, HALF_OPEN_MAX> = LruHashMap::new();
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<EventRecord, EVENTS_LEN> = RingBuf::new();

/// What the daemon wants; `None`, counted, where it has not said so yet or speaks of another
/// layout. Nobody knows then what may pass, so nothing does.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    let settings = settings_if_any();
    if settings.is_none() {
        count(|c| &mut c.dropped_no_settings);
    }
    settings
}

/// The same, for a program that leaves it to the next one to drop the frame.
#[inline(always)]
pub fn settings_if_any() -> Option<&'static Settings> {
    SETTINGS.get(0).filter(|s| s.layout_version == LAYOUT_VERSION && s.mark != 0)
}

/// Adds one to a counter of this processor.
#[inline(always)]
pub fn count(counter: impl FnOnce(&mut ProgramCounters) -> &mut u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: a per-CPU slot; TC programs are not preempted by another one on their processor
        // (softirq context), and the daemon only reads.
        let counter = counter(unsafe { &mut *counters });
        *counter = counter.wrapping_add(1);
    }
}

/// Room for what does not fit on the kernel's stack of 512 bytes, and for what the verifier is to
/// forget: it keeps no account of what a map holds.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Scratch {
    pub record: FlowRecord,
    pub parsed: Parsed,
}

#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This processor's room.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: a per-CPU slot that each program asks for once and does not keep; see `count` for why
    // no other program of this processor is under way.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

#[btf_map(name = "lane")]
static LANE: PerCpuArray<LaneCounters, 1> = PerCpuArray::new();

/// This processor's counters of the kernel lane.
#[inline(always)]
pub fn lane_counters() -> Option<&'static mut LaneCounters> {
    // SAFETY: a per-CPU slot; see `count` for why no other program of this processor is under way,
    // and no reference into it is held while a frame is cloned.
    LANE.get_ptr_mut(0).map(|counters| unsafe { &mut *counters })
}
