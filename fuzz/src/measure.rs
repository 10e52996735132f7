//! Measures the memory that a piece of work needs, because a parser's limit is also worth an
//! assertion.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which also counts the bytes of each thread.
struct Measuring;

fn add(bytes: isize) {
    // A thread that ends still allocates when its cells are gone. Nobody reads the count then.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged. The counting allocates nothing,
// because the cells are constant-initialised and have no destructors.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller's obligations are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as isize - layout.size() as isize);
        // SAFETY: as above; `at` is the system allocator's.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: `at` came from one of the calls above, so from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static MEASURING: Measuring = Measuring;

/// Measures from its creation, in the thread that made it.
#[derive(Debug)]
pub(crate) struct Measure {
    before: isize,
}

impl Measure {
    pub(crate) fn start() -> Self {
        let before = LIVE.with(Cell::get);
        PEAK.with(|peak| peak.set(before));
        Self { before }
    }

    /// The most bytes that were allocated at any time since the start, beyond those from before.
    pub(crate) fn peak_bytes(&self) -> usize {
        usize::try_from(PEAK.with(Cell::get) - self.before).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Measure;

    #[test]
    fn the_peak_is_what_was_there_at_a_time() {
        let measure = Measure::start();
        for _ in 0..3 {
            drop(vec![0u8; 1000]);
        }
        assert!((1000..2000).contains(&measure.peak_bytes()), "{}", measure.peak_bytes());
        let _kept = [vec![0u8; 1000], vec![0u8; 1000]];
        assert!((2000..3000).contains(&measure.peak_bytes()), "{}", measure.peak_bytes());
    }
}
