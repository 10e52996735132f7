//! The applications of the guest, and the scripts by which the client talks to them.

use std::collections::VecDeque;

use super::endpoint::{Nature, TcpEnd};
use super::random::{Digest, SeededRandom};

/// Bytes of the number that a lottery draws.
const DRAWN: usize = 8;

/// An application on one connection.
#[derive(Clone, Debug)]
pub(super) enum App {
    /// Sends back each byte that it gets.
    Echo,
    /// Answers `[length, salt]` with that many bytes. With `closes` it closes after the first answer.
    Download { closes: bool },
    /// Takes `[length, salt]` and that many bytes, and answers with their digest.
    Upload,
    /// Speaks first, then echoes.
    Greeting { greeted: bool },
    /// Like `Download`, but with bytes that only this guest knows.
    Lottery,
    /// Plays a script, and checks the answers.
    Script(Script),
}

/// The client's side of one connection, turn by turn.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) steps: VecDeque<ScriptTurn>,
    /// The first turn of `steps` was said, and its answer is awaited.
    asked: bool,
    /// The first answer that was not the expected one.
    pub(super) wrong: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct ScriptTurn {
    pub(super) say: Vec<u8>,
    pub(super) expect: Expect,
}

#[derive(Clone, Debug)]
pub(super) enum Expect {
    Octets(Vec<u8>),
    /// This number of bytes, which follow from the drawn number in front of them and from the salt.
    Drawn(usize, u32),
    /// The peer closes.
    End,
}

/// The bytes that `salt` stands for.
pub(super) fn content(salt: u64, len: usize) -> Vec<u8> {
    SeededRandom::new(salt ^ 0x5eed).octets(len)
}

fn drawn(number: &[u8], salt: u32, len: usize) -> Vec<u8> {
    let seed = Digest::of(number).0 ^ u64::from(salt);
    [number.to_vec(), content(seed, len)].concat()
}

/// A request for `len` bytes.
pub(super) fn request(len: usize, salt: u32) -> Vec<u8> {
    [(len as u32).to_be_bytes(), salt.to_be_bytes()].concat()
}

/// The request at the start of the bytes.
fn requested(octets: &[u8]) -> Option<(usize, u32)> {
    let word = |at: usize| Some(u32::from_be_bytes(octets.get(at..at + 4)?.try_into().ok()?));
    Some((word(0)? as usize, word(4)?))
}

impl App {
    /// Serves every request that has arrived on `endpoint`.
    pub(super) fn run(&mut self, endpoint: &mut TcpEnd, nature: &mut Nature) {
        if let Self::Script(script) = self {
            return script.run(endpoint);
        }
        while endpoint.may_talk() && self.serve(endpoint, nature) {}
        if endpoint.is_at_end() {
            endpoint.closing = true;
        }
    }

    /// Serves one request. `false` if none is there.
    fn serve(&mut self, endpoint: &mut TcpEnd, nature: &mut Nature) -> bool {
        if endpoint.closing {
            return false;
        }
        let unread = endpoint.unread();
        let answer = match self {
            Self::Greeting { greeted } if !*greeted => {
                *greeted = true;
                (0, content(25, 100))
            }
            Self::Echo | Self::Greeting { .. } if unread.is_empty() => return false,
            Self::Echo | Self::Greeting { .. } => (unread.len(), unread.to_vec()),
            _ => {
                let Some((len, salt)) = requested(unread) else { return false };
                match self {
                    Self::Upload => match unread.get(8..8 + len) {
                        Some(octets) => (8 + len, Digest::of(octets).0.to_be_bytes().to_vec()),
                        None => return false,
                    },
                    Self::Lottery => {
                        let number = nature.random.octets(DRAWN);
                        (8, drawn(&number, salt, len))
                    }
                    _ => (8, content(u64::from(salt), len)),
                }
            }
        };
        endpoint.read += answer.0;
        endpoint.stream.extend(answer.1);
        if matches!(self, Self::Download { closes: true }) {
            endpoint.closing = true;
        }
        true
    }
}

impl Script {
    pub(super) fn new(steps: Vec<ScriptTurn>) -> Self {
        Self { steps: steps.into(), asked: false, wrong: None }
    }

    fn run(&mut self, endpoint: &mut TcpEnd) {
        if !endpoint.may_talk() {
            return;
        }
        while let Some(step) = self.steps.front() {
            if !self.asked {
                endpoint.stream.extend(&step.say);
                self.asked = true;
            }
            match step.is_met(endpoint) {
                Ok(false) => return,
                Ok(true) => {
                    self.steps.pop_front();
                    self.asked = false;
                }
                Err(wrong) => {
                    self.wrong.get_or_insert(wrong);
                    return;
                }
            }
        }
        endpoint.closing = true;
    }

    /// Every turn is over.
    pub(super) fn is_done(&self) -> bool {
        self.steps.is_empty()
    }
}

impl ScriptTurn {
    /// The expected answer has come, and is read. `Err`: another one has.
    fn is_met(&self, endpoint: &mut TcpEnd) -> Result<bool, String> {
        let unread = endpoint.unread();
        let expected = match &self.expect {
            Expect::End => return Ok(endpoint.is_at_end()),
            Expect::Octets(octets) => octets.clone(),
            Expect::Drawn(len, salt) => match unread.get(..DRAWN) {
                Some(number) => drawn(number, *salt, *len),
                None => return Ok(false),
            },
        };
        let here = unread.len().min(expected.len());
        if let Some(at) = (0..here).find(|at| unread[*at] != expected[*at]) {
            let place = endpoint.read + at;
            return Err(format!("byte {place} is {} and not {}", unread[at], expected[at]));
        }
        if endpoint.is_at_end() && here < expected.len() {
            return Err(format!("the stream ends at {}", endpoint.received.len()));
        }
        if here < expected.len() {
            return Ok(false);
        }
        endpoint.read += expected.len();
        Ok(true)
    }
}
