//! The options of a TCP header.

use super::{FrameBytes, Tcp};

/// The longest TCP options a header can hold, in bytes.
pub const OPTIONS_MAX: usize = 40;

/// The TCP options that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    pub mss: Option<u16>,
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    pub timestamps: Option<Timestamps>,
    pub sack: Option<Sack>,
}

/// The timestamps option (RFC 7323).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    pub value: u32,
    pub echo: u32,
    /// Where `value` lies in the frame; `echo` follows it.
    pub at: u32,
}

/// The selective acknowledgment option (RFC 2018).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sack {
    /// Where the first block lies in the frame; a block is two 32-bit numbers.
    pub at: u32,
    /// Number of blocks, 4 at most.
    pub blocks: u8,
}

/// `NOP NOP`, kind and length of the timestamps option: the usual form since RFC 7323, appendix A,
/// and its predecessor.
const USUAL_TIMESTAMPS: u32 = 0x0101_080a;
const USUAL_TIMESTAMPS_LEN: u32 = 12;
/// `NOP NOP`, and the kind of the SACK option.
const USUAL_SACK: u32 = 0x01_01_05;

/// Reads the options of `tcp`. A truncated option, or one of the wrong length, ends the walk, as it
/// does in a receiver.
#[inline(always)]
pub fn decode_tcp_options<F: FrameBytes + ?Sized>(frame: &F, tcp: &Tcp) -> TcpOptions {
    let len = u32::from(tcp.options_len);
    let start = tcp.at + 20;
    if len == 0 {
        return TcpOptions::default();
    }
    usual(frame, start, len).unwrap_or_else(|| walk(frame, start, len))
}

/// Reads the options that nearly every established connection has, with the same result as a walk:
/// timestamps, or SACK blocks, or SACK blocks behind timestamps, and nothing else. `None` for others.
#[inline(always)]
fn usual<F: FrameBytes + ?Sized>(frame: &F, start: u32, len: u32) -> Option<TcpOptions> {
    // The length of the shortest form.
    let head: [u8; 12] = frame.read(start as usize)?;
    let [a, b, c, d, v0, v1, v2, v3, e0, e1, e2, e3] = head;
    let first = u32::from_be_bytes([a, b, c, d]);
    if first != USUAL_TIMESTAMPS {
        return Some(TcpOptions { sack: Some(usual_sack(first, start, len)?), ..NONE });
    }
    let timestamps = Some(Timestamps {
        value: u32::from_be_bytes([v0, v1, v2, v3]),
        echo: u32::from_be_bytes([e0, e1, e2, e3]),
        at: start + 4,
    });
    if len == USUAL_TIMESTAMPS_LEN {
        return Some(TcpOptions { timestamps, ..NONE });
    }
    let at = start + USUAL_TIMESTAMPS_LEN;
    let second = u32::from_be_bytes(frame.read(at as usize)?);
    let sack = usual_sack(second, at, len.checked_sub(USUAL_TIMESTAMPS_LEN)?)?;
    Some(TcpOptions { timestamps, sack: Some(sack), ..NONE })
}

/// The SACK option that begins with `word` at `at`, if it takes all of the `len` bytes.
#[inline(always)]
fn usual_sack(word: u32, at: u32, len: u32) -> Option<Sack> {
    let fits = matches!(len, 12 | 20 | 28 | 36) && word & 0xff == len - 2;
    (word >> 8 == USUAL_SACK && fits).then_some(Sack { at: at + 4, blocks: (len / 8) as u8 })
}

const NONE: TcpOptions = TcpOptions {
    mss: None,
    window_scale: None,
    sack_permitted: false,
    timestamps: None,
    sack: None,
};

/// Reads options in any order.
#[inline(always)]
fn walk<F: FrameBytes + ?Sized>(frame: &F, start: u32, len: u32) -> TcpOptions {
    let mut walk = OptionWalk::default();
    if !frame.read_into(start as usize, len as usize, &mut walk.raw) {
        return TcpOptions::default();
    }
    walk.len = len;
    F::finish(&mut walk);
    walk.found(start)
}

/// A walk over the options of a TCP header: its place, and the places of the values found. The last
/// option of a kind counts. Offset 0 means "not found", because a value follows its kind and length.
#[derive(Debug)]
#[repr(C)]
pub struct OptionWalk {
    raw: [u8; OPTIONS_MAX],
    len: u32,
    next: u32,
    mss: u32,
    window_scale: u32,
    sack_permitted: u32,
    timestamps: u32,
    sack: u32,
    sack_len: u32,
}

impl Default for OptionWalk {
    #[inline(always)]
    fn default() -> Self {
        Self {
            raw: [0; OPTIONS_MAX],
            len: 0,
            next: 0,
            mss: 0,
            window_scale: 0,
            sack_permitted: 0,
            timestamps: 0,
            sack: 0,
            sack_len: 0,
        }
    }
}

impl OptionWalk {
    /// Reads one option; `false` behind the last one.
    #[inline(always)]
    pub fn step(&mut self) -> bool {
        let at = self.next;
        if at >= self.len {
            return false;
        }
        match self.byte(at) {
            0 => return false,
            1 => {
                self.next = at + 1;
                return true;
            }
            _ => {}
        }
        let option_len = u32::from(self.byte(at + 1));
        if option_len < 2 || at + option_len > self.len {
            return false;
        }
        self.next = at + option_len;
        self.note(self.byte(at), at + 2, option_len);
        true
    }

    #[inline(always)]
    fn note(&mut self, kind: u8, at: u32, option_len: u32) {
        match (kind, option_len) {
            (2, 4) => self.mss = at,
            (3, 3) => self.window_scale = at,
            (4, 2) => self.sack_permitted = at,
            (5, 10 | 18 | 26 | 34) => {
                self.sack = at;
                self.sack_len = option_len - 2;
            }
            (8, 10) => self.timestamps = at,
            _ => {}
        }
    }

    /// The options found; they start at `start` in the frame.
    #[inline(always)]
    fn found(&self, start: u32) -> TcpOptions {
        TcpOptions {
            mss: (self.mss != 0).then(|| (self.word(self.mss) >> 16) as u16),
            window_scale: (self.window_scale != 0).then(|| self.byte(self.window_scale)),
            sack_permitted: self.sack_permitted != 0,
            timestamps: (self.timestamps != 0).then(|| Timestamps {
                value: self.word(self.timestamps),
                echo: self.word(self.timestamps + 4),
                at: start + self.timestamps,
            }),
            sack: (self.sack != 0)
                .then(|| Sack { at: start + self.sack, blocks: (self.sack_len / 8) as u8 }),
        }
    }

    /// Byte `at`; 0 beyond the end. The kernel's verifier wants to see every index bounded.
    #[inline(always)]
    fn byte(&self, at: u32) -> u8 {
        match self.raw.get(at as usize) {
            Some(byte) => *byte,
            None => 0,
        }
    }

    #[inline(always)]
    fn word(&self, at: u32) -> u32 {
        u32::from_be_bytes([self.byte(at), self.byte(at + 1), self.byte(at + 2), self.byte(at + 3)])
    }
}
