//! Random bytes that no guest and no peer can know.

use std::io::{self, Read as _};

/// Random bytes of the kernel's.
pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A random number.
pub(crate) fn random_u64() -> io::Result<u64> {
    random_bytes().map(u64::from_ne_bytes)
}
