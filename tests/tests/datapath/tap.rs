//! TAPs and network namespaces for the tests of the data path.
#![allow(dead_code, reason = "each test uses its part of this")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};

pub(crate) const VNET_HDR_LEN: usize = 12;
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Runs `test` on a thread of its own, in a network namespace with only loopback. The namespace
/// ends with the thread.
pub(crate) fn in_netns(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        new_netns();
        test();
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Moves this thread to a new network namespace and returns it.
pub(crate) fn new_netns() -> File {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    ip("link set lo up");
    File::open("/proc/thread-self/ns/net").expect("open the namespace")
}

pub(crate) fn enter(netns: &File) {
    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the namespace");
}

/// Waits until `holds`. The kernel decides when that is.
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "waited for this in vain: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("run ip");
    assert!(status.success(), "ip {arguments}");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offloads {
    /// Large frames and partial checksums, as between QEMU and a Linux guest.
    On,
    /// The kernel segments frames and completes checksums before we read them.
    Off,
}

/// A TAP with a virtio-net header of 12 bytes, held by the test.
#[derive(Debug)]
pub(crate) struct Tap {
    file: File,
    pub(crate) name: String,
    pub(crate) ifindex: u32,
}

impl Tap {
    pub(crate) fn new(name: &str, offloads: Offloads) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .expect("open /dev/net/tun");
        // SAFETY: all zeros is an `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        let len = VNET_HDR_LEN as libc::c_int;
        let flags: libc::c_uint = match offloads {
            Offloads::On => {
                libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN
            }
            Offloads::Off => 0,
        };
        let fd = file.as_raw_fd();
        // SAFETY: the three requests read what they are given: an `ifreq`, an int, a number.
        let results = unsafe {
            [
                libc::ioctl(fd, libc::TUNSETIFF as _, &raw const request),
                libc::ioctl(fd, libc::TUNSETVNETHDRSZ as _, &raw const len),
                libc::ioctl(fd, libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags)),
            ]
        };
        assert_eq!(results, [0; 3], "make the TAP {name}: {}", io::Error::last_os_error());
        ip(&format!("link set {name} txqueuelen 10000 up"));
        let ifindex = if_nametoindex(name).expect("index of the TAP");
        Self { file, name: name.to_owned(), ifindex }
    }

    /// The next frame with its virtio-net header; `None` if there is none now.
    pub(crate) fn try_read(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        match (&self.file).read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                Some(buffer)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("read {}: {error}", self.name),
        }
    }

    /// The next frame that `wanted` accepts. Other frames are skipped.
    pub(crate) fn read_until(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.try_read() {
                Some(frame) if wanted(&frame[VNET_HDR_LEN..]) => return frame,
                Some(_) => {}
                None => assert!(self.wait(end), "no such frame came to {}", self.name),
            }
        }
    }

    fn wait(&self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).expect("a short time");
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).expect("poll") > 0
    }

    pub(crate) fn write(&self, frame: &[u8]) {
        let len = (&self.file).write(frame).unwrap_or_else(|e| panic!("write {}: {e}", self.name));
        assert_eq!(len, frame.len());
    }

    /// Writes a frame without offloads.
    pub(crate) fn write_plain(&self, ethernet: &[u8]) {
        self.write(&[&[0; VNET_HDR_LEN], ethernet].concat());
    }

    pub(crate) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}
