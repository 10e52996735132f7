//! Counts by reason, as `status` and the log show them.

use std::collections::BTreeMap;

/// Counts by reason, zeros left out.
pub(crate) fn nonzero<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)).collect()
}
