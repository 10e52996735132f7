//! The lab's network: a client, a switch and two hosts, each a network namespace of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::{cleanup, link};

mod mounts;
pub use mounts::Mounts;

pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
pub const CLIENT_MAC: &str = "52:54:00:c0:10:01";
/// The guest on the first TAP; see [`LabSlot`].
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10);
pub const GUEST_MAC: &str = "52:54:00:c0:20:00";
/// The addresses of the hosts on the link between them.
pub const REPLICATION: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];

const REPLICATION_NET: &str = "10.78.0.0/24";

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostSide {
    Primary,
    Secondary,
}

impl HostSide {
    pub const BOTH: [Self; 2] = [Self::Primary, Self::Secondary];

    /// `a` or `b`, as in the names of the hosts and guests.
    pub fn letter(self) -> char {
        match self {
            Self::Primary => 'a',
            Self::Secondary => 'b',
        }
    }

    /// Its address on the link between the hosts.
    pub fn replication(self) -> Ipv4Addr {
        REPLICATION[self as usize]
    }
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The address of the guest on the first TAP.
    pub fn guest(self) -> IpAddr {
        LabSlot(0).address(self)
    }

    pub fn client(self) -> IpAddr {
        match self {
            Self::V4 => CLIENT_V4.into(),
            Self::V6 => CLIENT_V6.into(),
        }
    }
}

/// One of the TAPs of a host, and so one of the guests. Its addresses are the same on both hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabSlot(pub u8);

impl LabSlot {
    pub fn address(self, family: Family) -> IpAddr {
        let slot = u32::from(self.0);
        match family {
            Family::V4 => Ipv4Addr::from_bits(GUEST_V4.to_bits() + slot).into(),
            Family::V6 => Ipv6Addr::from_bits(GUEST_V6.to_bits() + u128::from(slot)).into(),
        }
    }

    pub fn mac(self) -> String {
        format!("52:54:00:c0:20:{:02x}", self.0)
    }

    /// The name of its TAP, the same on both hosts.
    pub fn tap(self) -> String {
        format!("tap{}", self.0)
    }
}

/// The kind of lab to build.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// How many TAPs each host has.
    pub slots: u8,
    /// Whether the TAP exists before the guest, as with libvirt, or comes and goes with the guest,
    /// as with QEMU's own script.
    pub persistent_tap: bool,
    /// Whether the TAP has room for a virtio-net header. The guest must open it in the same way.
    pub vnet_hdr: bool,
    /// Takes the offloads from the links of the LAN, so that the stacks make and check every
    /// checksum as on a real wire. Otherwise, frames between namespaces keep their partial
    /// checksums.
    pub real_wire: bool,
    /// The MTU of the link between the hosts.
    pub replication_mtu: u32,
    /// The file system that the hosts' processes see.
    pub mounts: Mounts,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            slots: 1,
            persistent_tap: true,
            vnet_hdr: true,
            real_wire: true,
            replication_mtu: 1600,
            mounts: Mounts::Private,
        }
    }
}

/// A host: a bridge with an uplink to the switch and the guest's TAP, and a link to the other host.
#[derive(Debug)]
pub struct LabHost {
    pub side: HostSide,
    pub namespace: Namespace,
    /// The mount namespace with a bpffs and a `/run` of its own, if the host has one.
    pub mounts: Option<std::fs::File>,
    /// Where this host's daemons remember who serves.
    pub state: tempfile::TempDir,
    /// The first TAP.
    pub tap: String,
}

impl LabHost {
    /// Adds a guest's TAP to the bridge and sets it up, as QEMU's `script=` does.
    pub fn plug_tap(&self, slot: LabSlot) -> Result<()> {
        let tap = slot.tap();
        self.namespace.ip(&format!("link set {tap} master br0 up\n"))
    }

    /// Takes it off the bridge again. Its guest is on no network then.
    pub fn unplug_tap(&self, slot: LabSlot) -> Result<()> {
        self.namespace.ip(&format!("link set {} nomaster up\n", slot.tap()))
    }

    /// Makes this host acknowledge the other host's data at once. Otherwise, two short writes in a
    /// row wait for each other, 40 ms in each checkpoint.
    pub fn acknowledge_at_once(&self) -> Result<()> {
        let address = self.side.replication();
        self.namespace
            .ip(&format!("route replace {REPLICATION_NET} dev repl0 src {address} quickack 1\n"))
    }

    /// The namespaces that a child must join to run on this host.
    pub fn namespaces(&self) -> Vec<&std::fs::File> {
        std::iter::once(self.namespace.handle()).chain(&self.mounts).collect()
    }

    /// The frames that a link of this host has refused to send. For a TAP, these are the frames
    /// that its holder did not read in time.
    pub fn tx_dropped(&self, link: &str) -> Result<u64> {
        self.sent(link, "dropped")
    }

    /// Frames that a link of this host has sent.
    pub fn tx_packets(&self, link: &str) -> Result<u64> {
        self.sent(link, "packets")
    }

    fn sent(&self, link: &str, what: &str) -> Result<u64> {
        let text = self.namespace.output("ip", &["-json", "-stats", "link", "show", link])?;
        let links: serde_json::Value = serde_json::from_str(&text).context("reading `ip -json`")?;
        let count = links.pointer(&format!("/0/stats64/tx/{what}"));
        let count = count.and_then(serde_json::Value::as_u64);
        count.with_context(|| format!("no count of {what} in `{text}`"))
    }

    /// Takes the host off the LAN, as a pulled plug does.
    pub fn unplug(&self) -> Result<()> {
        self.namespace.ip("link set up0 down\n")
    }

    /// Puts the host back on the LAN.
    pub fn plug(&self) -> Result<()> {
        self.namespace.ip("link set up0 up\n")
    }
}

/// The network. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    pub options: LabOptions,
    pub client: Namespace,
    pub lan: Namespace,
    hosts: [LabHost; 2],
    prefix: String,
}

/// The client's link on the switch. Loss is made here.
pub const CLIENT_PORT: &str = "client";

impl Lab {
    pub fn new(options: LabOptions) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        cleanup::on_signals().context("installing the signal handlers")?;
        cleanup::sweep();
        let lab = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("colo-{}-{lab}", std::process::id());
        let named = |name: &str| Namespace::create(&format!("{prefix}-{name}"));
        let (lan, client) = (named("lan")?, named("client")?);
        let host = |side: HostSide| {
            let namespace = named(&format!("host{}", side.letter()))?;
            let mounts = mounts::make(options.mounts)?;
            let state = tempfile::tempdir().context("a directory for what daemons remember")?;
            anyhow::Ok(LabHost { side, namespace, mounts, state, tap: LabSlot(0).tap() })
        };
        let hosts = [host(HostSide::Primary)?, host(HostSide::Secondary)?];
        let lab = Self { options, client, lan, hosts, prefix };
        lab.connect()?;
        Ok(lab)
    }

    pub fn host(&self, side: HostSide) -> &LabHost {
        match (side, &self.hosts) {
            (HostSide::Primary, [host, _]) | (HostSide::Secondary, [_, host]) => host,
        }
    }

    /// A namespace for the guest of `side`. It belongs to the guest, so no socket of a dead guest
    /// is left in it when another guest starts.
    pub(crate) fn guest_namespace(&self, side: HostSide) -> Result<Namespace> {
        static GUESTS: AtomicU32 = AtomicU32::new(0);
        let guest = GUESTS.fetch_add(1, Ordering::Relaxed);
        Namespace::create(&format!("{}-guest{}{guest}", self.prefix, side.letter()))
    }

    /// Loses one frame in `one_in` between the hosts, in both directions.
    pub fn lose_between_hosts(&self, one_in: u32) -> Result<()> {
        link::lossy(&self.hosts[0].namespace, "repl0", one_in)
    }

    /// Lets TCP through between the hosts, and no UDP.
    pub fn block_udp_between_hosts(&self) -> Result<()> {
        link::without_udp(&self.hosts[0].namespace, "repl0")
    }

    /// Loses one frame in `one_in` on the client's link, in both directions.
    pub fn lose(&self, one_in: u32) -> Result<()> {
        link::lossy(&self.lan, CLIENT_PORT, one_in)
    }

    fn connect(&self) -> Result<()> {
        for namespace in [&self.lan, &self.hosts[0].namespace, &self.hosts[1].namespace] {
            without_bridge_netfilter(namespace)?;
            namespace
                .ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 link set br0 up\n")?;
        }
        self.plug_client()?;
        for host in &self.hosts {
            self.plug_host(host)?;
        }
        let [a, b] = [&self.hosts[0].namespace, &self.hosts[1].namespace];
        a.ip(&format!("link add repl0 type veth peer name repl0 netns {}\n", b.name()))?;
        let mtu = self.options.replication_mtu;
        for host in &self.hosts {
            let address = host.side.replication();
            host.namespace
                .ip(&format!("addr add {address}/24 dev repl0\nlink set repl0 mtu {mtu} up\n"))?;
        }
        Ok(())
    }

    fn plug_client(&self) -> Result<()> {
        let client = &self.client;
        quiet_ipv6(client)?;
        client.sysctl(&[("ipv4/ping_group_range", "0 0"), ("ipv4/tcp_no_metrics_save", "1")])?;
        self.lan.ip(&format!(
            "link add {CLIENT_PORT} type veth peer name eth0 netns {}\n\
             link set {CLIENT_PORT} master br0 up\n",
            client.name()
        ))?;
        client.ip(&format!(
            "link set eth0 address {CLIENT_MAC}\n\
             addr add {CLIENT_V4}/24 dev eth0\n\
             addr add {CLIENT_V6}/64 dev eth0 nodad\n\
             link set eth0 up\n"
        ))?;
        if self.options.real_wire {
            link::without_offloads(client, "eth0")?;
        }
        Ok(())
    }

    fn plug_host(&self, host: &LabHost) -> Result<()> {
        let port = format!("host{}", host.side.letter());
        let namespace = &host.namespace;
        self.lan.ip(&format!(
            "link add {port} type veth peer name up0 netns {}\n\
             link set {port} master br0 up\n",
            namespace.name()
        ))?;
        namespace.ip("link set up0 master br0 up\n")?;
        if self.options.real_wire {
            link::without_offloads(namespace, "up0")?;
        }
        let slots = if self.options.persistent_tap { self.options.slots } else { 0 };
        (0..slots).map(LabSlot).try_for_each(|slot| {
            let vnet_hdr = if self.options.vnet_hdr { "vnet_hdr" } else { "" };
            namespace.ip(&format!("tuntap add dev {} mode tap {vnet_hdr}\n", slot.tap()))?;
            host.plug_tap(slot)
        })
    }
}

/// No router solicitations and no duplicate address detection: the addresses are static.
pub(crate) fn quiet_ipv6(namespace: &Namespace) -> Result<()> {
    namespace.sysctl(&[
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
    ])
}

/// Bridged frames do not pass the host's filters, if the kernel has the hook.
fn without_bridge_netfilter(namespace: &Namespace) -> Result<()> {
    let keys = ["iptables", "ip6tables", "arptables"].map(|t| format!("bridge/bridge-nf-call-{t}"));
    let there = |key: &&String| PathBuf::from("/proc/sys/net").join(key).exists();
    let settings: Vec<(&str, &str)> =
        keys.iter().filter(there).map(|key| (key.as_str(), "0")).collect();
    namespace.sysctl(&settings)
}

#[cfg(test)]
mod tests {
    use super::{Family, GUEST_MAC, GUEST_V4, GUEST_V6, LabSlot};

    #[test]
    fn the_first_slot_is_the_guest() {
        assert_eq!(LabSlot(0).address(Family::V4), GUEST_V4);
        assert_eq!(LabSlot(0).address(Family::V6), GUEST_V6);
        assert_eq!(LabSlot(0).mac(), GUEST_MAC);
        assert_ne!(LabSlot(1).address(Family::V6), GUEST_V6);
    }
}
