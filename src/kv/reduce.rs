//! Sequences that go over to a smaller format, to make room.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::block::Block;
use super::sequence::Sequence;
use super::shape::CacheShape;
use crate::error::Result;
use crate::mlx::Ops;

/// What became of blocks that others hold too, by their address.
pub type Converted = BTreeMap<usize, Arc<Block>>;

/// Converts the sequences, all of one context, that are in memory and not so small yet;
/// gives how many. What they share stays shared. Where others would keep so much of the
/// memory that there is nothing to gain, nothing happens. If a conversion fails, the
/// sequences in front of it are converted, and the others as before.
pub fn reduce(sequences: &mut [Sequence], ops: &Ops, shape: &CacheShape) -> Result<usize> {
    let mut chosen: Vec<&mut Sequence> = sequences
        .iter_mut()
        .filter(|sequence| sequence.can_become(shape))
        .collect();
    if !is_worth_it(&chosen, shape) {
        return Ok(0);
    }
    // Of a block that several hold, the longest one has the most tokens.
    chosen.sort_by_key(|sequence| Reverse(sequence.length()));
    let mut converted = Converted::new();
    for sequence in &mut chosen {
        sequence.convert(ops, shape, &mut converted)?;
    }
    Ok(chosen.len())
}

/// Whether the system gets back more than the converted blocks take.
fn is_worth_it(sequences: &[&mut Sequence], shape: &CacheShape) -> bool {
    let mut n_holders: BTreeMap<usize, usize> = BTreeMap::new();
    let (mut given_back, mut taken) = (0, 0);
    for block in sequences.iter().flat_map(|sequence| sequence.held_blocks()) {
        let n = n_holders.entry(Arc::as_ptr(block).addr()).or_insert(0);
        *n += 1;
        if *n == 1 {
            taken += block.memory().capacity() * shape.bytes_per_token();
        }
        if *n == block.n_sequences() {
            given_back += block.bytes();
        }
    }
    given_back > taken
}
