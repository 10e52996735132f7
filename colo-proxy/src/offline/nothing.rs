//! Captures without any compared output: "no difference" would say more than is known.

use super::alignment::AlignmentKind;
use super::report::{CaptureReport, DiffReport};

/// Why nothing was compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NothingCompared {
    #[error("{file}: none of its {frames} frames is from the guest {guest}")]
    NoOutput { file: String, frames: u64, guest: String },
    #[error(
        "the clocks say that the captures were taken at different times: try `--align first`, or \
         `--align connections`"
    )]
    OtherTimes,
    #[error(
        "no output of one guest has a counterpart in the other capture: both guests must do the \
         same work, and have the same addresses"
    )]
    OtherWork,
}

impl DiffReport {
    /// Why this report does not say whether the guests differ, if it does not.
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
        let by_clock = self.alignment.align == AlignmentKind::Absolute;
        Some(if by_clock && captures.into_iter().any(is_outside) {
            NothingCompared::OtherTimes
        } else {
            NothingCompared::OtherWork
        })
    }
}
