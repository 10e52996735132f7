//! Hashes of values that guests choose.
//!
//! A seed of its own for each hasher is not enough: foldhash multiplies pairs of words, and where
//! the numbers that the second of a pair is mixed with are known, a guest can choose it so that the
//! product is zero whatever the seed is. So those numbers are random, too.

use std::hash::{BuildHasher as _, Hasher as _};

use colo_proxy_common::record::FlowKey;
use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;

/// Hashes with numbers that no guest knows.
pub(super) type HashState = SeedableRandomState;

/// The hasher for `seed`; the same for the same seed as long as the process lives.
pub(super) fn state(seed: u64) -> HashState {
    SeedableRandomState::with_seed(seed, SharedSeed::global_random())
}

/// The hash of a flow's name: by words, because that is much faster than field by field.
#[inline]
pub(super) fn of_name(state: &HashState, name: &FlowKey) -> u64 {
    let mut hasher = state.build_hasher();
    let FlowKey { guest_port, peer_port, vlan: [outer, inner], ip_version, protocol, .. } = *name;
    hasher.write_u128(u128::from_ne_bytes(name.guest_addr));
    hasher.write_u128(u128::from_ne_bytes(name.peer_addr));
    let ports = u64::from(guest_port) << 16 | u64::from(peer_port);
    hasher.write_u64(ports << 32 | u64::from(outer) << 16 | u64::from(inner));
    let [first, second] = name.reserved;
    hasher.write_u32(u32::from_ne_bytes([ip_version, protocol, first, second]));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use colo_proxy_common::record::FlowKey;
    use foldhash::fast::FixedState;

    use super::{HashState, of_name, state};

    /// The number that foldhash 0.2 mixes the last eight bytes of an address with, where nobody
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

    fn names_hashed(state: &HashState, part: impl Fn(u64) -> FlowKey) -> usize {
        (0..1000u64).map(|n| of_name(state, &part(n)) as u32).collect::<HashSet<_>>().len()
    }

    /// Every field counts, and the known numbers help no more than above.
    #[test]
    fn names_that_differ_in_any_field_have_different_hashes() {
        let state = state(0x1234_5678_9abc_def0);
        let addr = |n: u64, other: u64| {
            let mut addr = [0; 16];
            addr[..8].copy_from_slice(&n.to_ne_bytes());
            addr[8..].copy_from_slice(&other.to_ne_bytes());
            addr
        };
        let base = FlowKey::default();
        let few = 998..=1000;
        for other in [0, KNOWN, !0] {
            let part = |n| FlowKey { guest_addr: addr(n, other), ..base };
            assert!(few.contains(&names_hashed(&state, part)));
            let part = |n| FlowKey { peer_addr: addr(other, n), ..base };
            assert!(few.contains(&names_hashed(&state, part)));
        }
        assert!(few.contains(&names_hashed(&state, |n| FlowKey { guest_port: n as u16, ..base })));
        assert!(few.contains(&names_hashed(&state, |n| FlowKey { peer_port: n as u16, ..base })));
        assert!(few.contains(&names_hashed(&state, |n| FlowKey { vlan: [n as u16, 0], ..base })));
        assert!(few.contains(&names_hashed(&state, |n| FlowKey { vlan: [0, n as u16], ..base })));
        for (n, other) in [(1, 0), (0, 1)] {
            let names = [
                FlowKey { ip_version: n, protocol: other, ..base },
                FlowKey { reserved: [n, other], ..base },
            ];
            assert_ne!(of_name(&state, &names[0]), of_name(&state, &names[1]));
        }
    }
}
