//! The lines of QEMU's command line that fit a configuration: for QEMU on this host, which needs
//! none of its filters, and, where asked for, for a QEMU on the other host that does the network
//! side by itself, with its own filters.

use crate::config::{ColoFrameKind, Guest, Role, SideConfig};
use crate::endpoint::{Endpoint, EndpointAddress};

/// The identifiers of QEMU's objects.
const NETDEV: &str = "hn0";
/// Time between two attempts of a QEMU that connects.
const RECONNECT_MS: u32 = 1000;
/// The ways within one QEMU: from its redirector to its colo-compare, and back.
const LOOPBACK: &str = "127.0.0.1";
const PRIMARY_IN_PORT: u16 = 9001;
const COMPARE_OUT_PORT: u16 = 9006;

/// What fits `guest`, a line an argument, for a shell.
pub fn for_this_host(guest: &Guest) -> String {
    let mut lines = Lines::default();
    let name = guest.name.as_deref().unwrap_or(&guest.netdev);
    lines.comment(&format!("{name}: {} of {}, no filters", guest.role(), guest.netdev));
    lines.netdev(&guest.netdev, guest.vnet_hdr_support);
    match &guest.colo_frame {
        Some(ColoFrameKind::Qmp(endpoint)) => {
            lines.add(&format!("-qmp {}", listening(endpoint)));
        }
        Some(_) => {}
        None => lines.comment("no colo_frame in the configuration: nobody makes checkpoints"),
    }
    if guest.role() == Role::Secondary {
        match &guest.migrate {
            Some(uri) => lines.add(&format!("-incoming {uri}")),
            None => lines.add("-incoming tcp:0.0.0.0:9998"),
        }
    }
    lines.text
}

/// What a QEMU on the other host needs that does its half by its own filters.
pub fn for_qemu_on_the_other_host(guest: &Guest) -> String {
    let mut lines = Lines::default();
    let vnet_hdr = if guest.vnet_hdr_support { ",vnet_hdr_support=on" } else { "" };
    match &guest.side {
        SideConfig::Primary { mirror, secondary_in, .. } => {
            lines.comment("the secondary on the other host, by QEMU's own filters");
            lines.netdev(&guest.netdev, guest.vnet_hdr_support);
            lines.socket("mirror", mirror);
            lines.socket("out", secondary_in);
            lines.object(&format!("filter-redirector,id=f1,queue=tx,indev=mirror{vnet_hdr}"));
            lines.object(&format!("filter-redirector,id=f2,queue=rx,outdev=out{vnet_hdr}"));
            lines.object(&format!("filter-rewriter,id=rew0,queue=all{vnet_hdr}"));
            lines.add(&format!(
                "-incoming {}",
                guest.migrate.as_deref().unwrap_or("tcp:0.0.0.0:9998")
            ));
        }
        SideConfig::Secondary { mirror, secondary_out, .. } => {
            lines.comment("the primary on the other host, by QEMU's own filters and colo-compare");
            lines.netdev(&guest.netdev, guest.vnet_hdr_support);
            lines.socket("mirror", mirror);
            lines.socket("secondary-in", secondary_out);
            lines.loopback("primary-in", PRIMARY_IN_PORT);
            lines.loopback("compare-out", COMPARE_OUT_PORT);
            lines.object(&format!("filter-mirror,id=m0,queue=tx,outdev=mirror{vnet_hdr}"));
            lines
                .object(&format!("filter-redirector,id=r0,queue=rx,indev=compare-out-0{vnet_hdr}"));
            lines
                .object(&format!("filter-redirector,id=r1,queue=rx,outdev=primary-in-0{vnet_hdr}"));
            lines.add("-object iothread,id=compare-thread");
            lines.add(&format!(
                "-object colo-compare,id=compare0,primary_in=primary-in,\
                 secondary_in=secondary-in,outdev=compare-out,iothread=compare-thread{vnet_hdr}"
            ));
        }
    }
    if guest.control.is_some() {
        lines.comment("no control lane: leave `control` out of this host's configuration");
    }
    lines.text
}

#[derive(Debug, Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    fn comment(&mut self, text: &str) {
        self.add(&format!("# {text}"));
    }

    /// vhost would take the guest's frames past the TAP's own queue, and past the programs on it.
    fn netdev(&mut self, ifname: &str, vnet_hdr: bool) {
        let plain = if vnet_hdr { "" } else { ",vnet_hdr=off" };
        self.add(&format!(
            "-netdev tap,id={NETDEV},ifname={ifname},script=no,downscript=no,vhost=off{plain}"
        ));
        self.add(&format!("-device virtio-net-pci,netdev={NETDEV}"));
    }

    fn object(&mut self, of: &str) {
        // The filter's kind, then where it is.
        let (kind, rest) = of.split_once(',').unwrap_or((of, ""));
        self.add(&format!("-object {kind},netdev={NETDEV},{rest}"));
    }

    /// The other end of a lane of ours.
    fn socket(&mut self, id: &str, ours: &Endpoint) {
        let address = match &ours.address {
            EndpointAddress::Unix(path) => format!("path={}", path.display()),
            EndpointAddress::Tcp { host, port } if ours.server && is_any(host) => {
                self.comment(&format!("{id}: the address of this host in the place of {host}"));
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

    /// Both ends of a way within one QEMU.
    fn loopback(&mut self, id: &str, port: u16) {
        let at = format!("host={LOOPBACK},port={port}");
        self.add(&format!("-chardev socket,id={id},{at},server=on,wait=off"));
        self.add(&format!("-chardev socket,id={id}-0,{at}"));
    }
}

/// What QEMU listens on for us to connect to.
fn listening(endpoint: &Endpoint) -> String {
    let address = Endpoint { server: false, nodelay: false, ..endpoint.clone() };
    format!("{address},server=on,wait=off")
}

fn is_any(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn guest(text: &str) -> Guest {
        parse(text, Path::new("test.toml")).unwrap().remove(0)
    }

    const PRIMARY: &str = r#"
        [[guest]]
        name = "web"
        role = "primary"
        netdev = "tap0"
        mirror = "tcp:10.0.0.1:9003,server,nodelay"
        secondary_in = "tcp:0.0.0.0:9004,server"
        colo_frame = "qmp:unix:/run/web.qmp"
        migrate = "tcp:10.0.0.2:9998"
        vnet_hdr_support = true"#;

    const SECONDARY: &str = r#"
        [[guest]]
        role = "secondary"
        netdev = "tap0"
        mirror = "tcp:10.0.0.1:9003"
        secondary_out = "unix:/run/out"
        colo_frame = "qmp:unix:/run/web.qmp""#;

    #[test]
    fn ours_needs_no_filters() {
        assert_eq!(
            for_this_host(&guest(PRIMARY)),
            "# web: primary of tap0, no filters\n\
             -netdev tap,id=hn0,ifname=tap0,script=no,downscript=no,vhost=off\n\
             -device virtio-net-pci,netdev=hn0\n\
             -qmp unix:/run/web.qmp,server=on,wait=off\n"
        );
        let secondary = for_this_host(&guest(SECONDARY));
        assert!(secondary.contains("vhost=off,vnet_hdr=off\n"), "{secondary}");
        assert!(secondary.contains("-incoming "), "{secondary}");
        assert!(!secondary.contains("-object"), "{secondary}");
    }

    #[test]
    fn qemus_secondary_meets_our_primary() {
        assert_eq!(
            for_qemu_on_the_other_host(&guest(PRIMARY)),
            "# the secondary on the other host, by QEMU's own filters\n\
             -netdev tap,id=hn0,ifname=tap0,script=no,downscript=no,vhost=off\n\
             -device virtio-net-pci,netdev=hn0\n\
             -chardev socket,id=mirror,host=10.0.0.1,port=9003,reconnect-ms=1000\n\
             # out: the address of this host in the place of 0.0.0.0\n\
             -chardev socket,id=out,host=0.0.0.0,port=9004,reconnect-ms=1000\n\
             -object filter-redirector,netdev=hn0,id=f1,queue=tx,indev=mirror,vnet_hdr_support=on\n\
             -object filter-redirector,netdev=hn0,id=f2,queue=rx,outdev=out,vnet_hdr_support=on\n\
             -object filter-rewriter,netdev=hn0,id=rew0,queue=all,vnet_hdr_support=on\n\
             -incoming tcp:10.0.0.2:9998\n"
        );
    }

    #[test]
    fn qemus_primary_meets_our_secondary() {
        let text = for_qemu_on_the_other_host(&guest(SECONDARY));
        for line in [
            "-chardev socket,id=mirror,host=10.0.0.1,port=9003,server=on,wait=off\n",
            "-chardev socket,id=secondary-in,path=/run/out,server=on,wait=off\n",
            "-object filter-mirror,netdev=hn0,id=m0,queue=tx,outdev=mirror\n",
            "-object filter-redirector,netdev=hn0,id=r0,queue=rx,indev=compare-out-0\n",
            "-object filter-redirector,netdev=hn0,id=r1,queue=rx,outdev=primary-in-0\n",
            "-object colo-compare,id=compare0,primary_in=primary-in,secondary_in=secondary-in,\
             outdev=compare-out,iothread=compare-thread\n",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
        assert!(!text.contains("vnet_hdr_support"), "{text}");
    }
}
