//! Waiting for a deadline that may not be set.

use std::time::Instant;

/// Waits until `deadline`; without one for ever.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
