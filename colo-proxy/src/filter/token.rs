//! A gate whose token no other filter has.
//!
//! A token is the lower half of an interface index. On a host that has had more than 65536 interfaces,
//! two gates can have the same one. Then each filter would take frames that the other injects for its
//! own.

use colo_proxy_common::filter::token;

use super::FilterError;
use crate::gate::{Gate, GateOptions};

/// Gates that are opened before giving up. Each has another index, so this many in a row are refused
/// only if nearly as many filters run.
const TRIES: usize = 64;

/// Opens a gate whose token is none of `taken`.
pub(super) fn open_gate(options: &GateOptions, taken: &[u32]) -> Result<Gate, FilterError> {
    choose(taken, || Ok(Gate::open(options)?), Gate::ifindex)
}

fn choose<G>(
    taken: &[u32],
    mut open: impl FnMut() -> Result<G, FilterError>,
    ifindex: impl Fn(&G) -> u32,
) -> Result<G, FilterError> {
    // Refused gates stay open until one is found, so that the kernel gives none of their indexes again.
    let mut refused = Vec::new();
    while refused.len() < TRIES {
        let gate = open()?;
        if !taken.contains(&token(ifindex(&gate))) {
            return Ok(gate);
        }
        refused.push(gate);
    }
    Err(FilterError::NoToken { tries: TRIES })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_of(mut indexes: std::ops::RangeFrom<u32>, taken: &[u32]) -> Result<u32, FilterError> {
        choose(taken, || Ok(indexes.next().expect("endless")), |index| *index)
    }

    #[test]
    fn the_first_gate_is_taken_where_its_token_is_free() {
        assert_eq!(first_of(7.., &[]).expect("free"), 7);
        assert_eq!(first_of(7.., &[token(6), token(8)]).expect("free"), 7);
    }

    #[test]
    fn one_whose_lower_half_another_filter_has_is_passed_over() {
        let taken = [token(7), token(8)];
        assert_eq!(first_of(0x1_0007.., &taken).expect("the third"), 0x1_0009);
        assert_eq!(first_of(0xffff.., &[token(0x1_ffff)]).expect("the second"), 0x1_0000);
    }

    #[test]
    fn where_all_are_taken_it_says_so() {
        let taken: Vec<u32> = (0..1000).map(token).collect();
        let error = first_of(0x1_0000.., &taken).expect_err("none is free");
        assert!(matches!(error, FilterError::NoToken { tries: TRIES }), "{error}");
    }
}
