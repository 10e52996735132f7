//! Random bytes that no guest and no peer can know.

use std::io;

/// Random bytes of the kernel's generator.
pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A random number.
pub(crate) fn random_u64() -> io::Result<u64> {
    random_bytes().map(u64::from_ne_bytes)
}
