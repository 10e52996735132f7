//! The options of a filter, under the names of QEMU's properties, and the combinations that are refused.

use std::fmt;
use std::str::FromStr;

use colo_proxy_common::filter::{kind, queue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ColoFrameKind, PeerLimits, valid_name, valid_netdev};
use crate::endpoint::Endpoint;

/// Why options were refused.
#[derive(Debug, thiserror::Error)]
pub enum FilterOptionsError {
    #[error("`{text}` is no queue; expected tx (towards the guest), rx (from it) or all")]
    Queue { text: String },
    #[error("`{id}` is no id; one is 1 to 64 letters, digits, `-`, `_` or `@`")]
    Id { id: String },
    #[error("netdev `{netdev}` is not the name of a network interface (1 to 15 characters)")]
    Netdev { netdev: String },
    #[error("filter-redirector needs --indev, --outdev or both")]
    NoEndpoint,
    #[error("filter-redirector: --indev and --outdev are the same endpoint, {endpoint}")]
    SameEndpoint { endpoint: String },
    #[error(
        "filter-rewriter with --queue {queue}: translation needs both directions of a connection; \
         omit --queue, or use all"
    )]
    RewriterQueue { queue: FilterQueue },
}

/// Which of the guest's frames a filter sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FilterQueue {
    /// Towards the guest.
    Tx,
    /// From the guest.
    Rx,
    /// Both.
    #[default]
    All,
}

impl FilterQueue {
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Tx => queue::TX,
            Self::Rx => queue::RX,
            Self::All => queue::TX | queue::RX,
        }
    }
}

impl FromStr for FilterQueue {
    type Err = FilterOptionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tx" => Ok(Self::Tx),
            "rx" => Ok(Self::Rx),
            "all" => Ok(Self::All),
            _ => Err(FilterOptionsError::Queue { text: text.into() }),
        }
    }
}

impl fmt::Display for FilterQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tx => "tx",
            Self::Rx => "rx",
            Self::All => "all",
        })
    }
}

/// Which filter, with the options that only that one has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterKind {
    Mirror { outdev: Endpoint },
    Redirector { indev: Option<Endpoint>, outdev: Option<Endpoint> },
    Rewriter { colo_frame: Option<ColoFrameKind> },
}

impl FilterKind {
    /// The command, which is QEMU's name of the object.
    pub fn command(&self) -> &'static str {
        match self {
            Self::Mirror { .. } => "filter-mirror",
            Self::Redirector { .. } => "filter-redirector",
            Self::Rewriter { .. } => "filter-rewriter",
        }
    }

    pub(super) fn word(&self) -> u32 {
        match self {
            Self::Mirror { .. } => kind::MIRROR,
            Self::Redirector { .. } => kind::REDIRECTOR,
            Self::Rewriter { .. } => kind::REWRITER,
        }
    }
}

/// One filter.
#[derive(Clone, Debug)]
pub struct FilterOptions {
    /// `None`: it is derived from the command and the netdev.
    pub id: Option<String>,
    pub netdev: String,
    pub queue: FilterQueue,
    /// Frames on the sockets carry a virtio-net header.
    pub vnet_hdr_support: bool,
    pub limits: PeerLimits,
    pub kind: FilterKind,
}

impl FilterOptions {
    /// Refuses combinations that make no sense.
    pub(super) fn check(&self) -> Result<(), FilterOptionsError> {
        if let Some(id) = self.id.as_ref().filter(|id| !valid_name(id)) {
            return Err(FilterOptionsError::Id { id: id.clone() });
        }
        if !valid_netdev(&self.netdev) {
            return Err(FilterOptionsError::Netdev { netdev: self.netdev.clone() });
        }
        match &self.kind {
            FilterKind::Redirector { indev: None, outdev: None } => {
                Err(FilterOptionsError::NoEndpoint)
            }
            FilterKind::Redirector { indev: Some(indev), outdev: Some(outdev) }
                if indev.address == outdev.address =>
            {
                Err(FilterOptionsError::SameEndpoint { endpoint: indev.to_string() })
            }
            FilterKind::Rewriter { .. } if self.queue != FilterQueue::All => {
                Err(FilterOptionsError::RewriterQueue { queue: self.queue })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: FilterKind) -> FilterOptions {
        FilterOptions {
            id: None,
            netdev: "tap0".into(),
            queue: FilterQueue::All,
            vnet_hdr_support: false,
            limits: PeerLimits::default(),
            kind,
        }
    }

    fn endpoint(text: &str) -> Endpoint {
        text.parse().expect("an endpoint")
    }

    #[test]
    fn a_redirector_has_one_endpoint_or_two_different_ones() {
        let redirector = |indev: Option<&str>, outdev: Option<&str>| {
            options(FilterKind::Redirector {
                indev: indev.map(endpoint),
                outdev: outdev.map(endpoint),
            })
            .check()
        };
        assert!(matches!(redirector(None, None), Err(FilterOptionsError::NoEndpoint)));
        let same = redirector(Some("unix:/a,server"), Some("unix:/a"));
        assert!(matches!(same, Err(FilterOptionsError::SameEndpoint { .. })));
        for (indev, outdev) in
            [(Some("unix:/a"), None), (None, Some("unix:/a")), (Some("unix:/a"), Some("unix:/b"))]
        {
            redirector(indev, outdev).expect("allowed");
        }
    }

    #[test]
    fn a_rewriter_needs_both_directions() {
        let rewriter = options(FilterKind::Rewriter { colo_frame: None });
        rewriter.check().expect("both");
        for queue in [FilterQueue::Tx, FilterQueue::Rx] {
            let error = FilterOptions { queue, ..rewriter.clone() }.check().expect_err("one");
            assert!(error.to_string().contains("both directions"), "{error}");
        }
    }

    #[test]
    fn names_are_checked() {
        let mirror = options(FilterKind::Mirror { outdev: endpoint("unix:/a") });
        let id = |id: &str| FilterOptions { id: Some(id.into()), ..mirror.clone() }.check();
        id("filter-mirror@tap0").expect("the derived one");
        assert!(matches!(id("a/b"), Err(FilterOptionsError::Id { .. })));
        assert!(matches!(id(""), Err(FilterOptionsError::Id { .. })));
        let long = FilterOptions { netdev: "x".repeat(16), ..mirror.clone() };
        assert!(matches!(long.check(), Err(FilterOptionsError::Netdev { .. })));
        assert!("both".parse::<FilterQueue>().is_err());
        for queue in [FilterQueue::Tx, FilterQueue::Rx, FilterQueue::All] {
            assert_eq!(queue.to_string().parse::<FilterQueue>().expect("its own name"), queue);
        }
    }
}
