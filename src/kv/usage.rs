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
    pub used_bytes: usize,
}

/// What sequences hold together.
pub fn usage(sequences: &[Sequence]) -> KvUsage {
    let mut shared: BTreeMap<usize, Part> = BTreeMap::new();
    let (mut reserved_bytes, mut used_bytes) = (0, 0);
    for part in sequences.iter().flat_map(Sequence::parts) {
        if part.is_shared {
            let known = shared.entry(part.identity).or_insert(Part {
                used_bytes: 0,
                ..part
            });
            known.used_bytes = known.used_bytes.max(part.used_bytes);
        } else {
            reserved_bytes += part.reserved_bytes;
            used_bytes += part.used_bytes;
        }
    }
    for part in shared.values() {
        reserved_bytes += part.reserved_bytes;
        used_bytes += part.used_bytes;
    }
    KvUsage {
        reserved_bytes,
        used_bytes,
    }
}
