//! What is attached on the secondary host, in this order within gates and TAP.

use super::attachment::{Attachment, AttachmentPlace, Hook};

pub(super) const ATTACHMENTS: &[Attachment] = &[
    Attachment::new("colo_gate_guard", AttachmentPlace::OutputGate, Hook::Egress),
    Attachment::new("colo_gate_guard", AttachmentPlace::InputGate, Hook::Egress),
    Attachment::new("colo_release", AttachmentPlace::OutputGate, Hook::Ingress),
    Attachment::new("colo_input", AttachmentPlace::InputGate, Hook::Ingress),
    // Output first: the secondary guest must not be heard on the network.
    Attachment::new("colo_from_guest", AttachmentPlace::Netdev, Hook::Ingress),
    Attachment::new("colo_to_guest", AttachmentPlace::Netdev, Hook::Egress),
];
