//! What the two ends say to each other: applications of the guest, and the client's scripts.

use std::collections::VecDeque;

use super::endpoint::{Endpoint, Nature};
use super::random::{Digest, Random};

/// Bytes of the number that a lottery draws.
const DRAWN: usize = 8;

/// An application on one connection.
#[derive(Clone, Debug)]
pub(super) enum App {
    /// Sends back what it gets.
    Echo,
    /// Answers `[length, salt]` with that many bytes; closes after the first where told so.
    Download { closes: bool },
    /// Takes `[length, salt]` and that many bytes, and answers with their digest.
    Upload,
    /// Speaks first, then echoes.
    Greeting { greeted: bool },
    /// Like `Download`, but of bytes that only this guest can know.
    Lottery,
    /// Plays a script and checks what comes.
    Script(Script),
}

/// What a client does on one connection.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) steps: VecDeque<Step>,
    /// The step in front has been sent.
    asked: bool,
    /// What it got that it should not have.
    pub(super) wrong: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) say: Vec<u8>,
    pub(super) expect: Expect,
}

#[derive(Clone, Debug)]
pub(super) enum Expect {
    Octets(Vec<u8>),
    /// So many bytes that follow from the first ones and the salt.
    Drawn(usize, u32),
    /// The peer closes.
    End,
}

/// The bytes that `salt` stands for.
pub(super) fn content(salt: u64, len: usize) -> Vec<u8> {
    Random::new(salt ^ 0x5eed).octets(len)
}

fn drawn(number: &[u8], salt: u32, len: usize) -> Vec<u8> {
    let seed = Digest::of(number).0 ^ u64::from(salt);
    [number.to_vec(), content(seed, len)].concat()
}

/// A request for `len` bytes.
pub(super) fn request(len: usize, salt: u32) -> Vec<u8> {
    [(len as u32).to_be_bytes(), salt.to_be_bytes()].concat()
}

/// The request at the start of `octets`.
fn requested(octets: &[u8]) -> Option<(usize, u32)> {
    let word = |at: usize| Some(u32::from_be_bytes(octets.get(at..at + 4)?.try_into().ok()?));
    Some((word(0)? as usize, word(4)?))
}

impl App {
    /// Does what there is to do on `endpoint`.
    pub(super) fn run(&mut self, endpoint: &mut Endpoint, nature: &mut Nature) {
        if let Self::Script(script) = self {
            return script.run(endpoint);
        }
        while endpoint.may_talk() && self.serve(endpoint, nature) {}
        if endpoint.is_at_end() {
            endpoint.closing = true;
        }
    }

    /// Serves one request; `false` where none is there.
    fn serve(&mut self, endpoint: &mut Endpoint, nature: &mut Nature) -> bool {
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
    pub(super) fn new(steps: Vec<Step>) -> Self {
        Self { steps: steps.into(), asked: false, wrong: None }
    }

    fn run(&mut self, endpoint: &mut Endpoint) {
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

    /// It has said and heard everything.
    pub(super) fn is_done(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Step {
    /// What is expected has come, and is read.
    fn is_met(&self, endpoint: &mut Endpoint) -> Result<bool, String> {
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
            return Err(format!("octet {place} is {} and not {}", unread[at], expected[at]));
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
