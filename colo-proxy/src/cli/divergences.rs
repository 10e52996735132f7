//! `colo-proxy divergences`, for people, for programs and for Wireshark.

use std::path::Path;

use anyhow::anyhow;
use colo_proxy::status::{self, RUNTIME_DIR, Reply, Request};
use colo_proxy::utc::rfc3339;
use colo_proxy_engine::compare::{Context, Side};
use serde_json::{Value, json};

use super::args::DivergencesArgs;
use super::capture::{self, Shown};
use super::output;

const FRAMES: [(&str, Side); 2] =
    [("primary_frame", Side::Primary), ("secondary_frame", Side::Secondary)];

pub(super) fn divergences(args: &DivergencesArgs) -> anyhow::Result<()> {
    let dir = Path::new(RUNTIME_DIR);
    let names = match &args.instance {
        Some(instance) => vec![status::find(dir, instance)?],
        None => status::running(dir)?,
    };
    let request = Request::Divergences { frames: args.capture.is_some() };
    let mut found = Vec::new();
    let mut silent = Vec::new();
    for name in &names {
        match status::ask(dir, name, &request) {
            Ok(Reply::Divergences(divergences)) => found.push(divergences),
            Ok(other) => silent.push(anyhow!("instance {name} answered {other:?}")),
            Err(error) => silent.push(error.into()),
        }
    }
    if let Some(path) = &args.capture {
        let frames: Vec<Shown> = found.iter().flat_map(frames).collect();
        capture::write(path, &frames)?;
    }
    found.iter_mut().for_each(without_frames);
    let text = if args.json {
        format!("{:#}\n", json!({ "instances": found }))
    } else if names.is_empty() {
        "no instance is running\n".into()
    } else {
        found.iter().map(shown).collect()
    };
    output::print(&text)?;
    output::fail_with(silent)
}

fn list(instance: &Value) -> impl Iterator<Item = &Value> {
    instance["divergences"].as_array().into_iter().flatten()
}

/// What is printed is the same whether frames were asked for or not.
fn without_frames(instance: &mut Value) {
    let all = instance["divergences"].as_array_mut().into_iter().flatten();
    for divergence in all.filter_map(Value::as_object_mut) {
        for (name, _) in FRAMES {
            divergence.remove(name);
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

/// One instance, its last difference last.
fn shown(instance: &Value) -> String {
    let name = text(&instance["instance"]);
    if instance["role"] == "secondary" {
        return format!("{name} (secondary): the primary's daemon compares\n");
    }
    let role = text(&instance["role"]);
    if role.starts_with("filter-") {
        return format!("{name} ({role}): a filter does not compare\n");
    }
    let total = text(&instance["divergences_total"]);
    let kept = list(instance).count();
    let head = format!("{name} (primary): divergences {total}, the last {kept} of them listed\n");
    list(instance).fold(head, |all, divergence| all + "\n" + &shown_one(divergence))
}

fn shown_one(divergence: &Value) -> String {
    let head = format!(
        "{}. {}: {}\n   found at {}, in epoch {}\n",
        text(&divergence["number"]),
        text(&divergence["name"]),
        text(&divergence["summary"]),
        divergence["time_ns"].as_u64().map_or_else(String::new, rfc3339),
        text(&divergence["epoch"]),
    );
    head + &["primary", "secondary"].map(|side| shown_octets(divergence, side)).concat()
}

/// What one guest said there; nothing where it said nothing.
fn shown_octets(divergence: &Value, side: &str) -> String {
    let byte = divergence[format!("{side}_byte")].as_u64();
    let len = divergence[format!("{side}_len")].as_u64().unwrap_or_default();
    let context = context(&divergence[format!("{side}_context")]);
    byte.zip(context).map_or_else(String::new, |(byte, context)| {
        format!("   {side:<9} {byte:02x} in {context}, of {len} octets\n")
    })
}

fn context(value: &Value) -> Option<Context> {
    let before = usize::try_from(value["before"].as_u64()?).ok()?;
    Some(Context { before, bytes: octets(&value["bytes"])? })
}

/// Octets written in hexadecimal.
fn octets(value: &Value) -> Option<Vec<u8>> {
    let digits = value.as_str()?.as_bytes();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(octet).collect()
}

/// The frames of an instance that its answer has.
fn frames(instance: &Value) -> Vec<Shown> {
    let name = text(&instance["instance"]);
    let frames = list(instance).flat_map(|divergence| {
        FRAMES.into_iter().filter_map(|(key, side)| {
            let frame = divergence.get(key)?;
            let summary = format!(
                "{name}, divergence {}, {}: {}",
                text(&divergence["number"]),
                text(&divergence["name"]),
                text(&divergence["summary"])
            );
            Some(Shown {
                side,
                time_ns: frame["time_ns"].as_u64()?,
                octets: octets(&frame["octets"])?,
                original_len: u32::try_from(frame["original_len"].as_u64()?).ok()?,
                summary,
            })
        })
    });
    frames.collect()
}
