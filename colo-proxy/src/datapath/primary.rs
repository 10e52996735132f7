//! What is attached on the primary host, in this order within gates and TAP.

use super::attachment::{Attachment, Hook, Place};

pub(super) const ATTACHMENTS: &[Attachment] = &[
    Attachment::new("colo_gate_guard", Place::OutputGate, Hook::Egress),
    Attachment::new("colo_gate_guard", Place::InputGate, Hook::Egress),
    Attachment::new("colo_release", Place::OutputGate, Hook::Ingress),
    // The mirror first: output that the secondary has no input for would only be held.
    Attachment::new("colo_mirror", Place::Netdev, Hook::Egress),
    Attachment::new("colo_capture", Place::Netdev, Hook::Ingress),
];
