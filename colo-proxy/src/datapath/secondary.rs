//! The attachments on the secondary host. Within the gates, and within the TAP, this is their order.

use super::attachment::{Attachment, AttachmentPlace, Hook};

pub(super) const ATTACHMENTS: &[Attachment] = &[
    Attachment::new("colo_gate_guard", AttachmentPlace::OutputGate, Hook::Egress),
    Attachment::new("colo_gate_guard", AttachmentPlace::InputGate, Hook::Egress),
    Attachment::new("colo_release", AttachmentPlace::OutputGate, Hook::Ingress),
    Attachment::new("colo_input", AttachmentPlace::InputGate, Hook::Ingress),
    // Output first: no frame of the secondary guest may reach the network.
    Attachment::new("colo_from_guest", AttachmentPlace::Netdev, Hook::Ingress),
    Attachment::new("colo_to_guest", AttachmentPlace::Netdev, Hook::Egress),
];
