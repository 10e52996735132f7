//! QEMU's own parts of the proxy, as its documentation sets them up: arguments for a
//! [`QemuMachine`](super::machine::Machine).
//!
//! ```text
//!   primary:    m0 (input, to 9003)   r1 (output, to 9001)   r0 (output, from 9005)   colo-compare
//!   secondary:  f1 (input, from 9003) f2 (output, to 9004)   rew0 (both)
//! ```

use std::path::Path;

use super::machine::NETDEV;
use crate::daemon::{MIRROR_PORT, SECONDARY_PORT};
use crate::network::HostSide;

/// The ports on the primary's host to and from the compare. QEMU's documentation uses 9005 for the
/// second. Here, that is the port of the control lane.
const PRIMARY_PORT: u16 = 9001;
const RELEASED_PORT: u16 = 9002;

/// QEMU's parts of one pair.
#[derive(Clone, Copy, Debug)]
pub struct Filters {
    /// Whether frames have a virtio-net header between the hosts. The guests' TAPs must be the
    /// same.
    pub vnet_hdr: bool,
}

impl Filters {
    /// Mirror and redirectors of the primary, and two listening sockets for [`compare`](Self) on
    /// its host.
    pub fn primary(self) -> Vec<String> {
        let mut arguments = Vec::new();
        let host = HostSide::Primary.replication().to_string();
        for (id, host, port) in [
            ("mirror", host.as_str(), MIRROR_PORT),
            ("output", "127.0.0.1", PRIMARY_PORT),
            ("released", "127.0.0.1", RELEASED_PORT),
        ] {
            arguments.extend(socket(id, host, port, "server=on,wait=off"));
        }
        arguments.extend(self.object("filter-mirror,id=m0,queue=tx,outdev=mirror", true));
        arguments.extend(self.object("filter-redirector,id=r0,queue=rx,indev=released", true));
        arguments.extend(self.object("filter-redirector,id=r1,queue=rx,outdev=output", true));
        arguments
    }

    /// QEMU's own colo-compare, in the primary's machine. Its COLO-frame receives the requests
    /// directly.
    pub fn compare(self) -> Vec<String> {
        self.compare_with("")
    }

    /// The same for a COLO-frame that is not QEMU's. It receives the requests on the socket at
    /// `notify`.
    pub fn compare_notifying(self, notify: &Path) -> Vec<String> {
        let chardev = format!("socket,id=notify,path={},server=on,wait=off", notify.display());
        let mut arguments = vec!["-chardev".to_owned(), chardev];
        arguments.extend(self.compare_with(",notify_dev=notify"));
        arguments
    }

    fn compare_with(self, more: &str) -> Vec<String> {
        let host = HostSide::Primary.replication().to_string();
        let mut arguments = Vec::new();
        arguments.extend(socket("secondary-in", &host, SECONDARY_PORT, "server=on,wait=off"));
        arguments.extend(socket("primary-in", "127.0.0.1", PRIMARY_PORT, "server=off"));
        arguments.extend(socket("out", "127.0.0.1", RELEASED_PORT, "server=off"));
        arguments.extend(["-object".to_owned(), "iothread,id=thread0".to_owned()]);
        let compare = format!(
            "colo-compare,id=comp0,primary_in=primary-in,secondary_in=secondary-in,outdev=out,\
             iothread=thread0{more}"
        );
        arguments.extend(self.object(&compare, false));
        arguments
    }

    /// Redirectors and rewriter of the secondary.
    pub fn secondary(self) -> Vec<String> {
        self.secondary_connecting("reconnect-ms=100")
    }

    /// The same for a primary that already listens, and a QEMU of any age. The option to connect
    /// again has changed its name.
    pub fn secondary_once(self) -> Vec<String> {
        self.secondary_connecting("server=off")
    }

    fn secondary_connecting(self, how: &str) -> Vec<String> {
        let host = HostSide::Primary.replication().to_string();
        let mut arguments = Vec::new();
        for (id, port) in [("mirror", MIRROR_PORT), ("output", SECONDARY_PORT)] {
            arguments.extend(socket(id, &host, port, how));
        }
        arguments.extend(self.object("filter-redirector,id=f1,queue=tx,indev=mirror", true));
        arguments.extend(self.object("filter-redirector,id=f2,queue=rx,outdev=output", true));
        arguments.extend(self.object("filter-rewriter,id=rew0,queue=all", true));
        arguments
    }

    /// The arguments of our colo-compare, in the place of [`compare`](Self::compare).
    pub fn our_compare(self) -> Vec<String> {
        let host = HostSide::Primary.replication();
        let mut arguments: Vec<String> = [
            "colo-compare".to_owned(),
            format!("--primary-in=tcp:127.0.0.1:{PRIMARY_PORT},nodelay"),
            format!("--outdev=tcp:127.0.0.1:{RELEASED_PORT},nodelay"),
            format!("--secondary-in=tcp:{host}:{SECONDARY_PORT},server,nodelay"),
        ]
        .into();
        arguments.extend(self.vnet_hdr.then(|| "--vnet-hdr-support".to_owned()));
        arguments
    }

    fn object(self, text: &str, is_filter: bool) -> [String; 2] {
        let netdev = if is_filter { format!(",netdev={NETDEV}") } else { String::new() };
        let vnet_hdr = if self.vnet_hdr { "on" } else { "off" };
        ["-object".to_owned(), format!("{text}{netdev},vnet_hdr_support={vnet_hdr}")]
    }
}

fn socket(id: &str, host: &str, port: u16, more: &str) -> [String; 2] {
    ["-chardev".to_owned(), format!("socket,id={id},host={host},port={port},{more}")]
}
