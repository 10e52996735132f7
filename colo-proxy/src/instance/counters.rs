//! The kernel programs' counters, as `status` shows them.

use std::collections::BTreeMap;

use colo_proxy_common::record::Counters;
use serde_json::{Value, json};

/// Counts by reason, zeros left out.
pub(crate) fn nonzero<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)).collect()
}

/// The kernel programs' counters under the names that `bpftool` shows.
pub(crate) fn counters_json(counters: &Counters) -> Value {
    json!({
        "captured": counters.captured,
        "released": counters.released,
        "mirrored": counters.mirrored,
        "mirror_failed": counters.mirror_failed,
        "passed": counters.passed,
        "translated_to_guest": counters.translated_to_guest,
        "translated_from_guest": counters.translated_from_guest,
        "input_held": counters.input_held,
        "dropped_lan_input": counters.dropped_lan_input,
        "dropped_no_offset": counters.dropped_no_offset,
        "dropped_foreign": counters.dropped_foreign,
        "dropped_no_settings": counters.dropped_no_settings,
        "malformed": counters.malformed,
        "flow_table_full": counters.flow_table_full,
        "rewrite_failed": counters.rewrite_failed,
        "lane_stale": counters.lane_stale,
        "lane_ignored": counters.lane_ignored,
        "lane_late": counters.lane_late,
        "lane_too_long": counters.lane_too_long,
    })
}
