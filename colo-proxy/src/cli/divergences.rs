//! `colo-proxy divergences`, for people, for programs and for Wireshark.

use std::path::Path;

use colo_proxy::status::{
    DivergenceReport, Divergences, DivergencesList, InstanceRole, ListedDivergence, RUNTIME_DIR,
    Reply, Request,
};
use colo_proxy::utc::rfc3339;
use colo_proxy_engine::compare::{Context, Side};

use super::args::DivergencesArgs;
use super::capture::{self, CapturedFrame};
use super::output::{self, Answers};

pub(super) fn divergences(args: &DivergencesArgs) -> anyhow::Result<()> {
    let dir = Path::new(RUNTIME_DIR);
    let names = output::names(dir, args.instance.as_deref())?;
    let request = Request::Divergences { frames: args.capture.is_some() };
    let Answers { mut found, silent } = output::ask_all(dir, &names, &request, |reply| {
        if let Reply::Divergences(divergences) = reply { Ok(divergences) } else { Err(reply) }
    });
    if let Some(path) = &args.capture {
        let frames: Vec<CapturedFrame> = found.iter().flat_map(frames).collect();
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
    let DivergenceReport { found, epoch, .. } = &listed.divergence;
    let head = format!(
        "{}. {}: {}\n   found at {}, in epoch {epoch}\n",
        found.number,
        found.name,
        listed.summary,
        rfc3339(listed.time_ns),
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
fn frames(instance: &Divergences) -> Vec<CapturedFrame> {
    let name = &instance.instance;
    let frames = instance.divergences.iter().flat_map(|listed| {
        let found = &listed.divergence.found;
        let summary =
            format!("{name}, divergence {}, {}: {}", found.number, found.name, listed.summary);
        let sides =
            [(Side::Primary, &listed.primary_frame), (Side::Secondary, &listed.secondary_frame)];
        sides.into_iter().filter_map(move |(side, frame)| {
            let frame = frame.as_ref()?;
            Some(CapturedFrame {
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

#[cfg(test)]
mod tests {
    use colo_proxy::status::{FlowReport, FoundDivergence, FrameReport, SCHEMA};
    use colo_proxy_engine::compare::Reason;

    use super::*;

    fn instance(role: InstanceRole, divergences: Vec<ListedDivergence>) -> Divergences {
        Divergences {
            schema: SCHEMA,
            instance: "web".into(),
            role,
            netdev: "tap0".into(),
            pid: 7,
            divergences_total: 5,
            divergences,
        }
    }

    fn listed() -> ListedDivergence {
        let name = "tcp 10.0.0.10:80 -> 10.0.0.1:4000";
        let context = |byte| Context { before: 1, bytes: vec![b'a', byte] };
        let divergence = DivergenceReport {
            found: FoundDivergence {
                number: 5,
                flow: FlowReport {
                    protocol: "tcp".into(),
                    guest: "10.0.0.10:80".parse().expect("an address"),
                    peer: "10.0.0.1:4000".parse().expect("an address"),
                    vlan: [0, 0],
                },
                name: name.into(),
                reason: Reason::Payload,
                at_ms: 3,
                waits_for: None,
                stream_offset: 1,
                primary_byte: Some(b'b'),
                secondary_byte: None,
                primary_context: context(b'b'),
                secondary_context: Context::default(),
                primary_len: 9,
                secondary_len: 1,
            },
            epoch: 2,
            primary_at_ms: Some(3),
            secondary_at_ms: None,
        };
        let frame = FrameReport { time_ns: 4, original_len: 60, bytes: vec![1, 2] };
        ListedDivergence {
            divergence,
            summary: "payload: byte 1 differs".into(),
            time_ns: 0,
            primary_frame: Some(frame),
            secondary_frame: None,
        }
    }

    #[test]
    fn a_difference_is_shown_with_the_bytes_that_are_there() {
        let wanted = "web (primary): divergences 5, the last 1 of them listed\n\n\
                      5. tcp 10.0.0.10:80 -> 10.0.0.1:4000: payload: byte 1 differs\n   \
                      found at 1970-01-01T00:00:00.000000000Z, in epoch 2\n   \
                      primary   62 in 61 [62] |ab|, of 9 bytes\n";
        assert_eq!(shown(&instance(InstanceRole::Primary, vec![listed()])), wanted);
    }

    #[test]
    fn an_instance_that_does_not_compare_says_so() {
        let text = shown(&instance(InstanceRole::Secondary, Vec::new()));
        assert_eq!(text, "web (secondary): the primary's daemon compares\n");
        let text = shown(&instance(InstanceRole::FilterMirror, Vec::new()));
        assert_eq!(text, "web (filter-mirror): a filter does not compare\n");
    }

    #[test]
    fn frames_are_captured_and_not_printed() {
        let mut primary = instance(InstanceRole::Primary, vec![listed()]);
        let found = frames(&primary);
        assert_eq!(found.len(), 1);
        let Some(frame) = found.first() else { return };
        assert_eq!((frame.time_ns, frame.original_len, &frame.octets[..]), (4, 60, &[1, 2][..]));
        assert!(frame.summary.starts_with("web, divergence 5, tcp "), "{}", frame.summary);
        without_frames(&mut primary);
        assert_eq!(frames(&primary).len(), 0);
        let json = serde_json::to_string(&primary).expect("it is written");
        assert!(!json.contains("_frame"), "{json}");
    }
}
