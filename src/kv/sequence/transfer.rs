//! What a sequence holds elsewhere or in another form: on disk, in files, in other formats,
//! in blocks of others, without some of its tokens.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::{Computed, Sequence, Storage, not_here};
use crate::error::{Error, Result};
use crate::kernels::{CacheBlock, StateMemory};
use crate::kv::arrays::Arrays;
use crate::kv::block::{Block, Held};
use crate::kv::blocks::{Blocks, KeyRotations};
use crate::kv::lineage::{Lineage, Recipe};
use crate::kv::reduce::Converted;
use crate::kv::shape::{BLOCK, CacheShape};
use crate::kv::spilled::Spilled;
use crate::kv::states::States;
use crate::mlx::Ops;

impl Sequence {
    /// Whether it is in memory and `convert` would change it.
    pub(in crate::kv) fn can_become(&self, shape: &CacheShape) -> bool {
        let is_here = matches!(self.storage, Storage::Blocks(_)) && self.length() > 0;
        is_here && self.shape != *shape
    }

    /// Stores what it holds, and what comes behind, as another shape says until it is
    /// empty. If that fails, the sequence is as before.
    pub(in crate::kv) fn convert(
        &mut self,
        ops: &Ops,
        shape: &CacheShape,
        converted: &mut Converted,
    ) -> Result<()> {
        let Storage::Blocks(blocks) = &mut self.storage else {
            return Err(Error::internal("only blocks are converted"));
        };
        let pool = ops.pool().map(|pool| &**pool);
        blocks.convert([&self.shape, shape], self.tokens.len(), pool, converted)?;
        self.shape = shape.clone();
        self.lineage.convert();
        Ok(())
    }

    pub fn is_spilled(&self) -> bool {
        matches!(self.storage, Storage::Spilled(..))
    }

    /// Moves keys and values into a file in `directory`, until `bring_back`.
    pub fn spill(&mut self, ops: &Ops, directory: &Path) -> Result<()> {
        let spilled = Spilled::write(ops, self, directory)?;
        self.storage = Storage::Spilled(Arc::new(spilled), self.storage.computed());
        self.states = self.states.absent(self.length());
        Ok(())
    }

    /// Undoes `spill`. If that fails, the sequence is still on disk.
    pub fn bring_back(&mut self) -> Result<()> {
        if let Storage::Spilled(spilled, _) = &self.storage {
            let (spilled, length) = (spilled.clone(), self.length());
            let lineage = self.lineage.clone();
            spilled.read_into(self)?;
            // It may have been cut meanwhile.
            self.truncate(length);
            self.lineage = lineage;
        }
        Ok(())
    }

    /// The block with the tokens from `BLOCK * index` on, for others too: of MLX's
    /// operations a copy.
    pub fn block(&self, ops: &Ops, index: usize) -> Result<Arc<Block>> {
        match &self.storage {
            Storage::Blocks(blocks) => Ok(blocks.block(index).clone()),
            Storage::Arrays(_) => Ok(Held::new(self.chunk(ops, index)?).block().clone()),
            Storage::Spilled(..) => Err(not_here()),
        }
    }

    /// Replaces everything by `tokens`, which this recipe computed and `blocks` hold.
    /// It takes no memory, but for MLX's operations. If that fails, the sequence is as
    /// before.
    pub fn adopt(
        &mut self,
        recipe: &Arc<Recipe>,
        tokens: &[i32],
        blocks: &[Arc<Block>],
    ) -> Result<()> {
        if self.has_states() {
            return Err(Error::internal("blocks have no states of recurrent layers"));
        }
        match self.storage.computed() {
            Computed::ByKernels => {
                self.storage = Storage::Blocks(Blocks::shared(blocks));
                self.shape = self.first_shape.clone();
                self.tokens = tokens.to_vec();
            }
            Computed::ByMlx => {
                let shape = self.first_shape.clone();
                self.replace(&shape, tokens.to_vec(), None, |index| {
                    let n = chunk_tokens(index, tokens.len()).len();
                    let copy = blocks[index].memory().copy_tokens(shape.layout(), n, n);
                    copy.map_err(no_copy)
                })?;
            }
        }
        self.lineage = Lineage::of(recipe, tokens.len());
        Ok(())
    }

    /// Removes `drop` tokens from `from` on, which must be there. Those behind them move
    /// and their keys turn back; what they saw of the removed ones stays in them. If that
    /// fails, the sequence is as before.
    pub fn remove(
        &mut self,
        ops: &Ops,
        (from, drop): (usize, usize),
        rotations: &KeyRotations<'_>,
    ) -> Result<()> {
        let (length, shape) = (self.length(), &self.shape);
        let (span, pool) = ((from, drop, length), ops.pool().map(|pool| &**pool));
        match &mut self.storage {
            Storage::Blocks(blocks) => blocks.remove(shape, span, pool, rotations)?,
            Storage::Arrays(arrays) => {
                let mut blocks = Blocks::default();
                for index in 0..length.div_ceil(BLOCK) {
                    let chunk = arrays.chunk(ops, shape, chunk_tokens(index, length))?;
                    blocks.push_chunk(shape, chunk)?;
                }
                blocks.remove(shape, span, pool, rotations)?;
                let kept = length - drop;
                let chunk = |index| {
                    let n = chunk_tokens(index, kept).len();
                    blocks.chunk(shape, index, n).map_err(no_copy)
                };
                let chunks = (0..kept.div_ceil(BLOCK)).map(chunk);
                self.storage = match kept {
                    0 => self.storage.emptied(),
                    _ => {
                        Storage::Arrays(Arrays::from_chunks(shape, chunks.collect::<Result<_>>()?)?)
                    }
                };
            }
            Storage::Spilled(..) => return Err(not_here()),
        }
        self.tokens.drain(from..from + drop);
        self.lineage.truncate(from);
        Ok(())
    }

    /// A copy of the keys and values of the tokens from `BLOCK * index` on, of one
    /// block at most, with room for no more. It is the same for our kernels and for
    /// MLX's operations.
    pub(in crate::kv) fn chunk(&self, ops: &Ops, index: usize) -> Result<CacheBlock> {
        let tokens = chunk_tokens(index, self.length());
        match &self.storage {
            Storage::Blocks(blocks) => blocks
                .chunk(&self.shape, index, tokens.len())
                .map_err(no_copy),
            Storage::Arrays(arrays) => arrays.chunk(ops, &self.shape, tokens),
            Storage::Spilled(..) => Err(not_here()),
        }
    }

    /// Replaces everything by `tokens` with these states, whose chunks of this shape `next`
    /// makes one by one. If that fails, the sequence is as before.
    pub(in crate::kv) fn replace(
        &mut self,
        shape: &CacheShape,
        tokens: Vec<i32>,
        states: Option<StateMemory>,
        mut next: impl FnMut(usize) -> Result<CacheBlock>,
    ) -> Result<()> {
        let for_kernels = matches!(self.storage.computed(), Computed::ByKernels);
        let states = match states {
            Some(states) => States::from_memory(shape.states(), states, tokens.len(), for_kernels)?,
            None => States::new(shape.states()),
        };
        let chunks = (0..tokens.len().div_ceil(BLOCK)).map(&mut next);
        self.storage = match self.storage.computed() {
            Computed::ByKernels => {
                let mut blocks = Blocks::default();
                for chunk in chunks {
                    blocks.push_chunk(shape, chunk?)?;
                }
                Storage::Blocks(blocks)
            }
            Computed::ByMlx if tokens.is_empty() => Storage::Arrays(Arrays::default()),
            Computed::ByMlx => {
                let chunks = chunks.collect::<Result<_>>()?;
                Storage::Arrays(Arrays::from_chunks(shape, chunks)?)
            }
        };
        self.states = states;
        self.shape = shape.clone();
        self.lineage = Lineage::unknown(tokens.len());
        self.tokens = tokens;
        Ok(())
    }

    /// The states of recurrent layers, one after the other.
    pub(in crate::kv) fn state_floats(&self, ops: &Ops) -> Result<Vec<f32>> {
        self.states.to_vec(ops, self.length())
    }
}

/// The tokens of chunk `index` of a sequence of `length`.
pub(in crate::kv) fn chunk_tokens(index: usize, length: usize) -> Range<usize> {
    index * BLOCK..length.min((index + 1) * BLOCK)
}

fn no_copy(error: io::Error) -> Error {
    Error::out_of_memory(format!("cannot copy a block of keys and values: {error}"))
}
