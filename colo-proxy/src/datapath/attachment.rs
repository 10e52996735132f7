//! One program on one hook of one interface: a tcx link, new or taken over.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{MultiProgLink as _, ProgramError, SchedClassifier, TcAttachType};
use nix::net::if_::if_indextoname;

use super::{DatapathError, InstanceDir, detach, pin};

/// Which of the interfaces of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The guest's TAP.
    Netdev,
    OutputGate,
    InputGate,
    /// Between the hosts.
    Tunnel,
    /// For what the secondary has sent in an even epoch, out of the tunnel.
    EvenGate,
    OddGate,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Netdev => "the guest's TAP",
            Self::OutputGate => "output gate",
            Self::InputGate => "input gate",
            Self::Tunnel => "tunnel",
            Self::EvenGate | Self::OddGate => "return gate",
        }
    }
}

/// Which way the frames go that a program sees, from the host's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Frames that the interface has received: for a TAP, what its owner wrote.
    Ingress,
    /// Frames that are about to be sent.
    Egress,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A program and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub program: &'static str,
    pub place: Place,
    pub hook: Hook,
}

impl Attachment {
    pub(super) const fn new(program: &'static str, place: Place, hook: Hook) -> Self {
        Self { program, place, hook }
    }

    /// The name under which the link is pinned. The guard is on every gate.
    pub(super) fn link_name(&self) -> String {
        let gate = match (self.program, self.place) {
            ("colo_gate_guard" | "colo_filter_guard", Place::OutputGate) => "_output",
            ("colo_gate_guard" | "colo_filter_guard", Place::InputGate) => "_input",
            ("colo_gate_guard", Place::EvenGate) => "_even",
            ("colo_gate_guard", Place::OddGate) => "_odd",
            _ => "",
        };
        format!("link_{}{gate}", self.program)
    }
}

/// A program that is attached. Dropping it detaches the program, unless the link is pinned.
#[derive(Debug)]
pub struct Attached {
    attachment: Attachment,
    /// The interface.
    pub ifindex: u32,
    /// Its name at the time of attaching.
    pub interface: String,
    /// The kernel's number of the program, as `bpftool prog show` has it.
    pub program_id: u32,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Pinned(PinnedLink),
    Owned(SchedClassifierLink),
}

impl Attached {
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    pub(super) fn link_name(&self) -> String {
        self.attachment.link_name()
    }

    /// Takes the program off the interface, at once. Its pin, if there is one, stays.
    pub(super) fn detach(self) -> Result<(), DatapathError> {
        let link = match self.link {
            Link::Owned(link) => link,
            Link::Pinned(pinned) => tc_link(pinned)?,
        };
        detach_link(&link)
    }

    /// The link outlives the daemon.
    pub fn is_pinned(&self) -> bool {
        matches!(self.link, Link::Pinned(_))
    }
}

/// Attaches a program to `ifindex`. A link of a dead daemon to the same interface gets the new
/// program in place of the old one; one to an interface that is gone is removed after. A new one
/// goes next to the guest, or, among filters, just before the link `successor` on the way to it.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    attachment: &Attachment,
    ifindex: u32,
    dir: &InstanceDir,
    pinned: bool,
    successor: Option<&SchedClassifierLink>,
) -> Result<Attached, DatapathError> {
    let interface = name_of(ifindex, attachment.place)?;
    let program = load(ebpf, attachment.program, dir)?;
    let program_id = program
        .info()
        .map_err(|source| DatapathError::Program {
            program: attachment.program,
            source: Box::new(source),
        })?
        .id();
    let path = dir.path().join(attachment.link_name());
    let link = match leftover(&path, ifindex)? {
        Some(old) => replace(program, old),
        None => create(program, &interface, attachment.hook, successor),
    }
    .map_err(|source| DatapathError::Attach {
        program: attachment.program,
        interface: interface.clone(),
        hook: attachment.hook,
        source: Box::new(source),
    })?;
    if ifindex_of(&link) != Some(ifindex) {
        return Err(DatapathError::InterfaceChanged { program: attachment.program, interface });
    }
    let link = keep(link, &path, pinned)?;
    Ok(Attached { attachment: *attachment, ifindex, interface, program_id, link })
}

/// aya attaches by name.
fn name_of(ifindex: u32, place: Place) -> Result<String, DatapathError> {
    if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok())
        // nix does not see that the system call has failed.
        .filter(|name| !name.is_empty())
        .ok_or(DatapathError::NoInterface { ifindex, place: place.name() })
}

/// The program, loaded and pinned; the guard is asked for twice.
fn load<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
    dir: &InstanceDir,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let failed = |source| DatapathError::Program { program: name, source: Box::new(source) };
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .ok_or_else(|| DatapathError::Missing { kind: "program", name: name.to_owned() })?
        .try_into()
        .map_err(failed)?;
    match program.load() {
        Ok(()) => dir.pin_program(name, program)?,
        Err(ProgramError::AlreadyLoaded) => {}
        Err(source) => return Err(failed(source)),
    }
    Ok(program)
}

/// The link that is pinned at `path`, where it is on `ifindex`.
pub(super) fn leftover(
    path: &Path,
    ifindex: u32,
) -> Result<Option<SchedClassifierLink>, DatapathError> {
    let link = if path.exists() { Some(pinned_link(path)?) } else { None };
    Ok(link.filter(|link| ifindex_of(link) == Some(ifindex)))
}

fn pinned_link(path: &Path) -> Result<SchedClassifierLink, DatapathError> {
    let pinned = PinnedLink::from_pin(path)
        .map_err(|source| DatapathError::Link { path: path.to_owned(), source })?;
    tc_link(pinned)
}

fn tc_link(pinned: PinnedLink) -> Result<SchedClassifierLink, DatapathError> {
    FdLink::from(pinned).try_into().map_err(|source| DatapathError::LinkKind { source })
}

fn detach_link(link: &SchedClassifierLink) -> Result<(), DatapathError> {
    let fd = link.fd().map_err(|source| DatapathError::LinkKind { source })?;
    detach::detach(fd).map_err(|source| DatapathError::Detach { source })
}

/// Takes the program of the link pinned at `path` off its interface, and removes the pin.
pub(super) fn remove_pinned(path: &Path) -> Result<(), DatapathError> {
    detach_link(&pinned_link(path)?)?;
    pin::remove_file(path)
}

/// The link that is pinned at `path` is on an interface that exists, in whatever namespace.
pub(super) fn is_live(path: &Path) -> bool {
    let link: Option<SchedClassifierLink> =
        PinnedLink::from_pin(path).ok().and_then(|pinned| FdLink::from(pinned).try_into().ok());
    link.is_some_and(|link| ifindex_of(&link).is_some())
}

/// One step for the kernel (`BPF_LINK_UPDATE`): every frame meets the old program or the new one.
fn replace(
    program: &mut SchedClassifier,
    old: SchedClassifierLink,
) -> Result<SchedClassifierLink, ProgramError> {
    let id = program.attach_to_link(old)?;
    program.take_link(id)
}

fn create(
    program: &mut SchedClassifier,
    interface: &str,
    hook: Hook,
    successor: Option<&SchedClassifierLink>,
) -> Result<SchedClassifierLink, ProgramError> {
    // Next to the guest: nothing on the host may answer a frame of the guest that has not been
    // released, and what the host's own programs drop on the way to the guest is not mirrored.
    let order = match (hook, successor) {
        (Hook::Ingress, None) => LinkOrder::first(),
        (Hook::Egress, None) => LinkOrder::last(),
        (Hook::Ingress, Some(link)) => LinkOrder::after_link(link).map_err(io::Error::other)?,
        (Hook::Egress, Some(link)) => LinkOrder::before_link(link).map_err(io::Error::other)?,
    };
    let hook = match hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    };
    let id = program.attach_with_options(interface, hook, TcAttachOptions::TcxOrder(order))?;
    program.take_link(id)
}

/// The interface a link is on: `None` where it is gone. Read from `fdinfo`, because aya does not
/// show this part of `bpf_link_info`.
fn ifindex_of(link: &SchedClassifierLink) -> Option<u32> {
    let fd = link.fd().ok()?.as_fd().as_raw_fd();
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let ifindex = text.lines().find_map(|line| line.strip_prefix("ifindex:"))?.trim().parse();
    ifindex.ok().filter(|ifindex| *ifindex != 0)
}

/// Pins the link in the place of whatever is pinned there, or sees that nothing is. The new link is
/// attached already, so there is no moment without one.
fn keep(link: SchedClassifierLink, path: &Path, pinned: bool) -> Result<Link, DatapathError> {
    pin::remove_file(path)?;
    if !pinned {
        return Ok(Link::Owned(link));
    }
    let as_link_error = |source: LinkError| DatapathError::Link { path: path.to_owned(), source };
    let fd_link: FdLink = link.try_into().map_err(as_link_error)?;
    fd_link
        .pin(path)
        .map(Link::Pinned)
        .map_err(|source| DatapathError::Pin { path: path.to_owned(), source })
}
