//! The translated connections of an instance as a text, which takes them from the secondary that
//! survived a failover to the next pair.
//!
//! ```text
//! {"format":"colo-proxy-offsets","version":1,"instance":"tap0","flows":1}
//! {"protocol":"tcp","guest":"10.0.0.2:80","peer":"10.0.0.1:40000","vlan":[5],"state":"established","seq_offset":7,"ts_offset":9}
//! ```
//!
//! Each connection has a line. The first line says how many follow, so that a truncated file is
//! noticed. An offset is the network's number less the guest's, modulo 2^32. `vlan` (outer id first) is
//! absent if there is no tag.
//!
//! This module has no I/O: text in, connections out. A text with an error anywhere is refused as a
//! whole, and the error names the lines at fault. The reader has changed nothing by then.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use colo_proxy_common::decode::protocol;
use colo_proxy_common::flow::{known, state};
use colo_proxy_common::record::{FlowKey, FlowRecord};
use serde::{Deserialize, Serialize};

use crate::error_chain::chain;

/// Bytes of the longest text. It has room for more connections than a table has by default.
pub const TEXT_MAX: usize = 32 << 20;
/// Bytes of the longest line.
const LINE_BYTES_MAX: usize = 512;
/// Lines at fault that an error names.
const NAMED_LINES_MAX: usize = 10;
const FORMAT: &str = "colo-proxy-offsets";
const VERSION: u32 = 1;
const VLAN_ID_MAX: u16 = 0xfff;

/// One connection and its translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    pub key: FlowKey,
    pub state: FlowState,
    /// `wire = guest + seq`, modulo 2^32.
    pub seq: u32,
    /// The same for timestamps.
    pub ts: u32,
}

/// The state of a connection.
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
    pub fn of(key: &FlowKey, flow: &FlowRecord, epoch: u32) -> Option<Self> {
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
    pub fn flow(&self, epoch: u32, now_ns: u64) -> FlowRecord {
        FlowRecord {
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
            ..FlowRecord::default()
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OffsetLine { guest, peer, .. } = OffsetLine::of(self);
        write!(f, "{guest} with {peer}")
    }
}

/// Why a text is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffsetsError {
    #[error("the text of offsets has {len} bytes, more than {TEXT_MAX}")]
    TooLong { len: usize },
    #[error("this is no output of `colo-proxy offsets export`: its first line {reason}")]
    Header { reason: String },
    #[error(
        "these offsets have version {found} of the format, and this colo-proxy reads version \
         {VERSION}; export them with a colo-proxy of the same version"
    )]
    Version { found: u32 },
    #[error(
        "the first line promises {promised} connections, but {found} follow; export them again"
    )]
    Count { promised: u64, found: usize },
    #[error("the text has {found} connections, more than the {max} of the flow table")]
    TooMany { found: usize, max: usize },
    #[error("{}", FirstLines(lines))]
    Lines { lines: Vec<LineError> },
}

/// The error of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Counted from 1.
    pub line: usize,
    pub reason: String,
}

/// Prints the first errors, and counts the others.
struct FirstLines<'a>(&'a [LineError]);

impl fmt::Display for FirstLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, LineError { line, reason }) in self.0.iter().take(NAMED_LINES_MAX).enumerate() {
            write!(f, "{}line {line}: {reason}", if i == 0 { "" } else { "; " })?;
        }
        match self.0.len().saturating_sub(NAMED_LINES_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more lines"),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct OffsetsHeader {
    format: String,
    version: u32,
    #[serde(default)]
    instance: String,
    flows: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OffsetLine {
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
    let header = OffsetsHeader {
        format: FORMAT.into(),
        version: VERSION,
        instance: instance.into(),
        flows: offsets.len() as u64,
    };
    // Strings and integers always serialise.
    let mut text = serde_json::to_string(&header).unwrap_or_default();
    text.push('\n');
    for offset in offsets {
        text += &serde_json::to_string(&OffsetLine::of(offset)).unwrap_or_default();
        text.push('\n');
    }
    text
}

/// The connections in `text`, at most `flows_max`.
pub fn parse(text: &str, flows_max: usize) -> Result<Vec<Offset>, OffsetsError> {
    if text.len() > TEXT_MAX {
        return Err(OffsetsError::TooLong { len: text.len() });
    }
    let mut lines = text.lines();
    let header = header(lines.next().unwrap_or_default())?;
    let found = lines.clone().count();
    if header.flows != found as u64 {
        return Err(OffsetsError::Count { promised: header.flows, found });
    }
    if found > flows_max {
        return Err(OffsetsError::TooMany { found, max: flows_max });
    }
    let mut offsets = Vec::with_capacity(found);
    let mut first_lines = HashMap::with_capacity(found);
    let mut errors = Vec::new();
    for (line, text) in (2..).zip(lines) {
        let parsed =
            connection(text).and_then(|offset| match first_lines.insert(offset.key, line) {
                None => Ok(offset),
                Some(first) => Err(format!("the connection of line {first} again")),
            });
        match parsed {
            Ok(offset) => offsets.push(offset),
            Err(reason) => errors.push(LineError { line, reason }),
        }
    }
    if errors.is_empty() { Ok(offsets) } else { Err(OffsetsError::Lines { lines: errors }) }
}

fn header(line: &str) -> Result<OffsetsHeader, OffsetsError> {
    let wrong = |reason: String| OffsetsError::Header { reason };
    if line.is_empty() {
        return Err(wrong("is empty".into()));
    }
    if line.len() > LINE_BYTES_MAX {
        return Err(wrong(format!("is longer than {LINE_BYTES_MAX} bytes")));
    }
    let header: OffsetsHeader = serde_json::from_str(line)
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
    if text.len() > LINE_BYTES_MAX {
        return Err(format!("longer than {LINE_BYTES_MAX} bytes"));
    }
    let line: OffsetLine = serde_json::from_str(text).map_err(|error| chain(&error))?;
    if line.protocol != "tcp" {
        return Err(format!("protocol `{}`, but only tcp is translated", line.protocol));
    }
    let (ip_version, guest_addr) = address("guest", &line.guest)?;
    let (peer_version, peer_addr) = address("peer", &line.peer)?;
    if ip_version != peer_version {
        return Err("guest and peer have different IP versions".into());
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

/// The IP version and the bytes of the address of one end of a connection.
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
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.ip().octets());
            Ok((4, bytes))
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
        _ => return Err(format!("{} VLAN ids, but a frame has 2 at the most", ids.len())),
    };
    if ids.last() == Some(&0) || ids.iter().any(|id| *id > VLAN_ID_MAX) {
        return Err(format!("{ids:?} are no VLAN ids"));
    }
    Ok(vlan)
}

impl OffsetLine {
    fn of(offset: &Offset) -> Self {
        let Offset { key, state, seq, ts } = *offset;
        let end = |bytes: [u8; 16], port| match (key.ip_version, bytes) {
            (4, [a, b, c, d, ..]) => SocketAddr::from(([a, b, c, d], port)),
            _ => SocketAddr::from((bytes, port)),
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
