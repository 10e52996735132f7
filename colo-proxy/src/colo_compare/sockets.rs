//! The sockets of a `colo-compare`, and the way that output takes between them.

use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::{OutputPath, ProgramMode, Role};

use super::outdev::Outdev;
use super::{CompareOptions, Inbound};
use crate::colo_frame::{self, ColoFrame, ColoFrameError, ColoFrameTerms};
use crate::endpoint::Port;

/// Every socket of the object.
pub(super) struct Sockets {
    pub(super) primary: Inbound,
    pub(super) secondary: Inbound,
    pub(super) outdev: Outdev,
    pub(super) frame: Box<dyn ColoFrame>,
}

impl Sockets {
    pub(super) async fn open(options: &CompareOptions) -> Result<Self, ColoFrameError> {
        let vnet_hdr = options.vnet_hdr_support;
        let primary = Port::open(options.primary_in.clone()).await?;
        let secondary = Port::open(options.secondary_in.clone()).await?;
        let outdev = Port::open(options.outdev.clone()).await?;
        let terms = ColoFrameTerms::of_part("colo-compare", Role::Primary, vnet_hdr);
        let frame = colo_frame::start(options.colo_frame.as_ref(), terms).await?;
        Ok(Self {
            primary: Inbound::new("primary-in", primary, vnet_hdr),
            secondary: Inbound::new("secondary-in", secondary, vnet_hdr),
            outdev: Outdev::new(outdev, vnet_hdr),
            frame,
        })
    }

    /// The way that the primary's output takes.
    pub(super) fn path(&mut self) -> SocketPath<'_> {
        let Self { primary, secondary, outdev, .. } = self;
        SocketPath { primary, secondary, outdev, has_secondary_ended: false }
    }
}

/// Output of the primary's guest comes by one socket and leaves by another.
#[derive(Debug)]
pub(super) struct SocketPath<'a> {
    primary: &'a mut Inbound,
    secondary: &'a mut Inbound,
    outdev: &'a mut Outdev,
    has_secondary_ended: bool,
}

impl SocketPath<'_> {
    /// The secondary's connection turned out to be over.
    pub(super) fn has_secondary_ended(&self) -> bool {
        self.has_secondary_ended
    }
}

impl OutputPath for SocketPath<'_> {
    /// QEMU's filters go on redirecting, whether or not the guest is protected.
    fn set_mode(&mut self, _mode: ProgramMode) {}

    fn read_output(&mut self, into: &mut Vec<Frame>) -> bool {
        self.primary.begin_now();
        self.primary.drain();
        into.extend(self.primary.frames.drain(..));
        false
    }

    fn release(&mut self, frame: &Frame) {
        self.outdev.push(frame.clone());
    }

    fn acknowledge(&mut self, _frame: &Frame) {}

    /// Without a control lane only the moment tells which frames are of the older epoch.
    fn drop_returned(&mut self) -> u64 {
        self.has_secondary_ended |= self.secondary.drain();
        self.secondary.skip_record();
        self.secondary.frames.drain(..).count() as u64
    }
}
