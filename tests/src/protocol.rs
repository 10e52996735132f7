//! The protocol between the client and the service in the guest.
//!
//! Every answer but one ([`RequestKind::Clock`]) is a function of the bytes that the connection has
//! carried so far, and of nothing else. So two guests with the same input give the same answers. A
//! guest that takes a connection over can only continue if it has really followed it.
//!
//! A request is a header of 16 bytes, with a `kind` and a count. Some kinds have a body of that
//! many bytes. Both sides keep a [`Transcript`].

use std::io::{self, Read, Write};
use std::net::SocketAddr;

/// TCP port of the service.
pub const SERVICE_PORT: u16 = 7000;
/// UDP port on which the service echoes.
pub const ECHO_PORT: u16 = 7001;
/// The UDP port where the service receives calls: it then opens a connection.
pub const CALL_PORT: u16 = 7002;
/// The longest body of a request whose answer repeats it.
pub const ANSWER_MAX: u64 = 1 << 20;
/// The number of bytes that are read, checked and hashed at a time. It is part of the definition of
/// the hash.
pub const BLOCK_LEN: usize = 1 << 16;
const HEADER_LEN: usize = 16;

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RequestKind {
    /// With a body. The answer has a counter, a hash and as many bytes of pattern.
    Ask = 1,
    /// With a body. The answer is the body.
    Echo = 2,
    /// Without a body. The answer has that many bytes of pattern.
    Down = 3,
    /// With a body of pattern. The answer has a counter, a hash and the number of wrong bytes.
    Up = 4,
    /// Without a body. The answer has that many bytes of a pattern that nobody can know before,
    /// because its seed is the guest's clock. Only in this answer do two guests differ.
    Clock = 5,
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRequest {
    pub kind: RequestKind,
    pub count: u64,
}

impl ServiceRequest {
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.kind as u8;
        bytes[8..].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    /// `None` if this is no request: the connection has carried wrong bytes.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Option<Self> {
        let (&head, &count) = (bytes.first_chunk::<8>()?, bytes.last_chunk()?);
        let count = u64::from_be_bytes(count);
        let [kind, zero @ ..] = head;
        let kind = match kind {
            1 => RequestKind::Ask,
            2 => RequestKind::Echo,
            3 => RequestKind::Down,
            4 => RequestKind::Up,
            5 => RequestKind::Clock,
            _ => return None,
        };
        let small = !matches!(kind, RequestKind::Ask | RequestKind::Echo) || count <= ANSWER_MAX;
        (zero == [0; 7] && small).then_some(Self { kind, count })
    }

    /// Reads one header; `None` if the peer has closed between two requests.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEADER_LEN];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match from.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match Self::decode(bytes) {
            Some(request) => Ok(Some(request)),
            None => Err(wrong(format!("not a request: {bytes:02x?}"))),
        }
    }
}

/// The error for bytes that the other side cannot have sent.
pub fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A summary of the bytes that a connection has carried so far. Both ends compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// Requests so far.
    pub counter: u64,
    /// The hash of every header and body so far.
    pub hash: u64,
}

impl Default for Transcript {
    fn default() -> Self {
        Self { counter: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Transcript {
    pub fn request(&mut self, request: ServiceRequest) {
        self.counter += 1;
        self.block(&request.encode());
    }

    /// Adds one block of a body. The ends of blocks are part of the hash; see [`blocks`].
    pub fn block(&mut self, block: &[u8]) {
        let mut hash = self.hash;
        let words = block.chunks_exact(8);
        for &byte in words.remainder() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        for word in words {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        self.hash = hash;
    }

    /// The counter, the hash and a third word, as in an answer.
    pub fn answer(&self, third: u64) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.counter.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.hash.to_be_bytes());
        bytes[16..].copy_from_slice(&third.to_be_bytes());
        bytes
    }
}

/// Bytes that either side can compute from the hash of the connection.
#[derive(Debug)]
pub struct Pattern {
    state: u64,
}

impl Pattern {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Fills `block` in whole words. Only the last block of a body may be shorter.
    pub fn fill(&mut self, block: &mut [u8]) {
        for chunk in block.chunks_mut(8) {
            self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e);
            let word = (self.state ^ (self.state >> 29)).to_le_bytes();
            if let Some(word) = word.get(..chunk.len()) {
                chunk.copy_from_slice(word);
            }
        }
    }
}

/// The lengths of the blocks of a body.
pub fn blocks(count: u64) -> impl Iterator<Item = usize> {
    let mut left = count;
    std::iter::from_fn(move || {
        let len = left.min(BLOCK_LEN as u64);
        left -= len;
        (len > 0).then_some(len as usize)
    })
}

/// Writes `count` bytes of pattern, and calls `seen` with each block.
pub fn write_pattern(
    to: &mut impl Write,
    seed: u64,
    count: u64,
    mut seen: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut block = vec![0; BLOCK_LEN];
    for len in blocks(count) {
        let block = block.get_mut(..len).unwrap_or_default();
        pattern.fill(block);
        seen(block);
        to.write_all(block)?;
    }
    Ok(())
}

/// Reads `count` bytes that should be pattern. Returns how many are wrong, and the place of the
/// first wrong byte.
pub fn read_pattern(
    from: &mut impl Read,
    seed: u64,
    count: u64,
    mut seen: impl FnMut(&[u8]),
) -> io::Result<Mismatch> {
    let mut pattern = Pattern::new(seed);
    let (mut block, mut expected) = (vec![0; BLOCK_LEN], vec![0; BLOCK_LEN]);
    let mut mismatch = Mismatch::default();
    let mut at = 0;
    for len in blocks(count) {
        let block = block.get_mut(..len).unwrap_or_default();
        let expected = expected.get_mut(..len).unwrap_or_default();
        from.read_exact(block)?;
        pattern.fill(expected);
        mismatch.add(at, block, expected);
        seen(block);
        at += len as u64;
    }
    Ok(mismatch)
}

/// The wrong bytes of a pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    pub count: u64,
    pub first_at: u64,
}

impl Mismatch {
    fn add(&mut self, at: u64, got: &[u8], expected: &[u8]) {
        if got == expected {
            return;
        }
        let differing = got.iter().zip(expected).enumerate().filter(|(_, (a, b))| a != b);
        for (i, _) in differing {
            if self.count == 0 {
                self.first_at = at + i as u64;
            }
            self.count += 1;
        }
    }
}

/// "Open a connection from this port to this address and serve it": a datagram to [`CALL_PORT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCall {
    pub from_port: u16,
    pub to: SocketAddr,
}

impl ServiceCall {
    pub fn encode(self) -> String {
        format!("call {} {}", self.from_port, self.to)
    }

    pub fn decode(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let ("call", from_port, to, None) =
            (words.next()?, words.next()?, words.next()?, words.next())
        else {
            return None;
        };
        Some(Self { from_port: from_port.parse().ok()?, to: to.parse().ok()? })
    }
}

#[cfg(test)]
mod tests;
