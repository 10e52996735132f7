//! The digest of a payload.

use polyval::Polyval;
use polyval::universal_hash::UniversalHash;

pub(super) const DIGEST_LEN: usize = polyval::BLOCK_SIZE;
pub(super) const KEY_LEN: usize = polyval::KEY_SIZE;

/// A digest; see the module.
pub(super) type PayloadDigest = [u8; DIGEST_LEN];

/// The key of the digests of one connection: a secret of the two daemons.
#[derive(Clone)]
pub struct DigestKey {
    octets: [u8; KEY_LEN],
    /// The hash of no bytes, with the powers of the key.
    start: Polyval,
}

impl DigestKey {
    pub(super) fn new(octets: [u8; KEY_LEN]) -> Self {
        Self { octets, start: Polyval::new(&octets.into()) }
    }

    pub(super) fn octets(&self) -> &[u8; KEY_LEN] {
        &self.octets
    }

    /// The digest of `payload`. Compare digests of payloads of the same length only, because the last
    /// block is filled up with zeros.
    pub(super) fn digest(&self, payload: &[u8]) -> PayloadDigest {
        let mut hash = self.start.clone();
        hash.update_padded(payload);
        hash.finalize().into()
    }
}

impl PartialEq for DigestKey {
    fn eq(&self, other: &Self) -> bool {
        self.octets == other.octets
    }
}

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::DigestKey;

    fn octets(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect()
    }

    #[test]
    fn it_is_polyval_as_rfc_8452_has_it() {
        let key: [u8; 16] = octets("25629347589242761d31f826ba4b757b").try_into().expect("sixteen");
        let payload = octets("4f4f95668c83dfb6401762bb2d01a262d1a24ddd2721d006bbe45f20d3c9f362");
        assert_eq!(
            DigestKey::new(key).digest(&payload).to_vec(),
            octets("f7a3b47b846119fae5b7866cf5e5b77e")
        );
    }

    #[test]
    fn every_byte_and_its_place_count() {
        let key = DigestKey::new([7; 16]);
        let payload: Vec<u8> = (0..100).collect();
        let whole = key.digest(&payload);
        for at in 0..100 {
            let mut other = payload.clone();
            other[at] ^= 1;
            assert_ne!(key.digest(&other), whole, "{at}");
            other[at] ^= 1;
            other.swap(at, (at + 1) % 100);
            assert_ne!(key.digest(&other), whole, "{at}");
        }
        assert_ne!(DigestKey::new([8; 16]).digest(&payload), whole);
    }
}
