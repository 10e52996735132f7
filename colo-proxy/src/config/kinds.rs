//! Choices that a key offers.

use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::endpoint::{Endpoint, EndpointError};
use crate::error_chain::chain;

/// How the frames travel between the two hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LaneKind {
    /// Over the connections `mirror` and `secondary_in` or `secondary_out`. Nothing is lost, and
    /// the other end may be a QEMU.
    #[default]
    Stream,
    /// Through a tunnel between the two kernels, past the daemons, for a link that the two hosts have
    /// to themselves. If the tunnel cannot be made, the streams carry the frames, and the log says
    /// why.
    Kernel,
    /// Through the tunnel if the peer has one too and the link takes the guest's frames whole, else
    /// over the streams.
    Auto,
}

/// How the guest's output returns to the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ReturnKind {
    /// As frames.
    #[default]
    Frames,
    /// TCP data as digests, which are shorter, over the stream. For a link between the hosts that is
    /// slower than the guest.
    Digest,
}

/// Who makes the checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColoFrameKind {
    /// Nobody: every request is answered as done at once, and no state is copied.
    Instant,
    /// A program that is asked in JSON lines.
    Script(PathBuf),
    /// The QEMU whose QMP socket this is.
    Qmp(Endpoint),
    /// A program that speaks the protocol of QEMU's `notify_dev` on this socket.
    Xen(Endpoint),
}

impl FromStr for ColoFrameKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "instant" => Ok(Self::Instant),
            Some(("script", path)) if !path.is_empty() => Ok(Self::Script(path.into())),
            Some(("qmp", socket)) => qmp(text, socket),
            Some(("xen", socket)) => {
                socket.parse().map(Self::Xen).map_err(|error: EndpointError| chain(&error))
            }
            _ => Err(format!(
                "`{text}` is no COLO-frame; expected qmp:ENDPOINT, xen:ENDPOINT, script:PATH or \
                 instant"
            )),
        }
    }
}

fn qmp(text: &str, socket: &str) -> Result<ColoFrameKind, String> {
    match socket.parse::<Endpoint>() {
        Ok(endpoint) if endpoint.server => Err(format!(
            "`{text}`: QEMU listens (-qmp {},server=on,wait=off), and colo-proxy connects: leave \
             `,server` out",
            socket.split(',').next().unwrap_or_default()
        )),
        Ok(endpoint) => Ok(ColoFrameKind::Qmp(endpoint)),
        Err(error) => Err(chain(&error)),
    }
}

impl<'de> Deserialize<'de> for ColoFrameKind {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
