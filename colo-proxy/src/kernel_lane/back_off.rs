//! How often the secondary reports losses of its guest's input behind the kernel lane.
//!
//! A guest that takes its input slower than it comes keeps losing some of it. A checkpoint makes it
//! equal for a moment, and stops both guests, so it loses more. So the first loss is reported at once.
//! The following losses are reported after a pause. The pause doubles each time, until one passes
//! without a loss.
//!
//! The pause lets no frame leave that may not leave. The input that the guest lacks shows in its output
//! or in its acknowledgments. The engine compares those as always. A difference asks for a checkpoint
//! at once, missing output at the compare timeout. Only a loss that changes no output has to wait
//! longer for its checkpoint. Lost output of the secondary is always reported at once, because a
//! client waits for it.

/// A tick is the end of a slot, each 50 ms: half a second, and eight seconds.
const PAUSE_MIN_TICKS: u32 = 10;
const PAUSE_MAX_TICKS: u32 = 160;

/// Has no clock: the owner brings the losses, and a tick for every slot.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    /// Lost frames that are not reported yet.
    unreported: u64,
    /// The length of the present pause, and the rest of it.
    pause_ticks: u32,
    left_ticks: u32,
}

impl BackOff {
    pub(super) fn on_loss(&mut self, frames: u64) {
        self.unreported += frames;
    }

    /// A slot is over. Returns the lost frames to report now.
    pub(super) fn on_tick(&mut self) -> u64 {
        self.left_ticks = self.left_ticks.saturating_sub(1);
        if self.left_ticks > 0 {
            return 0;
        }
        self.pause_ticks = match self.unreported {
            0 => 0,
            _ => (self.pause_ticks * 2).clamp(PAUSE_MIN_TICKS, PAUSE_MAX_TICKS),
        };
        self.left_ticks = self.pause_ticks;
        self.take()
    }

    /// The lost frames that are not reported yet, without regard to the pause.
    pub(super) fn take(&mut self) -> u64 {
        std::mem::take(&mut self.unreported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ticks at which losses are reported. `is_lossy` says in which ticks a frame is lost.
    fn reported(ticks: u32, is_lossy: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut back_off = BackOff::default();
        let (mut lost, mut found) = (0, 0);
        let reported = (0..ticks).filter(|tick| {
            let frames = u64::from(is_lossy(*tick));
            lost += frames;
            back_off.on_loss(frames);
            let now = back_off.on_tick();
            found += now;
            now > 0
        });
        let reported = reported.collect();
        assert_eq!(found + back_off.take(), lost, "every loss is reported once");
        reported
    }

    #[test]
    fn the_first_loss_is_reported_at_once_and_those_of_a_slow_guest_now_and_then() {
        let reported = reported(100_000, |_| true);
        assert_eq!(reported[..6], [0, 10, 30, 70, 150, 310]);
        assert!(reported.windows(2).skip(5).all(|two| two[1] - two[0] == PAUSE_MAX_TICKS));
    }

    #[test]
    fn a_pause_without_loss_ends_it() {
        // The guest is too slow for 300 ticks, and then now and then.
        let reported = reported(2000, |tick| tick < 300 || tick % 500 == 0);
        assert_eq!(reported, [0, 10, 30, 70, 150, 310, 500, 1000, 1500]);
    }

    /// The twin: losses that are far apart are reported as they come.
    #[test]
    fn losses_that_are_far_apart_are_reported_without_a_pause() {
        let apart = PAUSE_MIN_TICKS + 1;
        let expected: Vec<u32> = (0..1000).step_by(apart as usize).collect();
        assert_eq!(reported(1000, |tick| tick % apart == 0), expected);
    }
}
