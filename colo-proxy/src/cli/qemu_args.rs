//! `colo-proxy qemu-args`: the arguments of QEMU that fit a configuration.

use std::path::Path;

use anyhow::ensure;
use colo_proxy::config::{self, Guest};
use colo_proxy::qemu_args::{for_qemu_on_the_other_host, for_this_host};

use super::args::PeerKind;
use super::output;

pub(super) fn print(path: &Path, name: Option<&str>, peer: PeerKind) -> anyhow::Result<()> {
    let guests = config::read(path)?;
    let is_named = |guest: &&Guest| {
        name.is_none_or(|name| guest.name.as_deref() == Some(name) || guest.netdev == name)
    };
    let named: Vec<&Guest> = guests.iter().filter(is_named).collect();
    let shown = path.display();
    ensure!(!named.is_empty(), "{shown} has no guest {}", name.unwrap_or_default());
    let mut text = String::new();
    for guest in named {
        text += &for_this_host(guest)?;
        if peer == PeerKind::Qemu {
            text += &for_qemu_on_the_other_host(guest)?;
        }
    }
    Ok(output::print(&text)?)
}
