//! A guest's TAP as QEMU holds it, with virtio-net headers, offloads and non-blocking writes.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use nix::libc;

pub(crate) const NETDEV: &str = "tap0";

pub(crate) struct Guest {
    queues: Vec<File>,
    pub(crate) ifindex: u32,
}

impl Guest {
    /// A TAP that is up, with `queues` queues. A TAP with one queue cannot have more.
    pub(crate) fn with_queues(queues: usize) -> Self {
        let flags = if queues == 1 { 0 } else { libc::IFF_MULTI_QUEUE };
        let queues = (0..queues).map(|_| open_queue(flags)).collect();
        let ifindex = nix::net::if_::if_nametoindex(NETDEV).expect("index");
        set_up();
        Self { queues, ifindex }
    }

    /// Sends a frame with its virtio-net header by one of the queues.
    pub(crate) fn send_by(&self, queue: usize, vnet: &[u8; 12], frame: &[u8]) {
        let record = [&vnet[..], frame].concat();
        let mut file = &self.queues[queue];
        assert_eq!(file.write(&record).expect("write"), record.len());
    }

    /// Sends a frame by the first queue.
    pub(crate) fn send(&self, vnet: &[u8; 12], frame: &[u8]) {
        self.send_by(0, vnet, frame);
    }

    /// The guest starts to use one more queue.
    pub(crate) fn add_queue(&mut self) {
        self.queues.push(open_queue(libc::IFF_MULTI_QUEUE));
    }
}

fn open_queue(flags: libc::c_int) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("/dev/net/tun");
    let mut request = request();
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags) as libc::c_short;
    let header_len: libc::c_int = 12;
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let fd = file.as_raw_fd();
    // SAFETY: each request reads or writes one `ifreq` or one int, which lives across the call, or
    // takes its argument by value.
    unsafe {
        assert_eq!(libc::ioctl(fd, libc::TUNSETIFF as _, &raw mut request), 0, "TUNSETIFF");
        assert_eq!(libc::ioctl(fd, libc::TUNSETVNETHDRSZ as _, &raw const header_len), 0);
        assert_eq!(libc::ioctl(fd, libc::TUNSETOFFLOAD as _, u64::from(offloads)), 0);
    }
    file
}

fn set_up() {
    let mut request = request();
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    let socket = std::net::UdpSocket::bind("[::]:0").expect("socket");
    // SAFETY: the request reads one `ifreq`, which lives across the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) };
    assert_eq!(result, 0, "SIOCSIFFLAGS");
}

fn request() -> libc::ifreq {
    // SAFETY: integers and pointers; all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NETDEV.bytes()) {
        *to = from as libc::c_char;
    }
    request
}
