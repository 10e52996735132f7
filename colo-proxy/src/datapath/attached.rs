//! Attaches one program to one hook of one interface, by a new tcx link or one that is taken over.

use std::io;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use nix::net::if_::if_indextoname;

use super::attachment::{Attachment, AttachmentPlace, Hook};
use super::{DatapathError, InstanceDir, pin, tc_link};

/// An attached program. Dropping it detaches the program, unless the link is pinned.
#[derive(Debug)]
pub struct Attached {
    attachment: Attachment,
    /// The interface.
    pub ifindex: u32,
    /// Its name at the time of attaching.
    pub interface: String,
    /// The kernel's number of the program, as in `bpftool prog show`.
    pub program_id: u32,
    link: ProgramLink,
}

#[derive(Debug)]
enum ProgramLink {
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

    /// Detaches the program at once. Its pin, if there is one, stays.
    pub(super) fn detach(self) -> Result<(), DatapathError> {
        let link = match self.link {
            ProgramLink::Owned(link) => link,
            ProgramLink::Pinned(pinned) => tc_link::from_pinned(pinned)?,
        };
        tc_link::detach(&link)
    }

    /// The link is pinned, so it outlives the daemon.
    pub fn is_pinned(&self) -> bool {
        matches!(self.link, ProgramLink::Pinned(_))
    }
}

/// Attaches a program to `ifindex`. If a dead daemon has left a link to the same interface, that link
/// gets the new program. A leftover link to an interface that is gone is removed after that. A new
/// link goes next to the guest, or, among filters, just before the link `successor` on the way to the
/// guest.
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
    let link = match tc_link::on_interface(&path, ifindex)? {
        Some(old) => replace(program, old),
        None => create(program, &interface, attachment.hook, successor),
    }
    .map_err(|source| DatapathError::Attach {
        program: attachment.program,
        interface: interface.clone(),
        hook: attachment.hook,
        source: Box::new(source),
    })?;
    if tc_link::ifindex_of(&link) != Some(ifindex) {
        return Err(DatapathError::InterfaceChanged { program: attachment.program, interface });
    }
    let link = keep(link, &path, pinned)?;
    Ok(Attached { attachment: *attachment, ifindex, interface, program_id, link })
}

/// aya attaches by name.
fn name_of(ifindex: u32, place: AttachmentPlace) -> Result<String, DatapathError> {
    if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok())
        // nix does not notice that the system call has failed.
        .filter(|name| !name.is_empty())
        .ok_or(DatapathError::NoInterface { ifindex, place: place.name() })
}

/// The program, loaded and pinned. The guard is loaded once, though it is attached to two gates.
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

/// Replaces the program of a link in one step (`BPF_LINK_UPDATE`): every frame meets the old program
/// or the new one.
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
    // Next to the guest: no program of the host may answer a guest's frame that was not released. And
    // a frame that the host's own programs drop on the way to the guest is not mirrored.
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

/// Pins the link in place of an old pin, or only removes the old pin. The new link is attached already,
/// so there is no moment without one.
fn keep(
    link: SchedClassifierLink,
    path: &Path,
    pinned: bool,
) -> Result<ProgramLink, DatapathError> {
    pin::remove_file(path)?;
    if !pinned {
        return Ok(ProgramLink::Owned(link));
    }
    let as_link_error = |source: LinkError| DatapathError::Link { path: path.to_owned(), source };
    let fd_link: FdLink = link.try_into().map_err(as_link_error)?;
    fd_link
        .pin(path)
        .map(ProgramLink::Pinned)
        .map_err(|source| DatapathError::Pin { path: path.to_owned(), source })
}
