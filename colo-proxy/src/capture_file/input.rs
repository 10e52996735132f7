//! Reads an exact number of bytes, and tells the end of a file from its middle.

use std::io::{self, Read};

use bytes::Bytes;

use super::CaptureError;

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// All bytes were read.
    Whole,
    /// The file ended before its first byte.
    Empty,
    /// The file ended in the middle.
    Truncated,
}

/// A file, and the place of the next byte.
#[derive(Debug)]
pub(super) struct CaptureInput<R> {
    input: R,
    at: u64,
}

impl<R: Read> CaptureInput<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Fills `into`.
    pub(super) fn fill(&mut self, into: &mut [u8]) -> Result<ReadOutcome, CaptureError> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) if filled == 0 => return Ok(ReadOutcome::Empty),
                Ok(0) => return Ok(ReadOutcome::Truncated),
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CaptureError::Read(error)),
            }
        }
        Ok(ReadOutcome::Whole)
    }

    /// The next `len` bytes; `None` if the file ends before. The caller has checked `len`.
    pub(super) fn take(&mut self, len: u32) -> Result<Option<Bytes>, CaptureError> {
        let mut bytes = vec![0; len as usize];
        Ok(match self.fill(&mut bytes)? {
            ReadOutcome::Whole => Some(bytes.into()),
            ReadOutcome::Empty | ReadOutcome::Truncated => None,
        })
    }

    /// Skips `len` bytes, which may be many.
    pub(super) fn skip(&mut self, len: u64) -> Result<ReadOutcome, CaptureError> {
        let mut left = len;
        let mut bytes = [0; 4096];
        while left > 0 {
            let part = left.min(bytes.len() as u64) as usize;
            let Some(into) = bytes.get_mut(..part) else { break };
            match self.fill(into)? {
                ReadOutcome::Whole => left -= part as u64,
                end => return Ok(end),
            }
        }
        Ok(ReadOutcome::Whole)
    }
}

/// The order of the bytes in a file's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Big,
    Little,
}

impl ByteOrder {
    /// The 16-bit number at `at`; 0 if `bytes` are too short. The callers' arrays are long enough.
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let number = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied();
        let number = number.unwrap_or_default();
        match self {
            Self::Big => u16::from_be_bytes(number),
            Self::Little => u16::from_le_bytes(number),
        }
    }

    /// The 32-bit number at `at`, likewise.
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let number = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied();
        let number = number.unwrap_or_default();
        match self {
            Self::Big => u32::from_be_bytes(number),
            Self::Little => u32::from_le_bytes(number),
        }
    }

    /// The 64-bit number at `at`, likewise.
    pub(super) fn u64(self, bytes: &[u8], at: usize) -> u64 {
        let number = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied();
        let number = number.unwrap_or_default();
        match self {
            Self::Big => u64::from_be_bytes(number),
            Self::Little => u64::from_le_bytes(number),
        }
    }
}
