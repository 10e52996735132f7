//! How often losses of a guest's input behind the kernel lane are told of.
//!
//! A guest that takes its input slower than it comes loses some of it for as long as that lasts. A
//! checkpoint makes it equal for a moment, and stops both guests, so it loses more. So the first loss
//! is told of at once, and those that follow after a pause that doubles, until one passes in which
//! nothing is lost.
//!
//! Waiting lets no frame out that may not leave: what the guest lacks shows in what it says, or in what
//! it does not acknowledge. That is compared as ever, and what differs or stays away has its own
//! checkpoint, asked for at once or at the compare timeout. Only input that changes nothing is waited
//! for longer. Output of the secondary that is lost is told of at once: the client waits for it.

/// In ends of slots, of 50 ms: half a second, and eight.
const PAUSE_MIN_TICKS: u32 = 10;
const PAUSE_MAX_TICKS: u32 = 160;

/// No clock: the owner brings losses, and a tick for every slot.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    /// Frames that have yet to be told of.
    untold: u64,
    /// The present pause, and what is left of it.
    pause: u32,
    left: u32,
}

impl BackOff {
    pub(super) fn on_loss(&mut self, frames: u64) {
        self.untold += frames;
    }

    /// A slot is over: returns what is to be told of now.
    pub(super) fn on_tick(&mut self) -> u64 {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return 0;
        }
        self.pause = match self.untold {
            0 => 0,
            _ => (self.pause * 2).clamp(PAUSE_MIN_TICKS, PAUSE_MAX_TICKS),
        };
        self.left = self.pause;
        self.take()
    }

    /// What is to be told of, whatever the pause.
    pub(super) fn take(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ticks at which something is told, where `is_lossy` says in which a frame is lost.
    fn told(ticks: u32, is_lossy: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut back_off = BackOff::default();
        let (mut lost, mut found) = (0, 0);
        let told = (0..ticks).filter(|tick| {
            let frames = u64::from(is_lossy(*tick));
            lost += frames;
            back_off.on_loss(frames);
            let now = back_off.on_tick();
            found += now;
            now > 0
        });
        let told = told.collect();
        assert_eq!(found + back_off.take(), lost, "every loss is told of once");
        told
    }

    #[test]
    fn the_first_is_told_at_once_and_a_guest_that_is_too_slow_now_and_then() {
        let told = told(100_000, |_| true);
        assert_eq!(told[..6], [0, 10, 30, 70, 150, 310]);
        assert!(told.windows(2).skip(5).all(|two| two[1] - two[0] == PAUSE_MAX_TICKS));
    }

    #[test]
    fn a_pause_without_loss_ends_it() {
        // It is too slow for 300 ticks, and then now and then.
        let told = told(2000, |tick| tick < 300 || tick % 500 == 0);
        assert_eq!(told, [0, 10, 30, 70, 150, 310, 500, 1000, 1500]);
    }

    /// The twin: losses that are far apart are told of as they come.
    #[test]
    fn losses_that_are_far_apart_are_not_waited_for() {
        let apart = PAUSE_MIN_TICKS + 1;
        let expected: Vec<u32> = (0..1000).step_by(apart as usize).collect();
        assert_eq!(told(1000, |tick| tick % apart == 0), expected);
    }
}
