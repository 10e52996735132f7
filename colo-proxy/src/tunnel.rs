//! The tunnel of the kernel lane: a VXLAN device (RFC 7348) between the two hosts, with the Group
//! Policy extension, which carries 16 bits of `skb->mark` with each frame.
//!
//! The kernel checks neither the sender nor the frames of a VXLAN device. Every machine that can send
//! UDP to this host, and that knows the network identifier, can put frames into the tunnel. So a tunnel
//! is for a link that only the two hosts use.

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

/// The port that IANA has assigned to VXLAN.
pub const PORT: u16 = 4789;
const ETHERNET_HEADER_BYTES: u32 = 14;
/// Ethernet, VXLAN and UDP headers.
const HEADERS_BYTES: u32 = ETHERNET_HEADER_BYTES + 8 + 8;
/// The length field of an IP packet takes no more.
const PACKET_BYTES_MAX: u32 = 65_535;
const IPV4_HEADER_BYTES: u32 = 20;
const IPV6_HEADER_BYTES: u32 = 40;
/// The MTU of the device: an IPv4 packet less the headers of the tunnel. The kernel segments longer
/// frames before they reach the link.
const MTU_BYTES_MAX: u32 = PACKET_BYTES_MAX - HEADERS_BYTES - IPV4_HEADER_BYTES;

/// How long the kernel may take to answer after it has received the question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A network identifier has 24 bits.
pub(crate) const VNI_MASK: u32 = 0x00ff_ffff;

/// The two ends of a tunnel, and the path between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    pub local: IpAddr,
    pub remote: IpAddr,
    /// Bytes of the longest IP packet that takes this path whole.
    pub mtu: u32,
}

/// The kernel's answer to a question about an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkAnswer {
    Present(Link),
    Gone,
    /// The kernel did not answer.
    Unanswered,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error(
        "the path to {remote} takes packets of {mtu} bytes, but a guest with an MTU of {guest_mtu} \
         needs {needed}; raise the MTU of the link between the hosts"
    )]
    TooNarrow { remote: IpAddr, mtu: u32, guest_mtu: u32, needed: u32 },
    #[error("{local} and {remote} have different IP versions")]
    Mixed { local: IpAddr, remote: IpAddr },
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("interface {name} has the name of the tunnel and is no tunnel; rename or delete it")]
    InTheWay { name: String },
    #[error("cannot {action} tunnel {name}")]
    Change { action: &'static str, name: String, source: rtnetlink::Error },
    #[error("tunnel {name} was made, but the kernel does not find it")]
    Gone { name: String },
    #[error("tunnel {name} was deleted, or moved to another network namespace")]
    Deleted { name: String },
    #[error("tunnel {name} was taken down")]
    Down { name: String },
    #[error("the kernel does not answer a question about the interfaces behind tunnel {name}")]
    Unanswered { name: String },
    #[error(transparent)]
    Quiet(#[from] GateError),
}

impl Underlay {
    /// Bytes of the longest frame that takes this path whole. A longer one would become fragments
    /// over IPv4, which many networks drop. IPv6 would refuse it.
    pub(crate) fn frame_max(&self) -> u32 {
        let around = HEADERS_BYTES - ETHERNET_HEADER_BYTES + self.ip_header_bytes();
        self.mtu.min(PACKET_BYTES_MAX).saturating_sub(around)
    }

    fn ip_header_bytes(&self) -> u32 {
        if self.remote.is_ipv4() { IPV4_HEADER_BYTES } else { IPV6_HEADER_BYTES }
    }

    /// Fails if a guest's frames do not fit together with the headers of the tunnel.
    pub fn check(&self, guest_mtu: u32) -> Result<(), TunnelError> {
        let needed = guest_mtu.saturating_add(HEADERS_BYTES + self.ip_header_bytes());
        if self.mtu >= needed {
            return Ok(());
        }
        Err(TunnelError::TooNarrow { remote: self.remote, mtu: self.mtu, guest_mtu, needed })
    }
}

/// The name of an instance's tunnel. It is the same in the next daemon, which finds by it the tunnel
/// that a dead daemon has left.
pub fn name(instance: &str) -> String {
    // A hash (FNV-1a), because an interface's name has 15 characters and an instance's has 64.
    let hash = instance
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("colo-tun{:06x}", (hash >> 8) ^ (hash & 0xff_ffff))
}

/// Removes the tunnel that a dead daemon has left under `name`, if any.
pub async fn remove_leftover(name: &str) -> Result<(), TunnelError> {
    remove(&handle()?, name).await
}

/// An open tunnel. [`Tunnel::close`] removes it. A daemon that dies leaves it to the next daemon.
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
            // No UDP checksum on IPv6 either (RFC 6935): the guest's checksum covers its data.
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                device.local6(local).remote6(remote).udp_zero_csum6_tx(true).udp_zero_csum6_rx(true)
            }
            (local, remote) => return Err(TunnelError::Mixed { local, remote }),
        };
        handle
            .link()
            .add(device.mtu(MTU_BYTES_MAX).build())
            .execute()
            .await
            .map_err(change("make", name))?;
        gate::disable_ipv6(name)?;
        // GRO on this device would merge segments with different tags. The GRO of the link below
        // compares the tags.
        gate::disable_gro(name)?;
        let made = find(&handle, name).await.ok_or_else(|| TunnelError::Gone { name: name.into() });
        let ifindex = made?.header.index;
        Ok(Self { handle, name: name.into(), ifindex })
    }

    /// Brings the device up. Frames go and come from here on.
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

    /// Fails if somebody has taken the device away, or down. No answer is no failure: the owner asks
    /// again.
    pub(crate) fn check(&self, answer: LinkAnswer) -> Result<(), TunnelError> {
        let name = self.name.clone();
        match answer {
            LinkAnswer::Gone => Err(TunnelError::Deleted { name }),
            LinkAnswer::Present(link) if !link.up => Err(TunnelError::Down { name }),
            LinkAnswer::Present(_) | LinkAnswer::Unanswered => Ok(()),
        }
    }

    /// Other interfaces of its namespace as they are now. Fails if one of them has no answer.
    pub(crate) async fn links(
        &self,
        ifindexes: &[u32],
    ) -> Result<Vec<(u32, LinkAnswer)>, TunnelError> {
        let links = links(&self.handle, ifindexes).await;
        if links.iter().any(|(_, answer)| *answer == LinkAnswer::Unanswered) {
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

/// Asks the kernel about interfaces, for a thread that may block. It has a runtime of its own, so the
/// thread that makes and uses it must have none.
pub(crate) struct LinkQuerier {
    runtime: Runtime,
    handle: Handle,
}

impl LinkQuerier {
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

    /// These interfaces as they are now. The kernel may lose an answer, so the wait for it ends.
    pub(crate) fn links(&self, ifindexes: &[u32]) -> Vec<(u32, LinkAnswer)> {
        self.runtime.block_on(async {
            let asked = tokio::time::timeout(ANSWER_TIMEOUT, links(&self.handle, ifindexes));
            asked.await.unwrap_or_else(|_| unanswered(ifindexes))
        })
    }
}

/// The answers for interfaces about which the kernel said nothing.
pub(crate) fn unanswered(ifindexes: &[u32]) -> Vec<(u32, LinkAnswer)> {
    ifindexes.iter().map(|ifindex| (*ifindex, LinkAnswer::Unanswered)).collect()
}

async fn links(handle: &Handle, ifindexes: &[u32]) -> Vec<(u32, LinkAnswer)> {
    let asked = ifindexes.iter().map(|ifindex| async move {
        let answer = match link::with_index(handle, *ifindex).await {
            Ok(Some(link)) => LinkAnswer::Present(link),
            Ok(None) => LinkAnswer::Gone,
            Err(_) => LinkAnswer::Unanswered,
        };
        (*ifindex, answer)
    });
    futures_util::future::join_all(asked).await
}

fn handle() -> Result<Handle, TunnelError> {
    let (connection, handle, _) = new_connection().map_err(TunnelError::Socket)?;
    tokio::spawn(connection);
    Ok(handle)
}

fn change(action: &'static str, name: &str) -> impl FnOnce(rtnetlink::Error) -> TunnelError {
    move |source| TunnelError::Change { action, name: name.into(), source }
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
    fn what_fits_is_known_by_the_byte() {
        for (remote, mtu) in [("10.0.0.2", 1550), ("fd00::2", 1570)] {
            assert!(underlay(remote, mtu).check(1500).is_ok());
            assert_eq!(
                underlay(remote, mtu).frame_max(),
                1514,
                "a guest's frame, and no byte more"
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
