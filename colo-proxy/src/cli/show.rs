//! `colo-proxy status`, for people and for programs.

use std::path::Path;

use anyhow::anyhow;
use colo_proxy::status::{self, RUNTIME_DIR, Reply, Request};
use serde_json::{Value, json};

use super::output::{self, counts};
use super::show_filter;

pub(super) fn status(instance: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let dir = Path::new(RUNTIME_DIR);
    let names = match instance {
        Some(instance) => vec![status::find(dir, instance)?],
        None => status::running(dir)?,
    };
    let mut found = Vec::new();
    let mut silent = Vec::new();
    for name in &names {
        match status::ask(dir, name, &Request::Status) {
            Ok(Reply::Status(status)) => found.push(status),
            Ok(other) => silent.push(anyhow!("instance {name} answered {other:?}")),
            Err(error) => silent.push(error.into()),
        }
    }
    let text = if as_json {
        format!("{:#}\n", json!({ "instances": found }))
    } else if names.is_empty() {
        "no instance is running\n".into()
    } else {
        found
            .iter()
            .map(
                |status| if is_filter(status) { show_filter::shown(status) } else { shown(status) },
            )
            .collect()
    };
    output::print(&text)?;
    output::fail_with(silent)
}

/// A filter's status has a queue, and no other status does.
fn is_filter(status: &Value) -> bool {
    !status["queue"].is_null()
}

/// One instance, with a line for each group. The most important lines come first.
fn shown(status: &Value) -> String {
    let text = |key: &str| match &status[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let groups = [
        format!(
            "{} ({} of {}, pid {}): {}",
            text("instance"),
            text("role"),
            text("netdev"),
            text("pid"),
            text("mode")
        ),
        format!("  epoch {}, {} flows", text("epoch"), text("flows")),
        format!(
            "  compared {} frames ({} bytes), released {} ({}), held {} ({})",
            text("compared_frames"),
            text("compared_bytes"),
            text("released_frames"),
            text("released_bytes"),
            text("held_frames"),
            text("held_bytes")
        ),
        format!(
            "  divergences: {}; checkpoints: {}",
            text("divergences"),
            counts(&status["checkpoints"])
        ),
        format!("  drops: {}", counts(&status["drops"])),
    ];
    groups.join("\n") + "\n"
}
