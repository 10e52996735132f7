//! `colo-proxy divergences`, for people, for programs and for Wireshark.

use std::path::Path;

use colo_proxy::status::{
    Divergences, DivergencesList, InstanceRole, ListedDivergence, RUNTIME_DIR, Reply, Request,
};
use colo_proxy::utc::rfc3339;
use colo_proxy_engine::compare::{Context, Side};

use super::args::DivergencesArgs;
use super::capture::{self, Shown};
use super::output::{self, Answers};

pub(super) fn divergences(args: &DivergencesArgs) -> anyhow::Result<()> {
    let dir = Path::new(RUNTIME_DIR);
    let names = output::names(dir, args.instance.as_deref())?;
    let request = Request::Divergences { frames: args.capture.is_some() };
    let Answers { mut found, silent } = output::ask_all(dir, &names, &request, |reply| {
        if let Reply::Divergences(divergences) = reply { Ok(divergences) } else { Err(reply) }
    });
    if let Some(path) = &args.capture {
        let frames: Vec<Shown> = found.iter().flat_map(frames).collect();
        capture::write(path, &frames)?;
    }
    found.iter_mut().for_each(without_frames);
    let text = if args.json {
        output::json(&DivergencesList { instances: found })?
    } else if names.is_empty() {
        output::NONE.into()
    } else {
        found.iter().map(shown).collect()
    };
    output::print(&text)?;
    output::fail_with(silent)
}

/// With `--capture`, too, frames are not printed.
fn without_frames(instance: &mut Divergences) {
    for listed in &mut instance.divergences {
        listed.primary_frame = None;
        listed.secondary_frame = None;
    }
}

/// One instance, its last difference last.
fn shown(instance: &Divergences) -> String {
    let Divergences { instance: name, role, divergences_total, divergences, .. } = instance;
    match role {
        InstanceRole::Primary => {}
        InstanceRole::Secondary => {
            return format!("{name} (secondary): the primary's daemon compares\n");
        }
        InstanceRole::FilterMirror
        | InstanceRole::FilterRedirector
        | InstanceRole::FilterRewriter => {
            return format!("{name} ({role}): a filter does not compare\n");
        }
    }
    let head = format!(
        "{name} (primary): divergences {divergences_total}, the last {} of them listed\n",
        divergences.len()
    );
    divergences.iter().fold(head, |all, listed| all + "\n" + &shown_one(listed))
}

fn shown_one(listed: &ListedDivergence) -> String {
    let found = &listed.divergence;
    let head = format!(
        "{}. {}: {}\n   found at {}, in epoch {}\n",
        found.number,
        found.name,
        listed.summary,
        rfc3339(listed.time_ns),
        found.epoch,
    );
    let primary =
        shown_bytes("primary", found.primary_byte, &found.primary_context, found.primary_len);
    let secondary = shown_bytes(
        "secondary",
        found.secondary_byte,
        &found.secondary_context,
        found.secondary_len,
    );
    head + &primary + &secondary
}

/// The bytes of one guest at that place; nothing if it has none there.
fn shown_bytes(side: &str, byte: Option<u8>, context: &Context, len: u64) -> String {
    byte.map_or_else(String::new, |byte| {
        format!("   {side:<9} {byte:02x} in {context}, of {len} bytes\n")
    })
}

/// The frames of an instance that its answer has.
fn frames(instance: &Divergences) -> Vec<Shown> {
    let name = &instance.instance;
    let frames = instance.divergences.iter().flat_map(|listed| {
        let found = &listed.divergence;
        let summary =
            format!("{name}, divergence {}, {}: {}", found.number, found.name, listed.summary);
        let sides =
            [(Side::Primary, &listed.primary_frame), (Side::Secondary, &listed.secondary_frame)];
        sides.into_iter().filter_map(move |(side, frame)| {
            let frame = frame.as_ref()?;
            Some(Shown {
                side,
                time_ns: frame.time_ns,
                octets: frame.bytes.clone(),
                original_len: frame.original_len,
                summary: summary.clone(),
            })
        })
    });
    frames.collect()
}
