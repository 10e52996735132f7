//! Which program belongs on which hook of which interface.

use std::fmt;

/// The interface of an instance to which a program belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachmentPlace {
    /// The guest's TAP.
    Netdev,
    OutputGate,
    InputGate,
    /// The tunnel between the hosts.
    Tunnel,
    /// The gate for output of the secondary that came out of the tunnel in an even epoch.
    EvenGate,
    /// The same for an odd epoch.
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

/// The direction of the frames that a program sees, from the host's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Frames that the interface has received. For a TAP, its owner wrote them.
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

/// A program with its interface and hook.
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

    /// The name of the link's pin. The guard is on every gate, so its name has the gate.
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
