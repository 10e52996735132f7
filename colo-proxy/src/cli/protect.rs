//! `colo-proxy protect`: asks for a pair, and waits until there is one.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::bail;
use colo_proxy::status::{
    self, ColoFrameReport, PrimaryLanes, RUNTIME_DIR, Reply, Request, Status,
};
use colo_proxy_engine::pair::Mode;

use super::output;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn protect(
    instance: &str,
    migrate: Option<String>,
    timeout_s: u32,
) -> anyhow::Result<()> {
    let dir = Path::new(RUNTIME_DIR);
    let name = status::find(dir, instance)?;
    match status::ask(dir, &name, &Request::Protect { migrate })? {
        Reply::Done(message) => output::print(&format!("{message}\n"))?,
        other => bail!("instance {name} answered {other:?}"),
    }
    let deadline = Instant::now() + Duration::from_secs(timeout_s.into());
    loop {
        let primary = match status::ask(dir, &name, &Request::Status)? {
            Reply::Status(status) => match *status {
                Status::Primary(primary) => primary,
                _ => bail!("instance {name} is not a primary"),
            },
            other => bail!("instance {name} answered {other:?}"),
        };
        if primary.guest.standing.mode == Mode::Protected {
            return Ok(output::print(&format!("{name}: protected\n"))?);
        }
        let qemu = match &primary.detail.colo_frame {
            ColoFrameReport::Qmp(qmp) => Some(&qmp.machine),
            _ => None,
        };
        if let Some(trouble) = qemu.and_then(|qemu| qemu.trouble.as_ref()) {
            bail!("{name} is not protected: {trouble}");
        }
        if Instant::now() > deadline {
            let state = qemu.map_or("unknown", |qemu| qemu.state.name());
            bail!(
                "{name} is not protected after {timeout_s} s: {}",
                waits_for(primary.guest.standing.mode, &primary.detail.lanes, state)
            );
        }
        sleep(LOOK);
    }
}

/// What is missing, in words.
fn waits_for(mode: Mode, lanes: &PrimaryLanes, qemu: &str) -> String {
    let down: Vec<&str> = [
        ("mirror", lanes.mirror.connected),
        ("secondary_in", lanes.secondary_in.connected),
        ("control", lanes.control_up),
    ]
    .into_iter()
    .filter(|(_, up)| !up)
    .map(|(name, _)| name)
    .collect();
    if down.is_empty() {
        format!("QEMU is {qemu}, the guest is {mode}")
    } else {
        format!(
            "the secondary's daemon is not connected ({} down); QEMU is {qemu}",
            down.join(", ")
        )
    }
}
