//! The translated connections of an instance as text: to take them from the secondary that survived
//! a failover to the next pair.
//!
//! ```text
//! {"format":"colo-proxy-offsets","version":1,"instance":"tap0","flows":1}
//! {"protocol":"tcp","guest":"10.0.0.2:80","peer":"10.0.0.1:40000","vlan":[5],"state":"established","seq_offset":7,"ts_offset":9}
//! ```
//!
//! A line each, and a first one that says how many follow, so that a file that was cut is noticed.
//! Offsets are what the network's numbers are beyond the guest's, modulo 2^32. `vlan` (outer id
//! first) is absent where there is no tag.
//!
//! Pure: text in, connections out. A text that is wrong anywhere is refused as a whole, with the
//! lines at fault; whoever reads it has changed nothing by then.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use colo_proxy_common::decode::protocol;
use colo_proxy_common::flow::{known, state};
use colo_proxy_common::record::{Flow, FlowKey};
use serde::{Deserialize, Serialize};

use crate::error_chain::chain;

/// The longest text: room for more connections than a table has by default.
pub const TEXT_MAX: usize = 32 << 20;
/// The longest line of a connection.
const LINE_MAX: usize = 512;
/// Lines at fault that an error names.
const NAMED_MAX: usize = 10;
const FORMAT: &str = "colo-proxy-offsets";
const VERSION: u32 = 1;
const VLAN_ID_MAX: u16 = 0xfff;

/// One connection and how it is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    pub key: FlowKey,
    pub state: FlowState,
    /// `wire = guest + seq`, modulo 2^32.
    pub seq: u32,
    /// The same for timestamps.
    pub ts: u32,
}

/// Where the connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    Established,
    FinGuest,
    FinPeer,
    Closed,
    Reset,
}

impl Offset {
    /// The connection of an entry in a map; `None` where it is not translated in `epoch`, or is
    /// still being opened.
    pub fn of(key: &FlowKey, flow: &Flow, epoch: u32) -> Option<Self> {
        let state = match flow.state {
            state::ESTABLISHED => FlowState::Established,
            state::FIN_GUEST => FlowState::FinGuest,
            state::FIN_PEER => FlowState::FinPeer,
            state::CLOSED | state::REOPENING => FlowState::Closed,
            state::RESET => FlowState::Reset,
            _ => return None,
        };
        let translation = flow.translation(epoch);
        let offset = Self { key: *key, state, seq: translation.seq, ts: translation.ts };
        (!translation.is_identity() && key.protocol == protocol::TCP).then_some(offset)
    }

    /// The entry for it under a new pair: in every epoch of that, this is how it is translated.
    pub fn flow(&self, epoch: u32, now_ns: u64) -> Flow {
        Flow {
            epoch,
            state: match self.state {
                FlowState::Established => state::ESTABLISHED,
                FlowState::FinGuest => state::FIN_GUEST,
                FlowState::FinPeer => state::FIN_PEER,
                FlowState::Closed => state::CLOSED,
                FlowState::Reset => state::RESET,
            },
            known: known::OFFSET | known::CONFIRMED,
            seq_offset: self.seq,
            ts_offset: self.ts,
            base_seq_offset: self.seq,
            base_ts_offset: self.ts,
            last_seen_ns: now_ns,
            ..Flow::default()
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { guest, peer, .. } = Line::of(self);
        write!(f, "{guest} with {peer}")
    }
}

/// Why a text was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffsetsError {
    #[error("{len} octets of offsets are more than {TEXT_MAX}")]
    TooLong { len: usize },
    #[error("this is no output of `colo-proxy offsets export`: its first line {what}")]
    Header { what: String },
    #[error(
        "these offsets are of version {found} of the format, and this is a colo-proxy for version \
         {VERSION}; export them with one of this version"
    )]
    Version { found: u32 },
    #[error("the first line promises {said} connections, and {found} follow; export them again")]
    Count { said: u64, found: usize },
    #[error("{found} connections are more than the flow table holds ({max})")]
    TooMany { found: usize, max: usize },
    #[error("{}", Listed(lines))]
    Lines { lines: Vec<LineError> },
}

/// What is wrong with a line; counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    pub line: usize,
    pub what: String,
}

/// The first of the lines at fault.
struct Listed<'a>(&'a [LineError]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, LineError { line, what }) in self.0.iter().take(NAMED_MAX).enumerate() {
            write!(f, "{}line {line}: {what}", if i == 0 { "" } else { "; " })?;
        }
        match self.0.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more lines"),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    #[serde(default)]
    instance: String,
    flows: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    protocol: String,
    guest: SocketAddr,
    peer: SocketAddr,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    vlan: Vec<u16>,
    state: FlowState,
    seq_offset: u32,
    ts_offset: u32,
}

/// The text for the connections of `instance`.
pub fn format(instance: &str, offsets: &[Offset]) -> String {
    let header = Header {
        format: FORMAT.into(),
        version: VERSION,
        instance: instance.into(),
        flows: offsets.len() as u64,
    };
    // Strings and integers always serialise.
    let mut text = serde_json::to_string(&header).unwrap_or_default();
    text.push('\n');
    for offset in offsets {
        text += &serde_json::to_string(&Line::of(offset)).unwrap_or_default();
        text.push('\n');
    }
    text
}

/// The connections in `text`, `flows_max` at the most.
pub fn parse(text: &str, flows_max: usize) -> Result<Vec<Offset>, OffsetsError> {
    if text.len() > TEXT_MAX {
        return Err(OffsetsError::TooLong { len: text.len() });
    }
    let mut lines = text.lines();
    let header = header(lines.next().unwrap_or_default())?;
    let found = lines.clone().count();
    if header.flows != found as u64 {
        return Err(OffsetsError::Count { said: header.flows, found });
    }
    if found > flows_max {
        return Err(OffsetsError::TooMany { found, max: flows_max });
    }
    let mut offsets = Vec::with_capacity(found);
    let mut seen = HashMap::with_capacity(found);
    let mut wrong = Vec::new();
    for (line, text) in (2..).zip(lines) {
        let parsed = connection(text).and_then(|offset| match seen.insert(offset.key, line) {
            None => Ok(offset),
            Some(first) => Err(format!("the connection of line {first} again")),
        });
        match parsed {
            Ok(offset) => offsets.push(offset),
            Err(what) => wrong.push(LineError { line, what }),
        }
    }
    if wrong.is_empty() { Ok(offsets) } else { Err(OffsetsError::Lines { lines: wrong }) }
}

fn header(line: &str) -> Result<Header, OffsetsError> {
    let wrong = |what: String| OffsetsError::Header { what };
    if line.is_empty() {
        return Err(wrong("is empty".into()));
    }
    if line.len() > LINE_MAX {
        return Err(wrong(format!("is longer than {LINE_MAX} octets")));
    }
    let header: Header = serde_json::from_str(line)
        .map_err(|error| wrong(format!("cannot be read ({})", chain(&error))))?;
    if header.format != FORMAT {
        return Err(wrong(format!("names the format `{}`, not `{FORMAT}`", header.format)));
    }
    if header.version != VERSION {
        return Err(OffsetsError::Version { found: header.version });
    }
    Ok(header)
}

fn connection(text: &str) -> Result<Offset, String> {
    if text.len() > LINE_MAX {
        return Err(format!("longer than {LINE_MAX} octets"));
    }
    let line: Line = serde_json::from_str(text).map_err(|error| chain(&error))?;
    if line.protocol != "tcp" {
        return Err(format!("protocol `{}`; only tcp is translated", line.protocol));
    }
    let (ip_version, guest_addr) = address("guest", &line.guest)?;
    let (peer_version, peer_addr) = address("peer", &line.peer)?;
    if ip_version != peer_version {
        return Err("guest and peer are of different IP versions".into());
    }
    let key = FlowKey {
        guest_addr,
        peer_addr,
        guest_port: line.guest.port(),
        peer_port: line.peer.port(),
        vlan: vlan(&line.vlan)?,
        ip_version,
        protocol: protocol::TCP,
        reserved: [0; 2],
    };
    Ok(Offset { key, state: line.state, seq: line.seq_offset, ts: line.ts_offset })
}

/// The version and octets of the address of one end of a connection.
fn address(end: &str, address: &SocketAddr) -> Result<(u8, [u8; 16]), String> {
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Err(format!("{end} {ip} is no end of a connection"));
    }
    if address.port() == 0 {
        return Err(format!("{end} has port 0"));
    }
    match address {
        SocketAddr::V4(v4) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&v4.ip().octets());
            Ok((4, octets))
        }
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Err(format!("{end} {address} has a scope")),
        SocketAddr::V6(v6) => Ok((6, v6.ip().octets())),
    }
}

fn vlan(ids: &[u16]) -> Result<[u16; 2], String> {
    let vlan = match ids {
        [] => [0, 0],
        [outer] => [*outer, 0],
        [outer, inner] => [*outer, *inner],
        _ => return Err(format!("{} VLAN ids; 2 at the most", ids.len())),
    };
    if ids.last() == Some(&0) || ids.iter().any(|id| *id > VLAN_ID_MAX) {
        return Err(format!("{ids:?} are no VLAN ids"));
    }
    Ok(vlan)
}

impl Line {
    fn of(offset: &Offset) -> Self {
        let Offset { key, state, seq, ts } = *offset;
        let end = |octets: [u8; 16], port| match (key.ip_version, octets) {
            (4, [a, b, c, d, ..]) => SocketAddr::from(([a, b, c, d], port)),
            _ => SocketAddr::from((octets, port)),
        };
        let vlan = match key.vlan {
            [0, 0] => Vec::new(),
            [outer, 0] => vec![outer],
            both => both.into(),
        };
        Self {
            protocol: "tcp".into(),
            guest: end(key.guest_addr, key.guest_port),
            peer: end(key.peer_addr, key.peer_port),
            vlan,
            state,
            seq_offset: seq,
            ts_offset: ts,
        }
    }
}

#[cfg(test)]
mod tests;
