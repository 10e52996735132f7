//! `colo-proxy status`, for people and for programs.

use std::path::Path;

use colo_proxy::status::{
    GuestStatus, InstanceRole, RUNTIME_DIR, Reply, Request, Status, StatusList,
};

use super::output::{self, Answers};
use super::show_filter;

pub(super) fn status(instance: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let dir = Path::new(RUNTIME_DIR);
    let names = output::names(dir, instance)?;
    let Answers { found, silent } = output::ask_all(dir, &names, &Request::Status, |reply| {
        if let Reply::Status(status) = reply { Ok(*status) } else { Err(reply) }
    });
    let text = if as_json {
        output::json(&StatusList { instances: found })?
    } else if names.is_empty() {
        output::NONE.into()
    } else {
        found.iter().map(shown).collect()
    };
    output::print(&text)?;
    output::fail_with(silent)
}

fn shown(status: &Status) -> String {
    match status {
        Status::Primary(primary) => shown_guest(&primary.guest, InstanceRole::Primary),
        Status::Secondary(secondary) => shown_guest(&secondary.guest, InstanceRole::Secondary),
        Status::FilterMirror(filter) => {
            show_filter::shown_stream(filter, InstanceRole::FilterMirror)
        }
        Status::FilterRedirector(filter) => {
            show_filter::shown_stream(filter, InstanceRole::FilterRedirector)
        }
        Status::FilterRewriter(rewriter) => show_filter::shown_rewriter(rewriter),
    }
}

/// One instance, with a line for each group. The most important lines come first.
fn shown_guest(guest: &GuestStatus, role: InstanceRole) -> String {
    let GuestStatus { epoch, flows, divergences, .. } = guest;
    let GuestStatus { compared_frames, compared_bytes, .. } = guest;
    let GuestStatus { released_frames, released_bytes, held_frames, held_bytes, .. } = guest;
    let groups = [
        output::head(&guest.head, role, guest.standing.mode),
        format!("  since {}: {}", whole_seconds(&guest.standing.since), guest.standing.reason),
        format!("  epoch {epoch}, {flows} flows"),
        format!(
            "  compared {compared_frames} frames ({compared_bytes} bytes), \
             released {released_frames} ({released_bytes}), held {held_frames} ({held_bytes})"
        ),
        format!(
            "  divergences: {divergences}; checkpoints: {}",
            output::counts(&guest.checkpoints)
        ),
        format!("  drops: {}", output::counts(&guest.drops)),
    ];
    groups.join("\n") + "\n"
}

/// A time without the fraction of its second.
fn whole_seconds(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(whole, _)| format!("{whole}Z"))
}

#[cfg(test)]
mod tests {
    use colo_proxy::status::{InstanceHead, InstanceRole, ModeReport, SCHEMA};
    use colo_proxy_engine::pair::Mode;

    use super::*;

    fn guest(mode: Mode) -> GuestStatus {
        GuestStatus {
            head: InstanceHead {
                schema: SCHEMA,
                instance: "web".into(),
                netdev: "tap0".into(),
                netdev_present: true,
                pid: 7,
            },
            standing: ModeReport {
                mode,
                since: "2026-12-01T14:00:00.123456789Z".into(),
                reason: "a reason".into(),
                record: None,
            },
            epoch: 2,
            flows: 3,
            held_frames: 1,
            held_bytes: 60,
            compared_frames: 9,
            compared_bytes: 900,
            released_frames: 12,
            released_bytes: 1200,
            divergences: 1,
            checkpoints: [("payload".to_owned(), 1), ("timeout".to_owned(), 2)].into(),
            drops: [].into(),
        }
    }

    #[test]
    fn a_guest_is_a_few_lines() {
        let wanted = "web (primary of tap0, pid 7): protected\n  since 2026-12-01T14:00:00Z: a \
                      reason\n  epoch 2, 3 flows\n  compared 9 \
                      frames (900 bytes), released 12 (1200), held 1 (60)\n  divergences: 1; \
                      checkpoints: payload 1, timeout 2\n  drops: none\n";
        assert_eq!(shown_guest(&guest(Mode::Protected), InstanceRole::Primary), wanted);
    }

    #[test]
    fn every_mode_has_its_word_in_the_first_line() {
        for (mode, word) in [
            (Mode::Standby, "standby"),
            (Mode::Joining, "joining"),
            (Mode::Protected, "protected"),
            (Mode::CoveredNotEqual, "covered-not-equal"),
            (Mode::PeerLost, "peer-lost"),
            (Mode::Unprotected, "unprotected"),
            (Mode::Unguarded, "unguarded"),
            (Mode::Held, "held"),
            (Mode::TakenOver, "taken-over"),
            (Mode::Serving, "serving"),
            (Mode::Failed, "failed"),
        ] {
            let text = shown_guest(&guest(mode), InstanceRole::Secondary);
            let first = format!("web (secondary of tap0, pid 7): {word}");
            assert_eq!(text.lines().next(), Some(first.as_str()));
        }
    }

    #[test]
    fn a_tap_that_is_gone_is_named() {
        let mut gone = guest(Mode::Held);
        gone.head.netdev_present = false;
        let text = shown_guest(&gone, InstanceRole::Primary);
        assert!(text.starts_with("web (primary of tap0, which is gone, pid 7): held\n"), "{text}");
    }
}
