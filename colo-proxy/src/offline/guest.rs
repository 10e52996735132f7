//! Finds the guest whose output is compared.
//!
//! A capture on a guest's TAP has frames of the guest and frames to it. The guest is at one end of
//! each, so its address is the one that (nearly) all frames have in common. Both captures have the
//! same address, because the guests of a pair share it. If the guest had only one peer, as a router,
//! the peer is in all frames, too. Then the output of the two decides.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use colo_proxy_common::decode;

use super::survey::{CaptureSurvey, MacAddress, ends};
use colo_proxy_engine::compare::Side;

/// The share of a capture's frames that have the guest at one end. The bridge may have flooded a few
/// frames of other stations.
const NEARLY_ALL: f64 = 0.9;
/// The start of the Ethernet addresses that QEMU and libvirt choose.
const QEMU: [u8; 3] = [0x52, 0x54, 0x00];
/// Addresses that an error names.
const NAMED_MAX: usize = 4;

/// An address of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestAddress {
    Mac(MacAddress),
    Ip(IpAddr),
}

impl fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl FromStr for GuestAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len()));
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| not_an_address(text))?;
        }
        parts
            .next()
            .is_none()
            .then_some(Self::Mac(MacAddress(mac)))
            .ok_or_else(|| not_an_address(text))
    }
}

fn not_an_address(text: &str) -> String {
    format!("`{text}` is neither an IP address nor an Ethernet address such as 52:54:00:12:34:56")
}

/// Why the guest cannot be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    #[error("the {} has no frames", capture(*side))]
    Nothing { side: Side },
    #[error(
        "cannot find the guest: {candidates} are all at one end of the frames of both captures"
    )]
    Ambiguous { candidates: String },
    #[error(
        "cannot find the guest: no address is at one end of nearly all frames of both captures; the \
         most frequent ones are {candidates}"
    )]
    None { candidates: String },
}

fn capture(side: Side) -> &'static str {
    match side {
        Side::Primary => "primary's capture",
        Side::Secondary => "secondary's capture",
    }
}

/// The guest of both captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparedGuest {
    pub(super) addresses: Vec<GuestAddress>,
    pub(super) inferred: bool,
}

impl fmt::Display for ComparedGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        f.write_str(&addresses.join(", "))
    }
}

impl ComparedGuest {
    /// The guest with the addresses `given`, or the one that both captures show.
    pub fn find(
        given: &[GuestAddress],
        primary: &CaptureSurvey,
        secondary: &CaptureSurvey,
    ) -> Result<Self, GuestError> {
        for (side, survey) in [(Side::Primary, primary), (Side::Secondary, secondary)] {
            if survey.packets == 0 {
                return Err(GuestError::Nothing { side });
            }
        }
        if !given.is_empty() {
            return Ok(Self { addresses: given.to_vec(), inferred: false });
        }
        let macs = infer(primary, secondary)?;
        Ok(Self { addresses: macs.into_iter().map(GuestAddress::Mac).collect(), inferred: true })
    }

    /// The guest sent this frame.
    pub fn sent(&self, bytes: &[u8]) -> bool {
        self.addresses.iter().any(|address| match address {
            GuestAddress::Mac(mac) => ends(bytes).is_some_and(|[_, source]| source == *mac),
            GuestAddress::Ip(ip) => source(bytes) == Some(*ip),
        })
    }
}

fn source(bytes: &[u8]) -> Option<IpAddr> {
    let ip = decode::decode(bytes, None).ok()?.ip?;
    let [a, b, c, d, ..] = ip.src;
    Some(if ip.version == 4 { [a, b, c, d].into() } else { ip.src.into() })
}

/// The addresses of the guest, most often one.
fn infer(
    primary: &CaptureSurvey,
    secondary: &CaptureSurvey,
) -> Result<Vec<MacAddress>, GuestError> {
    let surveys = [primary, secondary];
    let mut shares: Vec<(f64, MacAddress)> = primary
        .seen
        .keys()
        .map(|mac| (surveys.map(|survey| share(survey, *mac)), *mac))
        .map(|([a, b], mac)| (a.min(b), mac))
        .collect();
    shares.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let with = |least: f64| -> Vec<MacAddress> {
        shares.iter().filter(|(share, _)| *share >= least).map(|(_, mac)| *mac).collect()
    };
    let candidates = with(NEARLY_ALL);
    if candidates.is_empty() {
        return Err(GuestError::None { candidates: named(shares.iter().map(|s| s.1)) });
    }
    // The only sender of a capture is the guest: the capture has its output alone.
    let only_sender = surveys.iter().find_map(|survey| only_sender(survey));
    if let Some(sender) = only_sender.filter(|mac| candidates.contains(mac)) {
        return Ok(vec![sender]);
    }
    // Only the guest is in every frame on its TAP.
    let everywhere = with(1.0);
    match (candidates.as_slice(), everywhere.as_slice()) {
        ([one], _) | (_, [one]) => Ok(vec![*one]),
        _ => by_their_output(&candidates, surveys),
    }
}

/// Finds the guest among two stations that talk only with each other. The peer sent the same in both
/// captures, because the guests of a pair have the same input.
fn by_their_output(
    candidates: &[MacAddress],
    surveys: [&CaptureSurvey; 2],
) -> Result<Vec<MacAddress>, GuestError> {
    let differs = |mac: &&MacAddress| {
        let [ours, theirs] = surveys.map(|survey| survey.seen.get(*mac).map(|seen| seen.said));
        ours != theirs
    };
    let differing: Vec<MacAddress> = candidates.iter().filter(differs).copied().collect();
    let of_qemu: Vec<MacAddress> =
        candidates.iter().filter(|mac| mac.0.starts_with(&QEMU)).copied().collect();
    match (differing.as_slice(), of_qemu.as_slice()) {
        // All of them sent the same, so that it does not matter which one is the guest.
        ([], _) => Ok(candidates.to_vec()),
        ([one], _) | (_, [one]) => Ok(vec![*one]),
        _ => Err(GuestError::Ambiguous { candidates: named(candidates.iter().copied()) }),
    }
}

/// The share of the frames between stations that have `mac` at one end. If a capture has only
/// multicasts, the share of all frames that `mac` sent.
fn share(survey: &CaptureSurvey, mac: MacAddress) -> f64 {
    let Some(seen) = survey.seen.get(&mac) else { return 0.0 };
    if survey.unicast > 0 {
        seen.unicast as f64 / survey.unicast as f64
    } else {
        seen.sent as f64 / survey.packets as f64
    }
}

fn only_sender(survey: &CaptureSurvey) -> Option<MacAddress> {
    let mut senders = survey.seen.iter().filter(|(_, seen)| seen.sent > 0);
    match (senders.next(), senders.next()) {
        (Some((mac, _)), None) => Some(*mac),
        _ => None,
    }
}

fn named(macs: impl Iterator<Item = MacAddress>) -> String {
    let named: Vec<String> = macs.take(NAMED_MAX).map(|mac| mac.to_string()).collect();
    if named.is_empty() { "none".into() } else { named.join(", ") }
}
