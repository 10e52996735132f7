//! The system calls that make and configure the TAP of a [`Gate`].

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use nix::{
    fcntl::{OFlag, open as open_file},
    libc::{self, c_int, c_short, c_uint, c_ulong, ifreq},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        stat::Mode,
    },
};

use super::{Gate, GateError, GateOptions, TUN_DEVICE};
use colo_proxy_engine::frame::VNET_HDR_LEN;

/// The largest MTU of a TAP, in bytes: 65535 less the Ethernet header. A redirect compares every frame
/// that is not GSO with the MTU of its target.
const MTU_BYTES_MAX: c_int = 65_535 - 14;
/// Without USO, which older kernels refuse. The kernel then segments UDP GSO for us.
const OFFLOADS: c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

pub(super) fn open(options: &GateOptions) -> Result<Gate, GateError> {
    let mut request = request_for(&options.name_template)?;
    let fd =
        open_file(TUN_DEVICE, OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| GateError::Device { source: e.into() })?;
    let vnet_flag = if options.vnet_hdr { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | vnet_flag) as c_short;
    interface_ioctl(fd.as_raw_fd(), libc::TUNSETIFF as c_ulong, &mut request)
        .map_err(|source| configure("create", &options.name_template, source))?;
    let name = name_of(&request);
    set_offloads(&fd, options.vnet_hdr, &name)?;
    configure_interface(&name, options.queue_len)?;
    let ifindex = nix::net::if_::if_nametoindex(name.as_str())
        .map_err(|e| configure("find the index of", &name, e.into()))?;
    let vnet_len = if options.vnet_hdr { VNET_HDR_LEN } else { 0 };
    Ok(Gate { fd, name, ifindex, vnet_len })
}

pub(super) fn set_up(name: &str) -> Result<(), GateError> {
    let flags = (libc::IFF_UP | libc::IFF_NOARP) as c_short;
    set_interface(name, "bring up", libc::SIOCSIFFLAGS, |request| {
        request.ifr_ifru.ifru_flags = flags;
    })
}

fn set_offloads(fd: &OwnedFd, vnet_hdr: bool, name: &str) -> Result<(), GateError> {
    let offloads = if vnet_hdr {
        let header_len = VNET_HDR_LEN as c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int behind the pointer, which lives across the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &header_len) })
            .map_err(|source| configure("set the header length of", name, source))?;
        OFFLOADS
    } else {
        0
    };
    // SAFETY: TUNSETOFFLOAD takes its bits by value and does not touch our memory.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, c_ulong::from(offloads)) })
        .map_err(|source| configure("set the offloads of", name, source))
}

fn configure_interface(name: &str, queue_len: u32) -> Result<(), GateError> {
    disable_ipv6(name)?;
    let queue_len = c_int::try_from(queue_len).unwrap_or(c_int::MAX);
    set_interface(name, "set the MTU of", libc::SIOCSIFMTU, |r| {
        r.ifr_ifru.ifru_mtu = MTU_BYTES_MAX;
    })?;
    set_interface(name, "set the queue length of", libc::SIOCSIFTXQLEN, |r| {
        // `ifr_qlen` shares its place with `ifr_metric` in the kernel's union.
        r.ifr_ifru.ifru_metric = queue_len;
    })
}

/// Forbids the kernel to give the interface a link-local address and to speak IPv6 on it.
///
/// `/proc/sys/net` shows the namespace of the thread that reads it, so this also works after
/// setns(2). A kernel without IPv6 does not have the file, and has nothing to forbid.
pub(super) fn disable_ipv6(name: &str) -> Result<(), GateError> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(configure("disable IPv6 on", name, e)),
        _ => Ok(()),
    }
}

/// Forbids the kernel to merge segments that arrive (`ethtool -K name gro off`).
pub(super) fn disable_gro(name: &str) -> Result<(), GateError> {
    const ETHTOOL_SGRO: u32 = 0x2c;
    let mut value = [ETHTOOL_SGRO, 0];
    set_interface(name, "disable GRO on", libc::SIOCETHTOOL, |request| {
        // `struct ethtool_value`, which the kernel only reads and which outlives the call.
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    })
}

/// Changes one property of the interface `name` in the network namespace of this thread.
fn set_interface(
    name: &str,
    action: &'static str,
    code: c_ulong,
    fill: impl FnOnce(&mut ifreq),
) -> Result<(), GateError> {
    let mut request = request_for(name)?;
    fill(&mut request);
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| configure(action, name, e.into()))?;
    interface_ioctl(socket.as_raw_fd(), code, &mut request)
        .map_err(|source| configure(action, name, source))
}

/// One ioctl(2) that takes a `struct ifreq`.
fn interface_ioctl(fd: RawFd, code: c_ulong, request: &mut ifreq) -> io::Result<()> {
    let request: *mut ifreq = request;
    // SAFETY: every code passed here (TUNSETIFF, SIOCSIF*) reads and writes at most one
    // `struct ifreq` behind the pointer, and the kernel copies in and out during the call only.
    check(unsafe { libc::ioctl(fd, code as _, request) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A zeroed request that names the interface, with its terminating zero.
fn request_for(name: &str) -> Result<ifreq, GateError> {
    // SAFETY: `ifreq` is an array and a union of integers and pointers; all zeroes is a value.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains(['/', '\0']) {
        return Err(GateError::Name { name: name.to_owned() });
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// The name that the kernel wrote back.
fn name_of(request: &ifreq) -> String {
    let bytes = request.ifr_name.map(|c| c as u8);
    CStr::from_bytes_until_nul(&bytes)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn configure(action: &'static str, name: &str, source: io::Error) -> GateError {
    GateError::Configure { action, name: name.to_owned(), source }
}
