//! How the tables hash what guests choose.
//!
//! A seed of its own for each hasher is not enough: foldhash multiplies pairs of words, and where
//! the numbers that the second of a pair is mixed with are known, a guest can choose it so that the
//! product is zero whatever the seed is. So those numbers are random, too.

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;

/// Hashes with numbers that no guest knows.
pub(super) type State = SeedableRandomState;

/// The hasher for `seed`; the same for the same seed as long as the process lives.
pub(super) fn state(seed: u64) -> State {
    SeedableRandomState::with_seed(seed, SharedSeed::global_random())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use colo_proxy_common::record::FlowKey;
    use foldhash::fast::FixedState;

    use super::state;

    /// The number that foldhash 0.2 mixes the last eight octets of an address with, where nobody
    /// gives it another.
    const KNOWN: u64 = 0x3f84_d5b5_b547_0917;

    /// How many different hashes a thousand sources have that a guest makes up.
    fn hashes(state: &impl BuildHasher) -> usize {
        let hashes = (0..1000u64).map(|n| {
            let mut guest_addr = [0; 16];
            guest_addr[..8].copy_from_slice(&n.to_ne_bytes());
            guest_addr[8..].copy_from_slice(&KNOWN.to_ne_bytes());
            state.hash_one(FlowKey { guest_addr, ip_version: 6, ..FlowKey::default() })
        });
        hashes.collect::<HashSet<_>>().len()
    }

    #[test]
    fn a_guest_cannot_choose_addresses_that_collide_whatever_the_seed() {
        // It could if only the seed were unknown.
        assert_eq!(hashes(&FixedState::with_seed(0x1234_5678_9abc_def0)), 1);
        assert_eq!(hashes(&state(0x1234_5678_9abc_def0)), 1000);
    }
}
