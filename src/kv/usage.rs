//! What sequences hold. Forks share memory, which counts once.

use std::collections::BTreeMap;

use super::sequence::Sequence;

/// Bytes of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvUsage {
    pub reserved_bytes: usize,
    /// Of that, filled with tokens.
    pub used_bytes: usize,
}

/// A piece of a sequence's memory.
pub struct Part {
    pub is_shared: bool,
    /// The same for all sequences that share it.
    pub identity: usize,
    pub reserved_bytes: usize,
    /// Filled by this sequence.
    pub n_tokens: usize,
}

/// What sequences of one shape hold together.
pub fn usage(sequences: &[Sequence]) -> KvUsage {
    let mut shared: BTreeMap<usize, Part> = BTreeMap::new();
    let (mut reserved_bytes, mut n_tokens) = (0, 0);
    for part in sequences.iter().flat_map(Sequence::parts) {
        if part.is_shared {
            let known = shared.entry(part.identity).or_insert(Part {
                n_tokens: 0,
                ..part
            });
            known.n_tokens = known.n_tokens.max(part.n_tokens);
        } else {
            reserved_bytes += part.reserved_bytes;
            n_tokens += part.n_tokens;
        }
    }
    for part in shared.values() {
        reserved_bytes += part.reserved_bytes;
        n_tokens += part.n_tokens;
    }
    let bytes_per_token = sequences.first().map_or(0, Sequence::bytes_per_token);
    KvUsage {
        reserved_bytes,
        used_bytes: n_tokens * bytes_per_token,
    }
}
