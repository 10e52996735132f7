//! An error with its causes, as one line.

use std::error::Error;

/// The error and its causes, joined by colons. A log has one line for them.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
