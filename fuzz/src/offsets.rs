//! The import of offsets. Any text is either a list of connections that can be exported again, or
//! an error that names the wrong lines.

use std::collections::HashSet;

use colo_proxy::offsets::{Offset, OffsetsError, format, parse};
use colo_proxy_common::decode::protocol;

use crate::choices::Choices;
use crate::measure::Measure;

/// The memory limit of reading, as a multiple of the text. At worst, every line is a connection and
/// wrong.
const BYTES_PER_OCTET_MAX: usize = 300;

/// The first byte is the number of connections that have room. The rest is the text, if it is text.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let flows_max = usize::from(choices.octet());
    let Ok(text) = std::str::from_utf8(choices.rest()) else { return };
    let measure = Measure::start();
    let read = parse(text, flows_max);
    let needed = measure.peak_bytes();
    assert!(needed <= 20_000 + BYTES_PER_OCTET_MAX * text.len(), "{needed} bytes");
    match read {
        Ok(offsets) => are_right(&offsets, flows_max),
        Err(error) => says_where(text, &error),
    }
}

/// The list has no more connections than there is room for, each once, and each an end-to-end
/// connection. Exported again, they are the same.
fn are_right(offsets: &[Offset], flows_max: usize) {
    assert!(offsets.len() <= flows_max);
    let mut seen = HashSet::new();
    for Offset { key, .. } in offsets {
        assert!(seen.insert(*key), "twice");
        assert_eq!((key.protocol, key.reserved), (protocol::TCP, [0; 2]));
        assert!(key.guest_port != 0 && key.peer_port != 0);
        assert!(key.vlan.iter().all(|id| *id < 4096));
        let used = if key.ip_version == 4 { 4 } else { 16 };
        for addr in [&key.guest_addr, &key.peer_addr] {
            assert!(addr[..used].iter().any(|octet| *octet != 0), "{addr:?}");
            assert!(addr[used..].iter().all(|octet| *octet == 0), "{addr:?}");
        }
    }
    let again = parse(&format("again", offsets), flows_max);
    assert_eq!(again.as_deref(), Ok(offsets));
}

/// The wrong lines are lines of the text, in order, each once.
fn says_where(text: &str, error: &OffsetsError) {
    let message = error.to_string();
    assert!(!message.is_empty());
    if let OffsetsError::Lines { lines } = error {
        assert!(!lines.is_empty());
        let count = text.lines().count();
        let mut last = 1;
        for at_fault in lines {
            assert!(at_fault.line > last && at_fault.line <= count, "{message}");
            assert!(!at_fault.reason.is_empty(), "{message}");
            last = at_fault.line;
        }
    }
}
