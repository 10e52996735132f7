//! TAPs, opened as QEMU opens them.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;

use crate::link::ifreq;

/// Length of `struct virtio_net_hdr_mrg_rxbuf`.
pub const VNET_HDR_LEN: usize = 12;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

/// The offloads that the guest's driver has negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TapOffloads {
    /// Neither checksums nor segmentation. Every frame is as on a wire.
    Off,
    /// Checksums and TCP segmentation, as for a Linux guest under QEMU 7.2.
    On,
    /// Also UDP segmentation, as under newer releases of QEMU.
    Uso,
}

impl TapOffloads {
    fn bits(self) -> libc::c_ulong {
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        match self {
            Self::Off => 0,
            Self::On => tcp,
            Self::Uso => tcp | TUN_F_USO4 | TUN_F_USO6,
        }
    }
}

/// Attaches to the TAP `name` in the namespace of the calling thread, or creates it.
pub fn open(name: &str, vnet_hdr: bool, offloads: TapOffloads) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    let mut request = ifreq(name);
    let header = if vnet_hdr { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | header) as libc::c_short;
    // SAFETY: TUNSETIFF takes an `ifreq`, which outlives the call.
    let attached = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    Errno::result(attached).with_context(|| format!("attaching to TAP {name}"))?;
    if vnet_hdr {
        let len = VNET_HDR_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ takes a pointer to an int, which outlives the call.
        let set = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const len) };
        Errno::result(set).with_context(|| format!("setting the header length of {name}"))?;
        // SAFETY: TUNSETOFFLOAD takes its bits by value.
        let set = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, offloads.bits()) };
        Errno::result(set).with_context(|| format!("setting {offloads:?} on {name}"))?;
    }
    Ok(file)
}

/// The fields of a frame's virtio-net header that are used here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHdr {
    pub flags: u8,
    pub gso_type: u8,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl VnetHdr {
    /// Little endian, as in virtio 1 and on every machine that this runs on.
    pub fn parse(bytes: &[u8]) -> Self {
        let [flags, gso_type, _, _, _, _, start0, start1, offset0, offset1, ..] = *bytes else {
            return Self::default();
        };
        let csum_start = u16::from_le_bytes([start0, start1]);
        let csum_offset = u16::from_le_bytes([offset0, offset1]);
        Self { flags, gso_type, csum_start, csum_offset }
    }

    pub fn needs_csum(self) -> bool {
        self.flags & 1 != 0
    }

    pub fn is_gso(self) -> bool {
        self.gso_type != 0
    }
}
