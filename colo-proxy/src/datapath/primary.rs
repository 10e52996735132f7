//! The attachments on the primary host. Within the gates, and within the TAP, this is their order.

use super::attachment::{Attachment, AttachmentPlace, Hook};

pub(super) const ATTACHMENTS: &[Attachment] = &[
    Attachment::new("colo_gate_guard", AttachmentPlace::OutputGate, Hook::Egress),
    Attachment::new("colo_gate_guard", AttachmentPlace::InputGate, Hook::Egress),
    Attachment::new("colo_release", AttachmentPlace::OutputGate, Hook::Ingress),
    // The mirror first: output without the same input on the secondary would only be held.
    Attachment::new("colo_mirror", AttachmentPlace::Netdev, Hook::Egress),
    Attachment::new("colo_capture", AttachmentPlace::Netdev, Hook::Ingress),
];
