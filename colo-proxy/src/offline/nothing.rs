//! Captures of which nothing was compared: "no difference" would say more than anybody knows.

use super::alignment::Align;
use super::report::{CaptureReport, Report};

/// Why nothing was compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NothingCompared {
    #[error("{file}: none of its {frames} frames is from the guest {guest}")]
    NoOutput { file: String, frames: u64, guest: String },
    #[error(
        "by their clocks the captures are of different times: try `--align first`, or \
         `--align connections`"
    )]
    OtherTimes,
    #[error(
        "nothing that the guest sent is answered in the other capture: both have to be of the \
         same work, and of guests with the same addresses"
    )]
    OtherWork,
}

impl Report {
    /// Why this is no answer to the question whether the guests differ, if it is none.
    pub fn nothing_compared(&self) -> Option<NothingCompared> {
        if self.diverged() || self.engine.compared.frames > 0 {
            return None;
        }
        let captures = [&self.primary, &self.secondary];
        if let Some(silent) = captures.into_iter().find(|capture| capture.output_frames == 0) {
            return Some(NothingCompared::NoOutput {
                file: silent.file.clone(),
                frames: silent.frames,
                guest: self.guest.to_string(),
            });
        }
        let is_outside = |capture: &CaptureReport| capture.outside_frames == capture.output_frames;
        let by_clock = self.alignment.align == Align::Absolute;
        Some(if by_clock && captures.into_iter().any(is_outside) {
            NothingCompared::OtherTimes
        } else {
            NothingCompared::OtherWork
        })
    }
}
