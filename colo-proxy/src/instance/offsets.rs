//! Export and import of translated connections, for the operator and for a new secondary. They decide
//! whether the programs stay when the daemon ends.

use crate::datapath::{Datapath, DatapathError};
use crate::error_chain::chain;
use crate::guest_tap::GuestTap;
use crate::offsets::{format, parse};
use crate::status::Reply;
use colo_proxy_engine::pair::message::ControlMessage;

/// The connections of `instance` that are translated.
pub(crate) fn export(instance: &str, datapath: &Datapath) -> Reply {
    match datapath.export_offsets() {
        Ok(offsets) => Reply::Offsets(format(instance, &offsets)),
        Err(error) => Reply::Error(chain(&error)),
    }
}

/// Makes the connections in `text` known, all of them or none.
pub(crate) fn import(instance: &str, datapath: &mut Datapath, text: &str) -> Reply {
    let offsets = match parse(text, datapath.flows_max() as usize) {
        Ok(offsets) => offsets,
        Err(error) => return Reply::Error(format!("{}; nothing was imported", chain(&error))),
    };
    match datapath.import_offsets(&offsets, monotonic_ns()) {
        Ok(done) => {
            let message = format!(
                "{instance}: {} connections imported, {} of them were known",
                offsets.len(),
                done.updated
            );
            log::info!("{message}");
            Reply::Done(message)
        }
        Err(error) => Reply::Error(chain(&error)),
    }
}

/// Connections in one message. So many fit into a line of the control lane, quoted.
const CHUNK: usize = 64;

/// The messages that tell a new secondary which connections are translated, and how.
pub(super) fn messages(
    instance: &str,
    datapath: &Datapath,
) -> Result<Vec<ControlMessage>, DatapathError> {
    let offsets = datapath.export_offsets()?;
    let chunks = offsets.chunks(CHUNK);
    Ok(chunks.map(|some| ControlMessage::Offsets { text: format(instance, some) }).collect())
}

/// Takes such a message.
pub(super) fn on_message(instance: &str, datapath: &mut Datapath, text: &str) {
    if let Reply::Error(why) = import(instance, datapath, text) {
        log::error!(
            "{instance}: translated connections of an earlier pair were not taken over from the primary: \
             {why}. They would break in a failover"
        );
    }
}

/// Says whether the guest lives and has connections that would break without translation. Then the
/// programs stay attached when the daemon ends.
pub(crate) async fn is_needed(instance: &str, datapath: &Datapath, tap: &GuestTap) -> bool {
    let needed = datapath.is_pinned() && datapath.has_live_flows() && tap.is_open().await;
    if needed {
        log::warn!(
            "{instance}: connections depend on translation, so the programs stay attached and the \
             next daemon takes them over; to end them: rm -r /sys/fs/bpf/colo-proxy/{instance}"
        );
    }
    needed
}

/// `CLOCK_MONOTONIC`, the clock of the kernel programs.
pub(crate) fn monotonic_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
