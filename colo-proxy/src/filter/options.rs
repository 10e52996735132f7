//! The options of a filter, under the names of QEMU's properties, and the combinations that are refused.

use std::fmt;
use std::str::FromStr;

use colo_proxy_common::filter::{kind, queue};
use serde::Serialize;

use crate::config::{ColoFrameKind, PeerLimits, valid_name, valid_netdev};
use crate::endpoint::Endpoint;

/// Why options were refused.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
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
    RewriterQueue { queue: Queue },
}

/// Which of the guest's frames a filter sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Queue {
    /// Towards the guest.
    Tx,
    /// From the guest.
    Rx,
    /// Both.
    #[default]
    All,
}

impl Queue {
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Tx => queue::TX,
            Self::Rx => queue::RX,
            Self::All => queue::TX | queue::RX,
        }
    }
}

impl FromStr for Queue {
    type Err = OptionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tx" => Ok(Self::Tx),
            "rx" => Ok(Self::Rx),
            "all" => Ok(Self::All),
            _ => Err(OptionsError::Queue { text: text.into() }),
        }
    }
}

impl fmt::Display for Queue {
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
pub enum Kind {
    Mirror { outdev: Endpoint },
    Redirector { indev: Option<Endpoint>, outdev: Option<Endpoint> },
    Rewriter { colo_frame: Option<ColoFrameKind> },
}

impl Kind {
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
pub struct Options {
    /// `None`: it is derived from the command and the netdev.
    pub id: Option<String>,
    pub netdev: String,
    pub queue: Queue,
    /// Frames on the sockets carry a virtio-net header.
    pub vnet_hdr_support: bool,
    pub limits: PeerLimits,
    pub kind: Kind,
}

impl Options {
    /// Refuses combinations that make no sense.
    pub(super) fn check(&self) -> Result<(), OptionsError> {
        if let Some(id) = self.id.as_ref().filter(|id| !valid_name(id)) {
            return Err(OptionsError::Id { id: id.clone() });
        }
        if !valid_netdev(&self.netdev) {
            return Err(OptionsError::Netdev { netdev: self.netdev.clone() });
        }
        match &self.kind {
            Kind::Redirector { indev: None, outdev: None } => Err(OptionsError::NoEndpoint),
            Kind::Redirector { indev: Some(indev), outdev: Some(outdev) }
                if indev.address == outdev.address =>
            {
                Err(OptionsError::SameEndpoint { endpoint: indev.to_string() })
            }
            Kind::Rewriter { .. } if self.queue != Queue::All => {
                Err(OptionsError::RewriterQueue { queue: self.queue })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: Kind) -> Options {
        Options {
            id: None,
            netdev: "tap0".into(),
            queue: Queue::All,
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
            options(Kind::Redirector { indev: indev.map(endpoint), outdev: outdev.map(endpoint) })
                .check()
        };
        assert!(matches!(redirector(None, None), Err(OptionsError::NoEndpoint)));
        let same = redirector(Some("unix:/a,server"), Some("unix:/a"));
        assert!(matches!(same, Err(OptionsError::SameEndpoint { .. })));
        for (indev, outdev) in
            [(Some("unix:/a"), None), (None, Some("unix:/a")), (Some("unix:/a"), Some("unix:/b"))]
        {
            redirector(indev, outdev).expect("allowed");
        }
    }

    #[test]
    fn a_rewriter_needs_both_directions() {
        let rewriter = options(Kind::Rewriter { colo_frame: None });
        rewriter.check().expect("both");
        for queue in [Queue::Tx, Queue::Rx] {
            let error = Options { queue, ..rewriter.clone() }.check().expect_err("one");
            assert!(error.to_string().contains("both directions"), "{error}");
        }
    }

    #[test]
    fn names_are_checked() {
        let mirror = options(Kind::Mirror { outdev: endpoint("unix:/a") });
        let id = |id: &str| Options { id: Some(id.into()), ..mirror.clone() }.check();
        id("filter-mirror@tap0").expect("the derived one");
        assert!(matches!(id("a/b"), Err(OptionsError::Id { .. })));
        assert!(matches!(id(""), Err(OptionsError::Id { .. })));
        let long = Options { netdev: "x".repeat(16), ..mirror.clone() };
        assert!(matches!(long.check(), Err(OptionsError::Netdev { .. })));
        assert!("both".parse::<Queue>().is_err());
        for queue in [Queue::Tx, Queue::Rx, Queue::All] {
            assert_eq!(queue.to_string().parse::<Queue>().expect("its own name"), queue);
        }
    }
}
