//! Reading exactly so much of a file, and telling its end from its middle.

use std::io::{self, Read};

use bytes::Bytes;

use super::CaptureError;

/// How far a read came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// All of it.
    Whole,
    /// The file ended before its first octet.
    Empty,
    /// The file ended in the middle.
    Cut,
}

/// A file with the place in it.
#[derive(Debug)]
pub(super) struct Input<R> {
    input: R,
    at: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, at: 0 }
    }

    /// Octets read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Fills `into`.
    pub(super) fn fill(&mut self, into: &mut [u8]) -> Result<Filled, CaptureError> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) if filled == 0 => return Ok(Filled::Empty),
                Ok(0) => return Ok(Filled::Cut),
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CaptureError::Read(error)),
            }
        }
        Ok(Filled::Whole)
    }

    /// The next `len` octets; `None` where the file ends before. The caller has checked `len`.
    pub(super) fn take(&mut self, len: u32) -> Result<Option<Bytes>, CaptureError> {
        let mut octets = vec![0; len as usize];
        Ok(match self.fill(&mut octets)? {
            Filled::Whole => Some(octets.into()),
            Filled::Empty | Filled::Cut => None,
        })
    }

    /// Goes over `len` octets, however many they are.
    pub(super) fn skip(&mut self, len: u64) -> Result<Filled, CaptureError> {
        let mut left = len;
        let mut octets = [0; 4096];
        while left > 0 {
            let part = left.min(octets.len() as u64) as usize;
            let Some(into) = octets.get_mut(..part) else { break };
            match self.fill(into)? {
                Filled::Whole => left -= part as u64,
                end => return Ok(end),
            }
        }
        Ok(Filled::Whole)
    }
}

/// The order of octets in a file's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Big,
    Little,
}

impl Order {
    /// The 16-bit number at `at`; 0 where `octets` are too short, which the callers' arrays are
    /// not.
    pub(super) fn u16(self, octets: &[u8], at: usize) -> u16 {
        let number = octets.get(at..).and_then(|rest| rest.first_chunk()).copied();
        let number = number.unwrap_or_default();
        match self {
            Self::Big => u16::from_be_bytes(number),
            Self::Little => u16::from_le_bytes(number),
        }
    }

    /// The 32-bit number at `at`, likewise.
    pub(super) fn u32(self, octets: &[u8], at: usize) -> u32 {
        let number = octets.get(at..).and_then(|rest| rest.first_chunk()).copied();
        let number = number.unwrap_or_default();
        match self {
            Self::Big => u32::from_be_bytes(number),
            Self::Little => u32::from_le_bytes(number),
        }
    }

    /// The 64-bit number at `at`, likewise.
    pub(super) fn u64(self, octets: &[u8], at: usize) -> u64 {
        let number = octets.get(at..).and_then(|rest| rest.first_chunk()).copied();
        let number = number.unwrap_or_default();
        match self {
            Self::Big => u64::from_be_bytes(number),
            Self::Little => u64::from_le_bytes(number),
        }
    }
}
