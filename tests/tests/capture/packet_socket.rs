//! A raw packet socket with virtio-net headers, as the far side of a gate.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// After this time, a missing frame does not come any more.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// `struct virtio_net_hdr`, which a packet socket uses.
pub(crate) const PACKET_VNET_LEN: usize = 10;

pub(crate) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// This socket sees every frame, before any TC program.
    pub(crate) fn bound_to(ifindex: u32) -> Self {
        Self::open(ifindex, libc::ETH_P_ALL)
    }

    /// This socket sees the IPv4 packets that arrive and that the TC programs let pass.
    pub(crate) fn behind_programs(ifindex: u32) -> Self {
        Self::open(ifindex, libc::ETH_P_IP)
    }

    fn open(ifindex: u32, protocol: libc::c_int) -> Self {
        let protocol = (protocol as u16).to_be();
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::socket(libc::AF_PACKET, flags, i32::from(protocol)) };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: the descriptor is new and ours.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let on: libc::c_int = 1;
        // SAFETY: the option is one int, which lives across the call.
        let set = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                4,
            )
        };
        assert_eq!(set, 0, "PACKET_VNET_HDR: {}", io::Error::last_os_error());
        // SAFETY: integers only.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = ifindex as i32;
        // SAFETY: the address lives across the call and has the length given.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        assert_eq!(bound, 0, "bind: {}", io::Error::last_os_error());
        Self(fd)
    }

    /// Sends a virtio-net header of 10 bytes and a frame.
    pub(crate) fn send(&self, vnet: &[u8], frame: &[u8]) {
        let record = [&vnet[..PACKET_VNET_LEN], frame].concat();
        assert_eq!(nix::unistd::write(&self.0, &record).expect("send"), record.len());
    }

    /// The next frame that arrived on the interface, with its header.
    pub(crate) fn receive(&self) -> Vec<u8> {
        wait_readable(&self.0);
        let mut record = vec![0; 1 << 17];
        let len = nix::unistd::read(&self.0, &mut record).expect("receive");
        record.truncate(len);
        record
    }
}

/// Waits until `fd` can be read, or fails.
pub(crate) fn wait_readable(fd: &impl AsFd) {
    let end = Instant::now() + DEADLINE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).expect("timeout");
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(nix::Error::EINTR) => {}
            ready => {
                assert_eq!(ready, Ok(1), "nothing to read within {DEADLINE:?}");
                return;
            }
        }
    }
}
