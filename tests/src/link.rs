//! Settings of a link that `ip` does not have: offloads, by ethtool's ioctl, and random loss.

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::AsRawFd;

use crate::namespace::Namespace;

const ETHTOOL_STXCSUM: u32 = 0x17;

#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Takes transmit checksums, and with them segmentation, away from a link. Frames that leave the
/// link are then as on a real wire, and the receiver checks every checksum.
pub fn without_offloads(namespace: &Namespace, link: &str) -> Result<()> {
    namespace.run(|| {
        let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let mut value = EthtoolValue { command: ETHTOOL_STXCSUM, data: 0 };
        let mut request = ifreq(link);
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: both structures are those that SIOCETHTOOL expects and outlive the call.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        nix::errno::Errno::result(result)
            .map(drop)
            .with_context(|| format!("taking the offloads from {link} in {}", namespace.name()))
    })
}

/// A request for the interface `name`. A name that is too long is truncated, and no interface has
/// it then.
pub(crate) fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is made of integers and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *to = from as libc::c_char;
    }
    request
}

/// Loses frames at random in both directions of a link, one in `one_in`.
///
/// A classic BPF classifier draws a random number, because not every kernel has netem or
/// `act_gact`.
pub fn lossy(namespace: &Namespace, link: &str, one_in: u32) -> Result<()> {
    let (load_random, at_least) = (32, 53);
    let random_at = 0xffff_f038_u32;
    let limit = u32::MAX / one_in.max(1);
    // Below the limit, the program continues with `DROP`. At or above it, it skips `DROP`.
    drop_where(namespace, link, [(load_random, 0, 0, random_at), (at_least, 1, 0, limit)])
}

/// Lets no UDP (IPv4, untagged) through a link in either direction, as a firewall that does not
/// know of a tunnel.
pub fn without_udp(namespace: &Namespace, link: &str) -> Result<()> {
    let (load_octet, equals) = (48, 21);
    let (protocol_at, udp) = (23, 17);
    // Another protocol skips `DROP`.
    drop_where(namespace, link, [(load_octet, 0, 0, protocol_at), (equals, 0, 1, udp)])
}

/// Drops a frame in either direction of a link, unless a classic BPF program skips its next
/// instruction for it.
fn drop_where(
    namespace: &Namespace,
    link: &str,
    [load, decide]: [(u32, u8, u8, u32); 2],
) -> Result<()> {
    const RETURN: u32 = 6;
    const DROP: u32 = 2;
    let all = [load, decide, (RETURN, 0, 0, DROP), (RETURN, 0, 0, u32::MAX)];
    let instructions = all.map(|(code, yes, no, k)| format!("{code} {yes} {no} {k}"));
    let bytecode = format!("{},{}", all.len(), instructions.join(","));
    tc(namespace, &["qdisc", "add", "dev", link, "clsact"])?;
    for direction in ["ingress", "egress"] {
        let filter = ["filter", "add", "dev", link, direction, "bpf", "da", "bytecode", &bytecode];
        tc(namespace, &filter)?;
    }
    Ok(())
}

/// Ends the loss of [`lossy`] and [`without_udp`].
pub fn lossless(namespace: &Namespace, link: &str) -> Result<()> {
    tc(namespace, &["qdisc", "del", "dev", link, "clsact"])
}

fn tc(namespace: &Namespace, args: &[&str]) -> Result<()> {
    namespace.output("tc", args).map(drop)
}
