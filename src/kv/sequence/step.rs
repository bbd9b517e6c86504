//! What a step of the forward pass sees of a sequence, and writes into it.

use super::{Sequence, Storage, not_here};
use crate::error::{Error, Result};
use crate::kernels::StateSegment;
use crate::kv::lineage::Lineage;
use crate::mlx::{Array, CachedArrays, Ops, SequenceBlocks};

impl Sequence {
    /// The memory for our kernels; `None`: MLX's operations are in use.
    pub(crate) fn blocks(&self) -> Option<SequenceBlocks> {
        match &self.storage {
            Storage::Blocks(blocks) => Some(SequenceBlocks {
                layout: self.shape.layout().clone(),
                blocks: blocks.memory(),
            }),
            Storage::Arrays(_) | Storage::Spilled(..) => None,
        }
    }

    /// Where the states of a step's rows are for our kernels; `None`: there are none, or
    /// MLX's operations are in use.
    pub(crate) fn state_segment(&self, first_row: usize, n_tokens: usize) -> Option<StateSegment> {
        self.states.segment((first_row, n_tokens), self.length())
    }

    /// For MLX's operations: replaces the states of one layer by what `advance` makes of
    /// them.
    pub fn update_states<T>(
        &mut self,
        ops: &Ops,
        layer: usize,
        advance: impl FnOnce(Vec<Array>) -> Result<(T, Vec<Array>)>,
    ) -> Result<T> {
        self.states.update(ops, layer, advance)
    }

    /// For MLX's operations: gives one layer's keys and values away to be replaced
    /// by what `extend` makes of them, and then to be looked at. If it fails, they
    /// are lost.
    pub fn update(
        &mut self,
        layer: usize,
        extend: impl FnOnce([CachedArrays; 2]) -> Result<[CachedArrays; 2]>,
    ) -> Result<&[CachedArrays; 2]> {
        match &mut self.storage {
            Storage::Arrays(arrays) => arrays.update(layer, extend),
            Storage::Blocks(_) => Err(Error::internal("a cache in blocks has no arrays")),
            Storage::Spilled(..) => Err(not_here()),
        }
    }

    /// The arrays that a step must evaluate so that the cache is up to date.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        let arrays = match &self.storage {
            Storage::Arrays(arrays) => Some(arrays.all()),
            Storage::Blocks(_) | Storage::Spilled(..) => None,
        };
        arrays.into_iter().flatten().chain(self.states.arrays())
    }

    /// After a step that failed: whether everything up to `length` is still there.
    /// If MLX lost some of it, the sequence is empty.
    pub fn recover(&mut self) -> bool {
        let is_complete = match &self.storage {
            Storage::Blocks(_) | Storage::Spilled(..) => true,
            Storage::Arrays(arrays) => {
                arrays.are_complete() && self.states.are_complete(self.length())
            }
        };
        if !is_complete {
            self.empty();
            self.tokens.clear();
            self.lineage = Lineage::default();
        }
        is_complete
    }
}
