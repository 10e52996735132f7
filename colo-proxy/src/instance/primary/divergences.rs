//! What `colo-proxy divergences` shows of a primary.

use std::time::{Duration, Instant, SystemTime};

use super::PrimaryTask;
use crate::config::Role;
use crate::status::{DivergenceReport, Divergences, FrameReport, ListedDivergence, Reply};
use colo_proxy_engine::compare::{Captured, Divergence};

/// Differences in one answer at most: the last ones, even if more are kept.
const DIVERGENCES_MAX: usize = 4096;
/// Bytes of frames in one answer, for the last differences. The instance does nothing else while it
/// writes them.
const FRAMES_BYTES_MAX: usize = 4 << 20;

impl PrimaryTask {
    pub(super) fn report_divergences(&self, with_frames: bool) -> Reply {
        let engine = self.half.engine();
        let clock = WallClock::now();
        let kept: Vec<&Divergence> = engine.divergences().collect();
        let skipped = kept.len().saturating_sub(DIVERGENCES_MAX);
        let mut bytes_left = if with_frames { FRAMES_BYTES_MAX } else { 0 };
        // The newest first, because they have the first claim on the room for frames.
        let mut listed: Vec<ListedDivergence> = kept
            .iter()
            .skip(skipped)
            .rev()
            .map(|divergence| list(divergence, &clock, &mut bytes_left))
            .collect();
        listed.reverse();
        Reply::Divergences(Divergences {
            divergences_total: engine.stats().divergences,
            divergences: listed,
            ..Divergences::none(&self.claim.name, Role::Primary.into(), &self.guest.netdev)
        })
    }
}

/// Turns the engine's time into the date.
#[derive(Debug)]
struct WallClock {
    instant: Instant,
    time: Duration,
}

impl WallClock {
    fn now() -> Self {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), time }
    }

    fn time_ns(&self, at: Instant) -> u64 {
        let ago = self.instant.saturating_duration_since(at);
        u64::try_from(self.time.saturating_sub(ago).as_nanos()).unwrap_or(u64::MAX)
    }
}

fn list(divergence: &Divergence, clock: &WallClock, bytes_left: &mut usize) -> ListedDivergence {
    let mut frame = |frame: Option<&Captured>| {
        let frame = frame?;
        *bytes_left = bytes_left.checked_sub(frame.octets.len())?;
        Some(FrameReport {
            time_ns: clock.time_ns(frame.since),
            original_len: u32::try_from(frame.original_len).unwrap_or(u32::MAX),
            bytes: frame.octets.to_vec(),
        })
    };
    ListedDivergence {
        summary: divergence.summary(),
        time_ns: clock.time_ns(divergence.at),
        primary_frame: frame(divergence.primary_frame.as_ref()),
        secondary_frame: frame(divergence.secondary_frame.as_ref()),
        divergence: DivergenceReport::from(divergence),
    }
}
