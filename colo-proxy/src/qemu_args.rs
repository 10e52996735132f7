//! The lines of QEMU's command line that fit a configuration.
//!
//! A QEMU on this host needs no filters. A QEMU on the other host that has no colo-proxy does the
//! network side itself, with its own filters.

use crate::config::{ColoFrameKind, Guest, Role, SideConfig};
use crate::endpoint::{Endpoint, EndpointAddress};

/// The identifiers of QEMU's objects.
const NETDEV: &str = "hn0";
/// Time between two attempts of a QEMU that connects.
const RECONNECT_MS: u32 = 1000;
/// The connections within one QEMU: from its redirector to its colo-compare, and back.
const LOOPBACK: &str = "127.0.0.1";
const PRIMARY_IN_PORT: u16 = 9001;
const COMPARE_OUT_PORT: u16 = 9006;
/// The port of `-incoming` if the configuration names none.
const INCOMING_PORT: u16 = 9998;

/// Why no command line fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QemuArgsError {
    #[error(
        "guest `{guest}`: the configuration does not say at which address the secondary's QEMU \
         waits for the migration (-incoming)"
    )]
    Incoming { guest: String },
}

impl QemuArgsError {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Incoming { .. } => {
                "set migrate to the secondary host's address on the replication link, for example \
                 migrate = \"tcp:10.0.9.2:9998\""
            }
        }
    }
}

/// The lines for QEMU on this host that fit `guest`, one argument each, for a shell.
pub fn for_this_host(guest: &Guest) -> Result<String, QemuArgsError> {
    let mut lines = QemuLines::default();
    lines.comment(&format!("{}: {} of {}, no filters", guest.shown(), guest.role(), guest.netdev));
    lines.netdev(&guest.netdev, guest.vnet_hdr_support);
    match &guest.colo_frame {
        Some(ColoFrameKind::Qmp(endpoint)) => {
            lines.add(&format!("-qmp {}", listening(endpoint)));
        }
        Some(_) => {}
        None => lines.comment("no colo_frame in the configuration: nobody makes checkpoints"),
    }
    if guest.role() == Role::Secondary {
        // Only QEMU's own COLO-frame needs the migration.
        let is_qemus =
            matches!(guest.colo_frame, Some(ColoFrameKind::Qmp(_) | ColoFrameKind::Xen(_)));
        if is_qemus || guest.migrate.is_some() {
            let is_here = |endpoint: &Endpoint| endpoint.server;
            lines.add(&format!("-incoming {}", incoming(guest, is_here)?));
        } else {
            lines.comment("no migrate in the configuration: QEMU waits for no migration");
        }
    }
    Ok(lines.text)
}

/// The lines for a QEMU on the other host that does its half by its own filters.
pub fn for_qemu_on_the_other_host(guest: &Guest) -> Result<String, QemuArgsError> {
    let mut lines = QemuLines::default();
    match &guest.side {
        SideConfig::Primary { mirror, secondary_in, .. } => {
            lines.qemus_secondary(guest, mirror, secondary_in)?;
        }
        SideConfig::Secondary { mirror, secondary_out, .. } => {
            lines.qemus_primary(guest, mirror, secondary_out);
        }
    }
    if guest.control.is_some() {
        lines.comment("no control lane: leave `control` out of this host's configuration");
    }
    Ok(lines.text)
}

/// Where the secondary's QEMU waits for the migration: as configured, or at the address of its host,
/// which an endpoint that `is_there` has.
fn incoming(guest: &Guest, is_there: fn(&Endpoint) -> bool) -> Result<String, QemuArgsError> {
    if let Some(uri) = &guest.migrate {
        return Ok(uri.clone());
    }
    let (SideConfig::Primary { mirror, secondary_in: other, .. }
    | SideConfig::Secondary { mirror, secondary_out: other, .. }) = &guest.side;
    let endpoints = guest.control.iter().chain([mirror, other]);
    let host = endpoints.filter(|endpoint| is_there(endpoint)).find_map(|endpoint| {
        match &endpoint.address {
            // An address that means every network of the host would let anybody migrate into it.
            EndpointAddress::Tcp { host, .. } if !is_any(host) => Some(host),
            EndpointAddress::Tcp { .. } | EndpointAddress::Unix(_) => None,
        }
    });
    let Some(host) = host else {
        return Err(QemuArgsError::Incoming { guest: guest.shown().to_owned() });
    };
    let brackets = if host.contains(':') { ["[", "]"] } else { ["", ""] };
    Ok(format!("tcp:{}{host}{}:{INCOMING_PORT}", brackets[0], brackets[1]))
}

#[derive(Debug, Default)]
struct QemuLines {
    text: String,
}

impl QemuLines {
    fn add(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    fn comment(&mut self, text: &str) {
        self.add(&format!("# {text}"));
    }

    /// A secondary of QEMU's for our primary.
    fn qemus_secondary(
        &mut self,
        guest: &Guest,
        mirror: &Endpoint,
        secondary_in: &Endpoint,
    ) -> Result<(), QemuArgsError> {
        let vnet_hdr = vnet_hdr(guest);
        self.comment("the secondary on the other host, by QEMU's own filters");
        self.netdev(&guest.netdev, guest.vnet_hdr_support);
        self.socket("mirror", mirror);
        self.socket("out", secondary_in);
        self.object(&format!("filter-redirector,id=f1,queue=tx,indev=mirror{vnet_hdr}"));
        self.object(&format!("filter-redirector,id=f2,queue=rx,outdev=out{vnet_hdr}"));
        self.object(&format!("filter-rewriter,id=rew0,queue=all{vnet_hdr}"));
        // An endpoint to which we connect has the other host's address.
        self.add(&format!("-incoming {}", incoming(guest, |endpoint| !endpoint.server)?));
        Ok(())
    }

    /// A primary of QEMU's for our secondary.
    fn qemus_primary(&mut self, guest: &Guest, mirror: &Endpoint, secondary_out: &Endpoint) {
        let vnet_hdr = vnet_hdr(guest);
        self.comment("the primary on the other host, by QEMU's own filters and colo-compare");
        self.netdev(&guest.netdev, guest.vnet_hdr_support);
        self.socket("mirror", mirror);
        self.socket("secondary-in", secondary_out);
        self.loopback("primary-in", PRIMARY_IN_PORT);
        self.loopback("compare-out", COMPARE_OUT_PORT);
        self.object(&format!("filter-mirror,id=m0,queue=tx,outdev=mirror{vnet_hdr}"));
        self.object(&format!("filter-redirector,id=r0,queue=rx,indev=compare-out-0{vnet_hdr}"));
        self.object(&format!("filter-redirector,id=r1,queue=rx,outdev=primary-in-0{vnet_hdr}"));
        self.add("-object iothread,id=compare-thread");
        self.add(&format!(
            "-object colo-compare,id=compare0,primary_in=primary-in,\
             secondary_in=secondary-in,outdev=compare-out,iothread=compare-thread{vnet_hdr}"
        ));
    }

    /// vhost would take the guest's frames past the TAP's own queue, and past the programs on it.
    fn netdev(&mut self, ifname: &str, vnet_hdr: bool) {
        let plain = if vnet_hdr { "" } else { ",vnet_hdr=off" };
        self.add(&format!(
            "-netdev tap,id={NETDEV},ifname={ifname},script=no,downscript=no,vhost=off{plain}"
        ));
        self.add(&format!("-device virtio-net-pci,netdev={NETDEV}"));
    }

    /// A filter on the netdev: its kind, then its properties.
    fn object(&mut self, filter: &str) {
        let (kind, rest) = filter.split_once(',').unwrap_or((filter, ""));
        self.add(&format!("-object {kind},netdev={NETDEV},{rest}"));
    }

    /// The other end of a lane of ours.
    fn socket(&mut self, id: &str, ours: &Endpoint) {
        let address = match &ours.address {
            EndpointAddress::Unix(path) => format!("path={}", path.display()),
            EndpointAddress::Tcp { host, port } if ours.server && is_any(host) => {
                self.comment(&format!("{id}: put the address of this host in the place of {host}"));
                format!("host={host},port={port}")
            }
            EndpointAddress::Tcp { host, port } => format!("host={host},port={port}"),
        };
        let role = if ours.server {
            format!("reconnect-ms={RECONNECT_MS}")
        } else {
            "server=on,wait=off".to_owned()
        };
        self.add(&format!("-chardev socket,id={id},{address},{role}"));
    }

    /// Both ends of a connection within one QEMU.
    fn loopback(&mut self, id: &str, port: u16) {
        let at = format!("host={LOOPBACK},port={port}");
        self.add(&format!("-chardev socket,id={id},{at},server=on,wait=off"));
        self.add(&format!("-chardev socket,id={id}-0,{at}"));
    }
}

fn vnet_hdr(guest: &Guest) -> &'static str {
    if guest.vnet_hdr_support { ",vnet_hdr_support=on" } else { "" }
}

/// The socket on which QEMU listens for us.
fn listening(endpoint: &Endpoint) -> String {
    let address = Endpoint { server: false, nodelay: false, ..endpoint.clone() };
    format!("{address},server=on,wait=off")
}

fn is_any(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified())
}

#[cfg(test)]
mod tests;
