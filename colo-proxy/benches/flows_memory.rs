//! The memory of a connection without held output: a million connections, open and idle.
//!
//! `cargo bench -p colo-proxy --bench flows_memory`

#[allow(dead_code, reason = "the other benchmark runs what this one only opens")]
mod load;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use self::load::{Bench, Load, Order, PAIRS, Says};
use colo_proxy_engine::compare::Side;

const FLOWS: u32 = 1_000_000;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which counts the bytes that are in use.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's obligations are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        LIVE.fetch_add(len, Ordering::Relaxed);
        let live = LIVE.fetch_sub(layout.size(), Ordering::Relaxed) - layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's obligations are the system allocator's.
        unsafe { System.realloc(at, layout, len) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` came from `alloc` above, so from the system's allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() {
    let mut load = Load::new(FLOWS, Order::RoundRobin, &[Says::Tcp { payload: 64 }]);
    let (live, resident) = (LIVE.load(Ordering::Relaxed), resident_bytes());
    let mut bench = Bench::new(&mut load);
    // Every connection has carried data, and is idle again.
    for _ in 0..(FLOWS as usize).div_ceil(PAIRS) {
        bench.compare(&mut load.chunks(), Side::Primary);
    }
    bench.check();
    let per_flow = |bytes: usize| bytes as f64 / f64::from(FLOWS);
    println!("flows {}", bench.engine.stats().flows);
    let now = LIVE.load(Ordering::Relaxed);
    println!("allocated per flow {:.1} bytes", per_flow(now.saturating_sub(live)));
    let peak = PEAK.load(Ordering::Relaxed);
    println!("allocated at the most, per flow {:.1} bytes", per_flow(peak.saturating_sub(live)));
    let grown = resident_bytes().saturating_sub(resident);
    println!("resident per flow {:.1} bytes", per_flow(grown));
}

/// Bytes of this process in memory.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has a line");
    let kib: usize = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    kib * 1024
}
