//! A rewriter that stands alone: translation without capture.

use colo_proxy_common::filter::{FilterRecord, kind, queue, token};
use colo_proxy_common::record::LAYOUT_VERSION;

use colo_proxy_engine::pair::{OnDeath, ProgramMode, Role};

use super::attachment::{Attachment, AttachmentPlace, Hook};
use super::order::{self, FilterOrder};
use super::{
    Datapath, DatapathError, DatapathPlan, InstanceDir, ProgramSet, TranslationLimits, netns, pin,
    realtime,
};

/// The attachments. Within the gate, and within the TAP, this is their order.
pub(super) const ATTACHMENTS: &[Attachment] = &[
    Attachment::new("colo_gate_guard", AttachmentPlace::InputGate, Hook::Egress),
    Attachment::new("colo_input", AttachmentPlace::InputGate, Hook::Ingress),
    Attachment::new("colo_rewrite_rx", AttachmentPlace::Netdev, Hook::Ingress),
    Attachment::new("colo_rewrite_tx", AttachmentPlace::Netdev, Hook::Egress),
];

/// What [`Datapath::attach_rewriter`] attaches, and where.
#[derive(Clone, Debug)]
pub struct RewriterPlan<'a> {
    /// The directory under bpffs.
    pub id: &'a str,
    /// The guest's TAP.
    pub netdev_ifindex: u32,
    /// The gate for input whose offset is not known yet.
    pub gate_ifindex: u32,
    pub limits: TranslationLimits,
}

impl Datapath {
    /// Attaches the programs of a rewriter at the tail of the TAP's filters. If a rewriter with this id
    /// has died, it takes over that rewriter's programs in their place.
    pub fn attach_rewriter(plan: &RewriterPlan<'_>) -> Result<Self, DatapathError> {
        realtime::refuse()?;
        let dir = InstanceDir::create(&pin::find_bpffs()?, plan.id)?;
        let netns_cookie = netns::cookie()?;
        let leftover = order::leftover(&dir, netns_cookie);
        let order = FilterOrder::of(leftover.as_ref(), netns_cookie);
        let halves = DatapathPlan {
            instance: plan.id,
            role: Role::Secondary,
            mode: ProgramMode::Protected,
            netdev_ifindex: plan.netdev_ifindex,
            output_gate_ifindex: 0,
            input_gate_ifindex: plan.gate_ifindex,
            on_death: OnDeath::Hold,
            limits: plan.limits,
        };
        let token = token(plan.gate_ifindex);
        let record = FilterRecord {
            layout_version: LAYOUT_VERSION,
            kind: kind::REWRITER,
            queue: queue::TX | queue::RX,
            // The programs read it from `settings`.
            netdev_ifindex: 0,
            out_gate_ifindex: 0,
            token,
            position_ns: order.position_ns,
            netns_cookie,
        };
        Self::attach_part(ProgramSet::Rewriter, &halves, token, dir, Some(record))
    }
}
