//! `colo-proxy protect`: asks for a pair, and waits until there is one.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::bail;
use colo_proxy::status::{self, RUNTIME_DIR, Reply, Request};
use serde_json::Value;

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
        let Reply::Status(status) = status::ask(dir, &name, &Request::Status)? else {
            bail!("instance {name} does not tell its status");
        };
        if status["mode"] == "protected" {
            return Ok(output::print(&format!("{name}: protected\n"))?);
        }
        let frame = &status["detail"]["colo_frame"];
        if let Some(trouble) = frame["trouble"].as_str() {
            bail!("{name} is not protected: {trouble}");
        }
        if Instant::now() > deadline {
            bail!(
                "{name} is not protected after {timeout_s} s: {}",
                waits_for(&status, frame["state"].as_str().unwrap_or("unknown"))
            );
        }
        sleep(LOOK);
    }
}

/// What is missing, in words.
fn waits_for(status: &Value, qemu: &str) -> String {
    let lanes = &status["detail"]["lanes"];
    let down: Vec<&str> = [
        ("mirror", &lanes["mirror"]["connected"]),
        ("secondary_in", &lanes["secondary_in"]["connected"]),
        ("control", &lanes["control_up"]),
    ]
    .into_iter()
    .filter(|(_, up)| **up == Value::Bool(false))
    .map(|(name, _)| name)
    .collect();
    if down.is_empty() {
        format!("QEMU is {qemu}, the proxy {}", status["mode"])
    } else {
        format!(
            "the secondary's daemon is not connected ({} down); QEMU is {qemu}",
            down.join(", ")
        )
    }
}
