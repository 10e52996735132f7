//! The programs of one instance on their hooks: attached, pinned, taken over, detached.

use aya::Ebpf;

use super::attached::{self, Attached};
use super::attachment::{Attachment, AttachmentPlace};
use super::order::FilterOrder;
use super::{DatapathError, InstanceDir, pin};

/// The attached programs. Dropping it closes the links that are not pinned. [`ProgramLinks::detach`] is
/// the clean end.
#[derive(Debug)]
pub(super) struct ProgramLinks {
    dir: InstanceDir,
    pinned: bool,
    /// For a filter: its place among the filters of its TAP.
    order: Option<FilterOrder>,
    attached: Vec<Attached>,
}

impl ProgramLinks {
    pub(super) fn new(dir: InstanceDir, pinned: bool, order: Option<FilterOrder>) -> Self {
        Self { dir, pinned, order, attached: Vec::new() }
    }

    pub(super) fn dir(&self) -> &InstanceDir {
        &self.dir
    }

    pub(super) fn are_pinned(&self) -> bool {
        self.pinned
    }

    pub(super) fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// Attaches one program to `ifindex`, and detaches it from its old interface.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        attachment: &Attachment,
        ifindex: u32,
    ) -> Result<(), DatapathError> {
        let order = self.order.filter(|_| attachment.place == AttachmentPlace::Netdev);
        // Locked until the program is in its place: another filter may look for its own place.
        let _lock = order.map(|_| FilterOrder::lock(&self.dir)).transpose()?;
        let successor =
            order.and_then(|order| order.successor(&self.dir, ifindex, attachment.hook));
        // A tunnel outlives the daemon. Without the daemon it must not be a way into this host, nor to
        // the other one.
        let pinned = self.pinned || attachment.place == AttachmentPlace::Tunnel;
        let attached =
            attached::attach(ebpf, attachment, ifindex, &self.dir, pinned, successor.as_ref())?;
        // Only now is the old link detached.
        let name = attached.link_name();
        if let Some(i) = self.attached.iter().position(|old| old.link_name() == name) {
            self.attached.swap_remove(i).detach()?;
        }
        self.attached.push(attached);
        Ok(())
    }

    /// Detaches the attached ones of these programs, and removes their pins. A failure does not stop the
    /// rest; the first one is returned at the end.
    pub(super) fn detach_some(&mut self, unwanted: &[Attachment]) -> Result<(), DatapathError> {
        let mut result = Ok(());
        for name in unwanted.iter().map(Attachment::link_name) {
            let Some(i) = self.attached.iter().position(|a| a.link_name() == name) else {
                continue;
            };
            let removed = self.attached.swap_remove(i).detach();
            result = result.and(removed).and(pin::remove_file(&self.dir.path().join(name)));
        }
        result
    }

    /// Detaches the programs that a dead daemon has left and that are not wanted.
    pub(super) fn remove_others(
        &self,
        wanted: &[Attachment],
        names: &[&str],
    ) -> Result<(), DatapathError> {
        let wanted = wanted.iter().map(Attachment::link_name);
        let wanted: Vec<String> =
            wanted.chain(names.iter().map(|name| (*name).to_owned())).collect();
        self.dir.remove_links_except(&wanted)
    }

    /// The clean end: the guest's network and bpffs are as if there had been no colo-proxy. A failure
    /// does not stop the rest; the first one is returned at the end.
    pub(super) fn detach(&mut self) -> Result<(), DatapathError> {
        let mut result = Ok(());
        // The guest's TAP first: no frame may go to a gate that lets no frame out any more.
        while let Some(attached) = self.attached.pop() {
            result = result.and(attached.detach());
        }
        result.and(self.dir.remove())
    }
}
