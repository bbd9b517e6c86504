//! A fingerprint of a checkpoint, so that a saved state is only ever continued
//! with the model that made it.

use std::fmt;

/// 128-bit FNV-1a over `config.json`, the safetensors headers and the files'
/// lengths. The same on every platform and in every version. It notices a
/// different model, not a forged one, and not changed weights in the same
/// layout: the weights themselves aren't read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(pub u128);

/// Thirty-two hexadecimal digits.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

pub(super) struct Hasher(u128);

impl Hasher {
    // The offset basis and the prime of RFC 9923.
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    pub(super) fn new() -> Hasher {
        Hasher(Hasher::BASIS)
    }

    /// Adds a field and its length, so that neighbours cannot trade bytes.
    pub(super) fn field(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes(bytes);
    }

    pub(super) fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(super) fn finish(self) -> Identity {
        Identity(self.0)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(Hasher::PRIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_fnv1a_128() {
        let hash = |bytes: &[u8]| {
            let mut hasher = Hasher::new();
            hasher.bytes(bytes);
            hasher.finish().to_string()
        };
        assert_eq!(hash(b""), "6c62272e07bb014262b821756295c58d");
        assert_eq!(hash(b"a"), "d228cb696f1a8caf78912b704e4a8964");
        assert_eq!(hash(b"foobar"), "343e1662793c64bf6f0d3597ba446f18");
    }

    #[test]
    fn moving_a_byte_between_fields_changes_the_identity() {
        let hash = |fields: [&[u8]; 2]| {
            let mut hasher = Hasher::new();
            fields.into_iter().for_each(|field| hasher.field(field));
            hasher.finish()
        };
        assert_ne!(hash([b"ab", b"c"]), hash([b"a", b"bc"]));
    }
}
