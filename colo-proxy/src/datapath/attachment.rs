//! Which program belongs on which hook of which interface.

use std::fmt;

/// Which of the interfaces of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachmentPlace {
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

impl AttachmentPlace {
    pub(super) fn name(self) -> &'static str {
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
    pub place: AttachmentPlace,
    pub hook: Hook,
}

impl Attachment {
    pub(super) const fn new(program: &'static str, place: AttachmentPlace, hook: Hook) -> Self {
        Self { program, place, hook }
    }

    /// The name under which the link is pinned. The guard is on every gate.
    pub(super) fn link_name(&self) -> String {
        let gate = match (self.program, self.place) {
            ("colo_gate_guard" | "colo_filter_guard", AttachmentPlace::OutputGate) => "_output",
            ("colo_gate_guard" | "colo_filter_guard", AttachmentPlace::InputGate) => "_input",
            ("colo_gate_guard", AttachmentPlace::EvenGate) => "_even",
            ("colo_gate_guard", AttachmentPlace::OddGate) => "_odd",
            _ => "",
        };
        format!("link_{}{gate}", self.program)
    }
}
