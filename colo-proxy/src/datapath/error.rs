//! The errors on the way into the kernel, with hints for the operator.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use aya::util::KernelVersion;
use colo_proxy_common::record::LAYOUT_VERSION;
use nix::libc;

use super::attachment::Hook;

/// The attempt that failed, and its object.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("cannot use {path:?} as the BPF file system")]
    Bpffs { path: PathBuf, source: io::Error },
    #[error("{name:?} is not a valid name for an instance")]
    InstanceName { name: String },
    #[error("cannot {action} {path:?}")]
    Directory { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot load the kernel programs")]
    Load { source: Box<EbpfError> },
    #[error("the object of kernel programs has no {kind} {name:?}")]
    Missing { kind: &'static str, name: String },
    #[error("the kernel does not accept the program {program}")]
    Program { program: &'static str, source: Box<ProgramError> },
    #[error("no interface has the index {ifindex} ({place})")]
    NoInterface { ifindex: u32, place: &'static str },
    #[error("cannot attach the program {program} to the {hook} of {interface}")]
    Attach { program: &'static str, interface: String, hook: Hook, source: Box<ProgramError> },
    #[error("{interface} became another interface while {program} was being attached to it")]
    InterfaceChanged { program: &'static str, interface: String },
    #[error("cannot use the link at {path:?}")]
    Link { path: PathBuf, source: LinkError },
    #[error("a pinned link is not the link of a TC program")]
    LinkKind { source: LinkError },
    #[error("cannot detach a program from its interface")]
    Detach { source: io::Error },
    #[error("cannot pin at {path:?}")]
    Pin { path: PathBuf, source: PinError },
    #[error("cannot {action} the map {map}")]
    Map { action: &'static str, map: &'static str, source: Box<MapError> },
    #[error("cannot read the entries of the map {map}")]
    Walk { map: &'static str, source: io::Error },
    #[error(
        "the guest of {path:?} is on the network after a failover, and its maps have layout {found}; \
         this colo-proxy has layout {LAYOUT_VERSION}"
    )]
    OtherLayout { path: PathBuf, found: u32 },
    #[error(
        "{count} of these connections have another offset here; the first is {first}; nothing was \
         imported"
    )]
    OtherOffset { count: usize, first: String },
    #[error(
        "there is no room for {wanted} more connections, only for {room}; nothing was imported"
    )]
    NoRoom { wanted: usize, room: usize },
    #[error("this kernel has PREEMPT_RT, and the kernel programs are not safe on it")]
    Realtime,
    #[error("cannot read the cookie of this network namespace")]
    NetnsCookie { source: io::Error },
}

impl DatapathError {
    /// A hint for the operator.
    pub fn hint(&self) -> Option<&'static str> {
        if matches!(self, Self::NoInterface { .. }) {
            return Some("start the guest first, so that its TAP is there");
        }
        if matches!(self, Self::Realtime) {
            return Some(
                "boot a kernel without PREEMPT_RT (`uname -v` shows it): with PREEMPT_RT one program can \
                 interrupt another and overwrite its data",
            );
        }
        if matches!(self, Self::InstanceName { .. }) {
            return Some("use at most 64 letters, digits, '-', '_' and '@'");
        }
        if matches!(self, Self::OtherLayout { .. }) {
            return Some(
                "start the colo-proxy version that left these maps; or give up the guest's open \
                 connections: remove that directory, and start again",
            );
        }
        match errno(self)? {
            libc::EPERM | libc::EACCES => {
                Some("run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
            }
            libc::ENODEV => Some("the interface is gone; start the guest first"),
            libc::EINVAL | libc::EOPNOTSUPP if self.is_attach() && !has_tcx() => {
                Some("this kernel is too old: tcx links need Linux 6.6 with CONFIG_NET_XGRESS")
            }
            _ => None,
        }
    }

    fn is_attach(&self) -> bool {
        matches!(self, Self::Attach { .. })
    }
}

fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|running| running >= KernelVersion::new(6, 6, 0))
}

/// The system's error number at the bottom of `error`, if there is one.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error.downcast_ref().and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    None
}
