//! What is attached on the secondary host, in this order within gates and TAP.

use super::attachment::{Attachment, Hook, Place};

pub(super) const ATTACHMENTS: &[Attachment] = &[
    Attachment::new("colo_gate_guard", Place::OutputGate, Hook::Egress),
    Attachment::new("colo_gate_guard", Place::InputGate, Hook::Egress),
    Attachment::new("colo_release", Place::OutputGate, Hook::Ingress),
    Attachment::new("colo_input", Place::InputGate, Hook::Ingress),
    // Output first: the secondary guest must not be heard on the network.
    Attachment::new("colo_from_guest", Place::Netdev, Hook::Ingress),
    Attachment::new("colo_to_guest", Place::Netdev, Hook::Egress),
];
