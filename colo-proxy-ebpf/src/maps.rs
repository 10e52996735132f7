//! The maps, by the names of their pins, and the accesses that all programs share.

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use colo_proxy_common::lane::LaneCounters;
use colo_proxy_common::record::{
    EVENTS_LEN, EventRecord, FlowKey, FlowRecord, LAYOUT_VERSION, ProgramCounters, Settings,
};

use crate::parsed::Parsed;

// The daemon may set other sizes when it loads the object (`datapath::TranslationLimits`).

/// Translated connections in which the guest has sent something of its own. The kernel evicts none of
/// them. The daemon removes old ones.
const FLOWS_MAX: usize = 65_536;
/// Connections whose offset is known, but in which the guest has not sent anything of its own yet. A
/// flood of ACKs that answer SYN/ACKs evicts only these.
const UNCONFIRMED_MAX: usize = 16_384;
/// Connections in the middle of their opening. A flood of SYNs evicts only these.
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

/// The daemon's settings; `None`, counted, if there are none yet or they have another layout. Without
/// settings no frame may pass.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    let settings = settings_if_any();
    if settings.is_none() {
        count(|c| &mut c.dropped_no_settings);
    }
    settings
}

/// The same for a program that passes the frame to the next one, which drops it.
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

/// Room for values that do not fit on a program's stack of 512 bytes, and for values that the verifier
/// has to forget: it does not track the contents of a map.
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
    // SAFETY: a per-CPU slot that each program asks for once; the reference ends with the program.
    // See `count` for why no other program runs on this processor.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

#[btf_map(name = "lane")]
static LANE: PerCpuArray<LaneCounters, 1> = PerCpuArray::new();

/// This processor's counters of the kernel lane.
#[inline(always)]
pub fn lane_counters() -> Option<&'static mut LaneCounters> {
    // SAFETY: a per-CPU slot; see `count` for why no other program runs on this processor. No
    // reference into it is alive while a frame is cloned.
    LANE.get_ptr_mut(0).map(|counters| unsafe { &mut *counters })
}
