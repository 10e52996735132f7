//! The tunnel of the kernel lane: a VXLAN device (RFC 7348) between the two hosts, with the Group
//! Policy extension, which carries 16 bits of `skb->mark` with each frame.
//!
//! The kernel checks neither who sends to a VXLAN device nor what: whoever can send UDP to this host
//! and knows the network identifier can. So a tunnel is for a link that the hosts have to themselves.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, new_connection};
use tokio::runtime::Runtime;

use colo_proxy_engine::pair::message::TunnelOffer;

use crate::gate::{self, GateError};
use crate::link::{self, Link};

/// What IANA has for VXLAN.
pub const PORT: u16 = 4789;
const ETHERNET_HEADER: u32 = 14;
/// Ethernet, VXLAN and UDP headers.
const HEADERS: u32 = ETHERNET_HEADER + 8 + 8;
/// What fits into the length of an IP packet.
const PACKET_MAX: u32 = 65_535;
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
/// An IPv4 datagram less the headers of the tunnel. Frames that are longer on their way are cut to
/// size before they reach the link.
const MTU_MAX: u32 = PACKET_MAX - HEADERS - IPV4_HEADER;

/// How long the kernel may take to answer once it has heard the question.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A network identifier has 24 bits.
pub(crate) const VNI_MASK: u32 = 0x00ff_ffff;

/// Where a tunnel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    pub local: IpAddr,
    pub remote: IpAddr,
    /// The longest IP packet that goes that way whole.
    pub mtu: u32,
}

/// What the kernel says of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    There(Link),
    Gone,
    /// It did not say.
    Unknown,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error(
        "the way to {remote} takes packets of {mtu} octets, and a guest with an MTU of {guest_mtu} needs {needed}; raise the MTU of the link between the hosts"
    )]
    TooNarrow { remote: IpAddr, mtu: u32, guest_mtu: u32, needed: u32 },
    #[error("{local} and {remote} are not of one IP version")]
    Mixed { local: IpAddr, remote: IpAddr },
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("interface {name} is in the way of the tunnel, and is no tunnel")]
    InTheWay { name: String },
    #[error("cannot {what} tunnel {name}")]
    Change { what: &'static str, name: String, source: rtnetlink::Error },
    #[error("cannot find tunnel {name}, which was made")]
    Gone { name: String },
    #[error("tunnel {name} was deleted, or taken away")]
    Deleted { name: String },
    #[error("tunnel {name} was taken down")]
    Down { name: String },
    #[error("the kernel does not tell of the interfaces behind tunnel {name}")]
    Unanswered { name: String },
    #[error(transparent)]
    Quiet(#[from] GateError),
}

impl Underlay {
    /// Octets of the longest frame that goes that way whole. One that is longer would be cut into
    /// fragments over IPv4, which many networks drop, and is refused over IPv6.
    pub(crate) fn frame_max(&self) -> u32 {
        let ip = if self.remote.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
        self.mtu.min(PACKET_MAX).saturating_sub(HEADERS - ETHERNET_HEADER + ip)
    }

    /// A guest's frames fit, with what the tunnel puts around them.
    pub fn check(&self, guest_mtu: u32) -> Result<(), TunnelError> {
        let ip = if self.remote.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
        let needed = guest_mtu.saturating_add(HEADERS + ip);
        if self.mtu >= needed {
            return Ok(());
        }
        Err(TunnelError::TooNarrow { remote: self.remote, mtu: self.mtu, guest_mtu, needed })
    }
}

/// The name of an instance's tunnel: the same after a daemon that died, whose tunnel stays.
pub fn name(instance: &str) -> String {
    // FNV-1a: an interface's name has 15 characters, an instance's has 64.
    let hash = instance
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    format!("colo-tun{:06x}", (hash >> 8) ^ (hash & 0xff_ffff))
}

/// Removes what a daemon that died has left under `name`.
pub async fn remove_leftover(name: &str) -> Result<(), TunnelError> {
    remove(&handle()?, name).await
}

/// An open tunnel. [`Tunnel::close`] removes it; a daemon that dies leaves it to the next one.
pub struct Tunnel {
    handle: Handle,
    name: String,
    ifindex: u32,
}

impl Tunnel {
    /// Makes the device in the network namespace of this thread, and leaves it down.
    pub async fn open(
        name: &str,
        underlay: &Underlay,
        channel: TunnelOffer,
    ) -> Result<Self, TunnelError> {
        let handle = handle()?;
        remove(&handle, name).await?;
        let Underlay { local, remote, .. } = *underlay;
        let device =
            LinkVxlan::new(name, channel.vni & VNI_MASK).port(channel.port).learning(false).gbp();
        let device = match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                device.local(local).remote(remote).udp_csum(false)
            }
            // Without its own checksum on IPv6 as well (RFC 6935): the guest's has it all.
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                device.local6(local).remote6(remote).udp_zero_csum6_tx(true).udp_zero_csum6_rx(true)
            }
            (local, remote) => return Err(TunnelError::Mixed { local, remote }),
        };
        handle
            .link()
            .add(device.mtu(MTU_MAX).build())
            .execute()
            .await
            .map_err(change("make", name))?;
        gate::disable_ipv6(name)?;
        // It would put together segments of different tags. (The link's own GRO looks at the tag.)
        gate::disable_gro(name)?;
        let made = find(&handle, name).await.ok_or_else(|| TunnelError::Gone { name: name.into() });
        let ifindex = made?.header.index;
        Ok(Self { handle, name: name.into(), ifindex })
    }

    /// Brings it up: frames go and come from here on.
    pub async fn set_up(&self) -> Result<(), TunnelError> {
        let up = LinkUnspec::new_with_index(self.ifindex).arp(false).up().build();
        self.handle.link().set(up).execute().await.map_err(change("bring up", &self.name))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Nobody has taken the device away, or down, as [`Asker`] has seen it. What could not be asked is
    /// asked again.
    pub(crate) fn check(&self, seen: Seen) -> Result<(), TunnelError> {
        let name = self.name.clone();
        match seen {
            Seen::Gone => Err(TunnelError::Deleted { name }),
            Seen::There(link) if !link.up => Err(TunnelError::Down { name }),
            Seen::There(_) | Seen::Unknown => Ok(()),
        }
    }

    /// Other interfaces of its namespace as they are now, each of which has to be told of.
    pub(crate) async fn links(&self, ifindexes: &[u32]) -> Result<Vec<(u32, Seen)>, TunnelError> {
        let links = links(&self.handle, ifindexes).await;
        if links.iter().any(|(_, seen)| *seen == Seen::Unknown) {
            return Err(TunnelError::Unanswered { name: self.name.clone() });
        }
        Ok(links)
    }

    /// Removes the device.
    pub async fn close(self) -> Result<(), TunnelError> {
        remove(&self.handle, &self.name).await
    }
}

/// rtnetlink's handle has no `Debug`.
impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Asks after interfaces, for a thread that may wait. It has a runtime of its own, so it is made and used
/// where none is.
pub(crate) struct Asker {
    runtime: Runtime,
    handle: Handle,
}

impl Asker {
    pub(crate) fn new() -> Result<Self, TunnelError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(TunnelError::Socket)?;
        let handle = {
            let _entered = runtime.enter();
            handle()?
        };
        Ok(Self { runtime, handle })
    }

    /// These interfaces as they are now. The kernel may have lost the answer, which is not waited for.
    pub(crate) fn links(&self, ifindexes: &[u32]) -> Vec<(u32, Seen)> {
        self.runtime.block_on(async {
            let asked = tokio::time::timeout(ANSWER_MAX, links(&self.handle, ifindexes));
            asked.await.unwrap_or_else(|_| unknown(ifindexes))
        })
    }
}

/// What is known of interfaces after which nobody could ask.
pub(crate) fn unknown(ifindexes: &[u32]) -> Vec<(u32, Seen)> {
    ifindexes.iter().map(|ifindex| (*ifindex, Seen::Unknown)).collect()
}

async fn links(handle: &Handle, ifindexes: &[u32]) -> Vec<(u32, Seen)> {
    let asked = ifindexes.iter().map(|ifindex| async move {
        let seen = match link::with_index(handle, *ifindex).await {
            Ok(Some(link)) => Seen::There(link),
            Ok(None) => Seen::Gone,
            Err(_) => Seen::Unknown,
        };
        (*ifindex, seen)
    });
    futures_util::future::join_all(asked).await
}

fn handle() -> Result<Handle, TunnelError> {
    let (connection, handle, _) = new_connection().map_err(TunnelError::Socket)?;
    tokio::spawn(connection);
    Ok(handle)
}

fn change(what: &'static str, name: &str) -> impl FnOnce(rtnetlink::Error) -> TunnelError {
    move |source| TunnelError::Change { what, name: name.into(), source }
}

async fn find(handle: &Handle, name: &str) -> Option<LinkMessage> {
    handle.link().get().match_name(name.to_owned()).execute().try_next().await.ok().flatten()
}

async fn remove(handle: &Handle, name: &str) -> Result<(), TunnelError> {
    let Some(link) = find(handle, name).await else { return Ok(()) };
    let is_tunnel = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Vxlan)),
        _ => false,
    });
    if !is_tunnel {
        return Err(TunnelError::InTheWay { name: name.into() });
    }
    handle.link().del(link.header.index).execute().await.map_err(change("remove", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay(remote: &str, mtu: u32) -> Underlay {
        let remote: IpAddr = remote.parse().expect("an address");
        Underlay { local: remote, remote, mtu }
    }

    #[test]
    fn a_guests_frames_have_to_fit() {
        assert!(underlay("10.0.0.2", 1550).check(1500).is_ok());
        let error = underlay("10.0.0.2", 1549).check(1500).expect_err("too narrow").to_string();
        assert!(error.contains("1549") && error.contains("needs 1550"), "{error}");
        assert!(underlay("fd00::2", 1569).check(1500).is_err());
        assert!(underlay("fd00::2", 1570).check(1500).is_ok());
        assert!(underlay("fd00::2", 9000).check(u32::MAX).is_err());
    }

    #[test]
    fn what_fits_is_known_by_the_octet() {
        for (remote, mtu) in [("10.0.0.2", 1550), ("fd00::2", 1570)] {
            assert!(underlay(remote, mtu).check(1500).is_ok());
            assert_eq!(
                underlay(remote, mtu).frame_max(),
                1514,
                "a guest's frame, and no octet more"
            );
        }
        assert_eq!(underlay("10.0.0.2", 65_536).frame_max(), 65_535 - 36, "a loopback");
        assert_eq!(underlay("10.0.0.2", 7).frame_max(), 0);
    }

    #[test]
    fn a_name_fits_and_is_the_instances_own() {
        let long = "x".repeat(64);
        for instance in ["tap0", "tap1", "web", &long] {
            assert!((1..=15).contains(&name(instance).len()), "{instance}");
            assert_eq!(name(instance), name(instance));
        }
        assert_ne!(name("tap0"), name("tap1"));
    }
}
