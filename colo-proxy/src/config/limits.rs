//! Every limit of a guest's instance, with its default.

mod keys;
mod setting;

#[cfg(test)]
mod tests;

pub use self::keys::{KEYS, LimitKey};
use colo_proxy_engine::compare;
use colo_proxy_engine::digest::DigestLimits;
use colo_proxy_engine::pair::cut::UnsortedLimits;
use colo_proxy_engine::pair::early_input::InputLimits;
use colo_proxy_engine::pair::repeat::RepeatLimits;

pub(super) use self::keys::LimitsTable;
pub(super) use self::setting::Ms;

use crate::datapath;
use crate::lane::PeerLimits;

/// The limits of one instance, of either role.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GuestLimits {
    pub peer: PeerLimits,
    pub compare: compare::Limits,
    pub unsorted: UnsortedLimits,
    pub input: InputLimits,
    pub repeat: RepeatLimits,
    pub digest: DigestLimits,
    /// The tables of connections in the kernel.
    pub translation: datapath::TranslationLimits,
}
