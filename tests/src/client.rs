//! The client: connections whose every byte it checks, datagrams, and their measurements.

mod calls;
mod conversation;
mod datagrams;
mod everything;
mod keeper;
mod latency;
mod mixed;

pub use calls::Calls;
pub use conversation::{ClockedAnswer, Conversation};
pub use datagrams::{echo, ping};
pub use everything::everything;
pub use keeper::{Keeper, KeeperResult, wait_for_all};
pub use latency::Latency;
pub use mixed::{MixedTotals, mixed};
