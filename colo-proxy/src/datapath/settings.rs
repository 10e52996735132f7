//! The settings of the programs, as the daemon writes them first.

use colo_proxy_common::filter::is_token;
use colo_proxy_common::record::{LAYOUT_VERSION, Settings, mode};
use colo_proxy_engine::pair::{ProgramMode, Role};

use super::DatapathPlan;

/// The word of `settings` for a mode.
pub(super) fn mode_word(mode: ProgramMode) -> u32 {
    match mode {
        ProgramMode::Off => mode::OFF,
        ProgramMode::Protected => mode::PROTECTED,
        ProgramMode::FailedOver => mode::FAILED_OVER,
    }
}

/// The mode that a word of `settings` stands for.
pub(super) fn mode_of_word(word: u32) -> ProgramMode {
    match word {
        mode::PROTECTED => ProgramMode::Protected,
        mode::FAILED_OVER => ProgramMode::FailedOver,
        _ => ProgramMode::Off,
    }
}

pub(super) fn settings_for(
    plan: &DatapathPlan<'_>,
    netns_cookie: u64,
    leftover: Option<&Settings>,
) -> Settings {
    Settings {
        layout_version: LAYOUT_VERSION,
        mode: leftover.map_or_else(|| mode_word(plan.mode), |old| old.mode),
        netdev_ifindex: plan.netdev_ifindex,
        output_gate_ifindex: plan.output_gate_ifindex,
        input_gate_ifindex: plan.input_gate_ifindex,
        mark: random_mark(),
        epoch: leftover.map_or(0, |old| old.epoch),
        translates: match plan.role {
            Role::Primary => leftover.map_or(0, |old| old.translates),
            Role::Secondary => 0,
        },
        netns_cookie,
        // A lane is opened after both daemons have asked for one.
        lane_ifindex: 0,
        lane_slot: leftover.map_or(0, |old| old.lane_slot),
        lane_epoch: 0,
        lane_input_to_gate: 0,
        return_gate_ifindex: [0; 2],
        lane_reported: 0,
        lane_frame_max: 0,
    }
}

/// The upper byte of every mark. The host sees marks on a tunnel's outer packets, so none of its rules
/// may use marks with this byte. (Filters have other marks, see [`is_token`].)
const MARK_MAGIC: u32 = 0xc100_0000;

/// A mark with 24 random bits, so that another daemon hardly has the same. A tunnel belongs to one
/// guest: there the upper half identifies our frames, and the lower half is a frame's tag.
pub(super) fn random_mark() -> u32 {
    use std::hash::{BuildHasher as _, Hasher as _};

    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let mark = MARK_MAGIC | (random as u32) >> 8;
    // A filter on the same TAP would leave a frame with a token to another filter.
    debug_assert!(!is_token(mark), "{mark:#x}");
    mark
}

#[cfg(test)]
mod tests;
