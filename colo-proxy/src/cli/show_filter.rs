//! A filter in `colo-proxy status`, for people.

use serde_json::Value;

use super::output::counts;

/// One filter, with a line for each group. The most important lines come first.
pub(super) fn shown(status: &Value) -> String {
    let mut lines = vec![format!(
        "{} ({} of {}{}, pid {}): {}",
        text(&status["instance"]),
        text(&status["role"]),
        text(&status["netdev"]),
        if status["netdev_present"] == false { ", which is gone" } else { "" },
        text(&status["pid"]),
        text(&status["mode"])
    )];
    if status["role"] == "filter-rewriter" {
        lines.push(format!(
            "  epoch {}, {} flows, held {} frames ({} bytes)",
            text(&status["epoch"]),
            text(&status["flows"]),
            text(&status["held_frames"]),
            text(&status["held_bytes"])
        ));
    } else {
        lines.push(format!("  queue {}", text(&status["queue"])));
    }
    for (name, verb) in [("indev", "received"), ("outdev", "sent")] {
        lines.extend(socket(name, verb, &status[name]));
    }
    lines.push(format!("  frames: {}", counts(&nonzero(&status["frames"]))));
    lines.push(format!("  drops: {}", counts(&status["drops"])));
    lines.join("\n") + "\n"
}

fn socket(name: &str, verb: &str, lane: &Value) -> Option<String> {
    lane.is_object().then(|| {
        let state = if lane["connected"] == true { "connected" } else { "no peer" };
        format!(
            "  {name} {}: {state}, {verb} {} frames ({} bytes), waiting {} bytes",
            text(&lane["endpoint"]),
            text(&lane["frames"]),
            text(&lane["bytes"]),
            text(&lane["queued_bytes"])
        )
    })
}

fn nonzero(map: &Value) -> Value {
    map.as_object()
        .into_iter()
        .flatten()
        .filter(|(_, n)| **n != 0)
        .map(|(k, n)| (k.clone(), n.clone()))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::shown;

    #[test]
    fn a_mirror_is_a_few_lines() {
        let status = json!({
            "instance": "m0", "role": "filter-mirror", "netdev": "tap0", "netdev_present": true,
            "pid": 7, "mode": "broken", "queue": "tx", "indev": null,
            "outdev": { "endpoint": "unix:/run/m,server", "connected": false, "frames": 5,
                        "bytes": 300, "queued_bytes": 0 },
            "frames": { "mirrored": 9, "redirected": 0 },
            "drops": { "outdev-gate-full": 4 },
        });
        let wanted = "m0 (filter-mirror of tap0, pid 7): broken\n  queue tx\n  outdev \
                      unix:/run/m,server: no peer, sent 5 frames (300 bytes), waiting 0 bytes\n  \
                      frames: mirrored 9\n  drops: outdev-gate-full 4\n";
        assert_eq!(shown(&status), wanted);
    }
}
