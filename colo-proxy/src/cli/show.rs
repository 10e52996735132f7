//! `colo-proxy status`, for people and for programs.

use std::path::Path;

use anyhow::bail;
use colo_proxy::status::{self, RUNTIME_DIR, Reply, Request};
use serde_json::{Value, json};

pub(super) fn status(instance: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let dir = Path::new(RUNTIME_DIR);
    let names = match instance {
        Some(instance) => vec![status::find(dir, instance)?],
        None => status::running(dir)?,
    };
    let mut found = Vec::new();
    let mut silent = Vec::new();
    for name in &names {
        match status::ask(dir, name, Request::Status) {
            Ok(Reply::Status(status)) => found.push(status),
            Ok(other) => silent.push(format!("instance {name} answered {other:?}")),
            Err(error) => silent.push(format!("{:#}", anyhow::Error::from(error))),
        }
    }
    if as_json {
        println!("{:#}", json!({ "instances": found }));
    } else if names.is_empty() {
        println!("no instance is running");
    } else {
        found.iter().for_each(print);
    }
    if !silent.is_empty() {
        bail!("{}", silent.join("; "));
    }
    Ok(())
}

/// One instance, a line a group: what is asked most comes first.
fn print(status: &Value) {
    let text = |key: &str| match &status[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    println!(
        "{} ({} of {}, pid {}): {}",
        text("instance"),
        text("role"),
        text("netdev"),
        text("pid"),
        text("mode")
    );
    println!("  epoch {}, {} flows", text("epoch"), text("flows"));
    println!(
        "  compared {} frames ({} bytes), released {} ({}), held {} ({})",
        text("compared_frames"),
        text("compared_bytes"),
        text("released_frames"),
        text("released_bytes"),
        text("held_frames"),
        text("held_bytes")
    );
    println!(
        "  {} divergences; checkpoints: {}",
        text("divergences"),
        counts(&status["checkpoints"])
    );
    println!("  drops: {}", counts(&status["drops"]));
}

fn counts(map: &Value) -> String {
    let all: Vec<String> =
        map.as_object().into_iter().flatten().map(|(name, n)| format!("{name} {n}")).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}
