//! What is attached on the primary host, in this order within gates and TAP.

use super::attachment::{Attachment, AttachmentPlace, Hook};

pub(super) const ATTACHMENTS: &[Attachment] = &[
    Attachment::new("colo_gate_guard", AttachmentPlace::OutputGate, Hook::Egress),
    Attachment::new("colo_gate_guard", AttachmentPlace::InputGate, Hook::Egress),
    Attachment::new("colo_release", AttachmentPlace::OutputGate, Hook::Ingress),
    // The mirror first: output that the secondary has no input for would only be held.
    Attachment::new("colo_mirror", AttachmentPlace::Netdev, Hook::Egress),
    Attachment::new("colo_capture", AttachmentPlace::Netdev, Hook::Ingress),
];
