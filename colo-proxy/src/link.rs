//! Network interfaces of this host, over route netlink: they come, go, and are set up or down.
//!
//! The guest's TAP belongs to QEMU: a guest that restarts deletes it and makes a new one of the
//! same name, on which none of our programs are attached.

use std::io;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, Stats64,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, MulticastGroup, new_connection,
    new_multicast_connection,
};

/// Why something could not be done with an interface.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error(
        "netdev {name}: no such interface in this network namespace; start QEMU first, or create the TAP (`ip tuntap add dev {name} mode tap vnet_hdr`)"
    )]
    Missing { name: String },
    #[error(
        "netdev {name} is not a TAP: name the guest's TAP, which QEMU has open. The frames of another \
         interface are the host's own, and a TUN device has no Ethernet frames"
    )]
    NotATap { name: String },
    #[error("cannot {what} interface {name}")]
    Change { what: &'static str, name: String, source: rtnetlink::Error },
}

/// An interface as the kernel shows it at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    /// Made by the TUN driver, for Ethernet frames.
    pub tap: bool,
    /// Administratively up.
    pub up: bool,
    /// A process has the other end open: QEMU, while the guest lives.
    pub is_open: bool,
    /// Frames that may wait for the process that has it open.
    pub queue_len: u32,
    /// The longest IP packet that fits into its frames.
    pub mtu: u32,
    /// Frames that came in on it since it was made.
    pub rx_frames: u64,
    /// Frames that the process that has it open has taken.
    pub tx_frames: u64,
    /// Frames for which its queue had no room.
    pub tx_dropped: u64,
}

/// An event of the watched interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is there, with this index.
    Arrived(Link),
    /// It is gone.
    Left,
}

/// Watches one interface by name.
pub struct LinkWatch {
    name: String,
    /// Asks on a socket of its own. On the socket of events, the kernel drops an answer for which a flood
    /// has left no room, and the one who asked would wait for ever.
    handle: Handle,
    messages: Messages,
    /// Only kept: without it the messages end.
    _events: Handle,
    /// The index that was reported last.
    present: Option<u32>,
    /// The kernel dropped messages, so the present state has yet to be asked for.
    overrun: bool,
}

type Messages = futures_util::stream::BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

impl std::fmt::Debug for LinkWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkWatch")
            .field("name", &self.name)
            .field("present", &self.present)
            .finish_non_exhaustive()
    }
}

impl LinkWatch {
    /// Starts to watch `name`, which must be there, and returns it as it is now.
    pub async fn start(name: &str) -> Result<(Self, Link), LinkError> {
        let (connection, events, messages) =
            new_multicast_connection(&[MulticastGroup::Link]).map_err(LinkError::Socket)?;
        tokio::spawn(connection);
        let (connection, handle, _) = new_connection().map_err(LinkError::Socket)?;
        tokio::spawn(connection);
        let mut watch = Self {
            name: name.into(),
            handle,
            messages: messages.map(|(message, _)| message).boxed(),
            _events: events,
            present: None,
            overrun: false,
        };
        let link = watch.get().await.ok_or_else(|| LinkError::Missing { name: name.into() })?;
        if !link.tap {
            return Err(LinkError::NotATap { name: name.into() });
        }
        watch.present = Some(link.ifindex);
        Ok((watch, link))
    }

    /// Waits until the interface goes or comes. Can be dropped without losing an event.
    pub async fn next(&mut self) -> LinkEvent {
        loop {
            if self.overrun {
                let now = self.get().await;
                self.overrun = false;
                if let Some(event) = self.compare(now) {
                    return event;
                }
            }
            let Some(message) = self.messages.next().await else {
                // The netlink task only ends with the runtime.
                return std::future::pending().await;
            };
            let seen = match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    self.seen(&link, true)
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                    self.seen(&link, false)
                }
                // The present state makes up for the dropped messages.
                NetlinkPayload::Overrun(_) => {
                    self.overrun = true;
                    None
                }
                _ => None,
            };
            if let Some(event) = seen {
                return event;
            }
        }
    }

    /// The interface as it is now.
    pub async fn get(&self) -> Option<Link> {
        get(&self.handle, &self.name).await
    }

    /// Another interface of this namespace as it is now.
    pub async fn other(&self, name: &str) -> Option<Link> {
        get(&self.handle, name).await
    }

    /// Brings the interface up or takes it down.
    pub async fn set_up(&self, ifindex: u32, up: bool) -> Result<(), LinkError> {
        let unspec = LinkUnspec::new_with_index(ifindex);
        let change = if up { unspec.up() } else { unspec.down() }.build();
        self.handle.link().set(change).execute().await.map_err(|source| LinkError::Change {
            what: if up { "bring up" } else { "take down" },
            name: self.name.clone(),
            source,
        })
    }

    /// Lets at least `frames` wait in the interface's queue.
    pub async fn raise_queue(&self, link: Link, frames: u32) -> Result<(), LinkError> {
        if link.queue_len >= frames {
            return Ok(());
        }
        let change = LinkMessageBuilder::<LinkUnspec>::default()
            .index(link.ifindex)
            .append_extra_attribute(LinkAttribute::TxQueueLen(frames))
            .build();
        self.handle.link().set(change).execute().await.map_err(|source| LinkError::Change {
            what: "lengthen the queue of",
            name: self.name.clone(),
            source,
        })
    }

    fn seen(&mut self, message: &LinkMessage, there: bool) -> Option<LinkEvent> {
        // Messages about a bridge port come in the bridge's own address family.
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let ours = name_of(message) == Some(self.name.as_str());
        if there && ours {
            return self.compare(Some(read(message)));
        }
        // Deleted, or renamed, which is the same to us.
        if self.present == Some(message.header.index) && !(there && ours) {
            return self.compare(None);
        }
        None
    }

    fn compare(&mut self, now: Option<Link>) -> Option<LinkEvent> {
        let index = now.map(|link| link.ifindex);
        if index == self.present {
            return None;
        }
        self.present = index;
        Some(now.map_or(LinkEvent::Left, LinkEvent::Arrived))
    }
}

/// The interface with this index as it is now; `None` if there is none (any more).
pub(crate) async fn with_index(
    handle: &Handle,
    ifindex: u32,
) -> Result<Option<Link>, rtnetlink::Error> {
    let mut links = handle.link().get().match_index(ifindex).execute();
    match links.try_next().await {
        Ok(message) => Ok(message.map(|message| read(&message))),
        Err(rtnetlink::Error::NetlinkError(message))
            if message.raw_code() == -nix::libc::ENODEV =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn get(handle: &Handle, name: &str) -> Option<Link> {
    let mut links = handle.link().get().match_name(name).execute();
    links.try_next().await.ok().flatten().map(|message| read(&message))
}

fn read(message: &LinkMessage) -> Link {
    let stats = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some(*stats),
        _ => None,
    });
    let stats: Stats64 = stats.unwrap_or_default();
    let queue_len = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::TxQueueLen(frames) => Some(*frames),
        _ => None,
    });
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(bytes) => Some(*bytes),
        _ => None,
    });
    Link {
        mtu: mtu.unwrap_or_default(),
        ifindex: message.header.index,
        tap: is_tap(message),
        up: message.header.flags.contains(LinkFlags::Up),
        is_open: message.header.flags.contains(LinkFlags::LowerUp),
        queue_len: queue_len.unwrap_or_default(),
        rx_frames: stats.rx_packets,
        tx_frames: stats.tx_packets,
        tx_dropped: stats.tx_dropped,
    }
}

/// The TUN driver also makes devices without Ethernet headers, on which every frame would vanish.
fn is_tap(message: &LinkMessage) -> bool {
    let has_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let is_of_the_driver = message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Tun)),
        _ => false,
    });
    has_ethernet && is_of_the_driver
}

fn name_of(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}
