//! What `colo-proxy divergences` shows of a primary.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::PrimaryTask;
use crate::config::Role;
use crate::status::Reply;
use colo_proxy_engine::compare::{Captured, Divergence, FlowName};

/// Differences in one answer, the last ones, whatever the configured bound is.
const DIVERGENCES_MAX: usize = 4096;
/// Octets of frames in one answer, those of the last differences. They are written in hexadecimal,
/// which takes the instance from its work for so long.
const FRAMES_BYTES_MAX: usize = 4 << 20;

impl PrimaryTask {
    pub(super) fn report_divergences(&self, with_frames: bool) -> Reply {
        let engine = self.half.engine();
        let clock = WallClock::now();
        let kept: Vec<&Divergence> = engine.divergences().collect();
        let skipped = kept.len().saturating_sub(DIVERGENCES_MAX);
        let mut bytes_left = if with_frames { FRAMES_BYTES_MAX } else { 0 };
        // The newest first, because they have the first claim on the room for frames.
        let mut shown: Vec<Value> = kept
            .iter()
            .skip(skipped)
            .rev()
            .map(|divergence| show(divergence, &clock, &mut bytes_left))
            .collect();
        shown.reverse();
        Reply::Divergences(json!({
            "instance": self.claim.name,
            "role": Role::Primary,
            "netdev": self.guest.netdev,
            "pid": std::process::id(),
            "divergences_total": engine.stats().divergences,
            "divergences": shown,
        }))
    }
}

/// Turns the engine's time into that of people.
#[derive(Debug)]
struct WallClock {
    instant: Instant,
    time: Duration,
}

impl WallClock {
    fn now() -> Self {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), time }
    }

    fn time_ns(&self, at: Instant) -> u64 {
        let ago = self.instant.saturating_duration_since(at);
        u64::try_from(self.time.saturating_sub(ago).as_nanos()).unwrap_or(u64::MAX)
    }
}

fn show(divergence: &Divergence, clock: &WallClock, bytes_left: &mut usize) -> Value {
    let mut shown = serde_json::to_value(divergence).unwrap_or_default();
    let Some(fields) = shown.as_object_mut() else { return shown };
    fields.insert("name".into(), FlowName(&divergence.flow).to_string().into());
    fields.insert("summary".into(), divergence.summary().into());
    fields.insert("time_ns".into(), clock.time_ns(divergence.at).into());
    let mut frame = |name: &str, frame: Option<&Captured>| {
        let Some(frame) = frame else { return };
        let Some(left) = bytes_left.checked_sub(frame.octets.len()) else { return };
        *bytes_left = left;
        let shown = json!({
            "time_ns": clock.time_ns(frame.since),
            "original_len": frame.original_len,
            "octets": hex(&frame.octets),
        });
        fields.insert(name.into(), shown);
    };
    frame("primary_frame", divergence.primary_frame.as_ref());
    frame("secondary_frame", divergence.secondary_frame.as_ref());
    shown
}

fn hex(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len() * 2);
    for octet in octets {
        for digit in [octet >> 4, octet & 0xf] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    text
}
