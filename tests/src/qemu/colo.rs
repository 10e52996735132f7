//! QEMU's COLO-frame. The test drives it through both monitors, as a driver of checkpoints does,
//! without a network proxy.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::QemuGuest;
use crate::qmp::{Event, EventPlace, Qmp};

/// All of a guest's memory is copied once.
const ENTER_TIMEOUT: Duration = Duration::from_mins(1);
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(20);
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Only requested checkpoints happen: this delay is 49 days.
pub const NEVER_MS: u32 = u32::MAX;
/// In bytes per second; more than any link of the lab has.
const BANDWIDTH: u64 = 10 << 30;

/// The duration of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct PausePair {
    /// How long the primary's guest stood still.
    pub pause: Duration,
    /// How long the secondary's did.
    pub secondary_pause: Duration,
}

/// Brings a running guest, and one that waits for its state (`incoming`), into COLO.
pub fn enter(primary: &QemuGuest, secondary: &QemuGuest, delay_ms: u32) -> Result<()> {
    let uri = secondary.incoming().context("the secondary does not wait for a state")?;
    // The secondary comes first. If it does not know of COLO, it takes the state and runs.
    prepare(secondary)?;
    prepare(primary)?;
    let (primary, secondary) = (primary.qmp()?, secondary.qmp()?);
    set_delay(primary, delay_ms)?;
    primary.execute("migrate-set-parameters", &json!({"max-bandwidth": BANDWIDTH}))?;
    let places = [primary.place(), secondary.place()];
    // An emulated guest that runs during the copy of its memory sometimes loses a write, and its
    // copy crashes. COLO then continues the primary's guest.
    primary.execute("stop", &Value::Null)?;
    primary.execute("migrate", &json!({"uri": uri}))?;
    for (guest, place) in [primary, secondary].into_iter().zip(places) {
        let (_, place) = guest.wait("that it is in COLO", place, ENTER_TIMEOUT, |event| {
            event.name == "MIGRATION" && event.says("status") == "colo"
        })?;
        guest.wait_named("RESUME", place, ENTER_TIMEOUT)?;
    }
    Ok(())
}

/// Switches on the capabilities that COLO needs.
pub fn prepare(guest: &QemuGuest) -> Result<()> {
    let capabilities =
        ["return-path", "x-colo", "events"].map(|name| json!({"capability": name, "state": true}));
    let capabilities = json!({"capabilities": capabilities});
    guest.qmp()?.execute("migrate-set-capabilities", &capabilities).map(drop)
}

/// Requests a checkpoint and waits until it is done.
pub fn checkpoint(primary: &QemuGuest, secondary: &QemuGuest) -> Result<PausePair> {
    let places = [primary.qmp()?.place(), secondary.qmp()?.place()];
    request_checkpoint(primary)?;
    let [pause, secondary_pause] = [(primary, places[0]), (secondary, places[1])]
        .map(|(guest, place)| stood_still(guest.qmp()?, place));
    Ok(PausePair { pause: pause?, secondary_pause: secondary_pause? })
}

/// Only requests a checkpoint.
pub fn request_checkpoint(primary: &QemuGuest) -> Result<()> {
    // QEMU has no command for it. But a new delay, even the same one, is a reason for a checkpoint.
    set_delay(primary.qmp()?, NEVER_MS)
}

fn set_delay(primary: &Qmp, delay_ms: u32) -> Result<()> {
    primary.execute("migrate-set-parameters", &json!({"x-checkpoint-delay": delay_ms})).map(drop)
}

fn stood_still(guest: &Qmp, place: EventPlace) -> Result<Duration> {
    let (stop, place) = guest.wait_named("STOP", place, CHECKPOINT_TIMEOUT)?;
    let (resume, _) = guest.wait_named("RESUME", place, CHECKPOINT_TIMEOUT)?;
    Ok(resume.at.saturating_sub(stop.at))
}

/// The peer is gone, and this guest continues alone.
pub fn go_on_alone(guest: &QemuGuest) -> Result<()> {
    let qmp = guest.qmp()?;
    let place = qmp.place();
    qmp.execute("x-colo-lost-heartbeat", &Value::Null)?;
    let completed =
        |event: &Event| event.name == "MIGRATION" && event.says("status") == "completed";
    let (_, place) = qmp.wait("that COLO is over", place, FAILOVER_TIMEOUT, completed)?;
    qmp.wait_named("RESUME", place, FAILOVER_TIMEOUT)?;
    let status = qmp.execute("query-colo-status", &Value::Null)?;
    ensure!(status.get("mode") == Some(&json!("none")), "after a failover: {status}");
    Ok(())
}

/// Makes the guest announce its place to the LAN, as a daemon does at a takeover.
pub fn announce(guest: &QemuGuest) -> Result<()> {
    let pace = json!({"initial": 50, "max": 550, "rounds": 3, "step": 100});
    guest.qmp()?.execute("announce-self", &pace).map(drop)
}
