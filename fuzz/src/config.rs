//! The configuration. Any text is either a list of guests with the properties that the
//! documentation promises, or an error with its place.

use std::collections::BTreeSet;
use std::path::Path;

use colo_proxy::config::{ConfigError, Guest, GuestLimits, OnDeath, Role, parse};
use colo_proxy_engine::frame::FRAME_MAX;

use crate::measure::Measure;

/// The name of the file in messages.
const PATH: &str = "colo.toml";
/// The memory limit of reading, as a multiple of the text. Reading makes tokens, tables and guests
/// from the text.
const BYTES_PER_OCTET_MAX: usize = 2000;

/// The text is the input, if the input is text.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let measure = Measure::start();
    let read = parse(text, Path::new(PATH));
    let needed = measure.peak_bytes();
    assert!(needed <= 100_000 + BYTES_PER_OCTET_MAX * text.len(), "{needed} bytes");
    match read {
        Ok(guests) => are_right(&guests),
        Err(error) => says_where(text, &error),
    }
}

/// The properties of every accepted guest.
fn are_right(guests: &[Guest]) {
    assert!(!guests.is_empty());
    let (mut names, mut netdevs) = (BTreeSet::new(), BTreeSet::new());
    for guest in guests {
        assert!((1..=15).contains(&guest.netdev.len()) && !guest.netdev.contains('/'));
        let name = guest.name.as_deref().unwrap_or(&guest.netdev);
        assert!(names.insert(name) && netdevs.insert(&guest.netdev));
        let limits = &guest.limits;
        assert!(!limits.peer.timeout.is_zero() && limits.peer.queue_bytes >= 2 * FRAME_MAX);
        assert!(limits.compare.fragment_timeout < limits.compare.compare_timeout);
        assert!(limits.repeat.patience <= limits.repeat.patience_max);
        assert!(guest.role() == Role::Primary || guest.on_death == OnDeath::Hold);
        // Settings for the other role cannot be set.
        let unset = GuestLimits::default();
        match guest.role() {
            Role::Primary => assert_eq!(
                (limits.input, limits.repeat, limits.translation),
                (unset.input, unset.repeat, unset.translation)
            ),
            Role::Secondary => {
                assert_eq!((&limits.compare, limits.unsorted), (&unset.compare, unset.unsorted));
            }
        }
    }
}

/// The line, and the column if there is one, are inside the text. The message is for an operator.
fn says_where(text: &str, error: &ConfigError) {
    let lines: Vec<&str> = text.split('\n').collect();
    let message = error.to_string();
    assert!(message.contains(PATH), "{message}");
    match error {
        ConfigError::Syntax { line, column, .. } => {
            assert!((1..=lines.len()).contains(line), "{message}");
            let of_line = lines[line - 1];
            assert!((1..=of_line.len() + 1).contains(column), "{message} in {of_line:?}");
        }
        ConfigError::GuestInFile { line, .. } => {
            assert!((1..=lines.len()).contains(line), "{message}");
        }
        ConfigError::Empty { .. } => {}
        ConfigError::Read { .. } | ConfigError::Guest { .. } => {
            assert!(matches!(error, ConfigError::Empty { .. }), "no place: {message}");
        }
    }
}
