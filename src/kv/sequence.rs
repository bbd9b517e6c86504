//! [`Sequence`]: keys and values of one sequence, updated in place.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::arrays::Arrays;
use super::block::{Block, Held};
use super::blocks::{Blocks, KeyRotations};
use super::lineage::{Lineage, Recipe};
use super::reduce::Converted;
use super::shape::{BLOCK, CacheShape};
use super::spilled::Spilled;
use super::states::States;
use super::usage::Part;
use crate::error::{Error, Result};
use crate::kernels::{CacheBlock, StateMemory, StateSegment};
use crate::mlx::{Array, CachedArrays, Ops, SequenceBlocks};

/// The cache of one sequence. A step writes behind the tokens, and only a
/// step that succeeded adds to them: what a failed one wrote is free space again.
pub struct Sequence {
    /// Of what it holds.
    shape: CacheShape,
    /// Of what it will hold, when it is empty.
    first_shape: CacheShape,
    storage: Storage,
    states: States,
    /// Those whose keys and values are here.
    tokens: Vec<i32>,
    lineage: Lineage,
}

#[derive(Clone)]
enum Storage {
    /// For our kernels.
    Blocks(Blocks),
    /// For MLX's operations.
    Arrays(Arrays),
    /// On disk. Forks share the file.
    Spilled(Arc<Spilled>, Computed),
}

/// What a cache is computed with.
#[derive(Clone, Copy)]
enum Computed {
    ByKernels,
    ByMlx,
}

/// Where a sequence can be come back to, whatever is evaluated behind it.
pub struct Mark {
    n_tokens: usize,
    states: States,
}

impl Mark {
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }
}

impl Storage {
    fn empty(computed: Computed) -> Storage {
        match computed {
            Computed::ByKernels => Storage::Blocks(Blocks::default()),
            Computed::ByMlx => Storage::Arrays(Arrays::default()),
        }
    }

    fn computed(&self) -> Computed {
        match self {
            Storage::Blocks(_) => Computed::ByKernels,
            Storage::Arrays(_) => Computed::ByMlx,
            Storage::Spilled(_, computed) => *computed,
        }
    }

    fn emptied(&self) -> Storage {
        Storage::empty(self.computed())
    }
}

impl Sequence {
    /// For what `ops` compute.
    pub fn new(ops: &Ops, shape: CacheShape) -> Self {
        Self {
            states: States::new(shape.states()),
            first_shape: shape.clone(),
            shape,
            storage: Storage::empty(match ops.uses_kernels() {
                true => Computed::ByKernels,
                false => Computed::ByMlx,
            }),
            tokens: Vec::new(),
            lineage: Lineage::default(),
        }
    }

    /// A sequence with the same tokens. It takes no memory: what both hold is
    /// shared until one of them writes into it.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            shape: self.shape.clone(),
            first_shape: self.first_shape.clone(),
            storage: self.storage.clone(),
            states: self.states.fork(self.length()),
            tokens: self.tokens.clone(),
            lineage: self.lineage.clone(),
        }
    }

    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// Tokens whose keys and values are here.
    pub fn length(&self) -> usize {
        self.tokens.len()
    }

    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    pub fn bytes_per_token(&self) -> usize {
        self.shape.bytes_per_token()
    }

    /// Whether it can be cut to the first `length` tokens: with recurrent layers only to
    /// none, to all, or to those in front of the last evaluation.
    pub fn can_keep(&self, length: usize) -> bool {
        self.states.can_go_back(length, self.length())
    }

    /// Whether it has recurrent layers.
    pub fn has_states(&self) -> bool {
        self.first_shape.states().n_floats() > 0
    }

    /// The most of the first `length` tokens that it can be cut to.
    pub fn most_kept(&self, length: usize) -> usize {
        self.states.most_kept(length, self.length())
    }

    /// The end of what is here now.
    pub fn mark(&self) -> Mark {
        Mark {
            n_tokens: self.length(),
            states: self.states.fork(self.length()),
        }
    }

    /// Forgets all that was evaluated behind the mark. A sequence that was lost stays
    /// empty.
    pub fn go_back(&mut self, mark: &Mark) -> Result<()> {
        if self.length() > mark.n_tokens {
            self.bring_back()?;
            self.states = mark.states.fork(mark.n_tokens);
            self.tokens.truncate(mark.n_tokens);
            self.cut();
        }
        Ok(())
    }

    /// Keeps the first `length` tokens, which must be there. Blocks behind them
    /// are given back; with 0 all memory is.
    ///
    /// # Panics
    /// If it cannot be cut there.
    pub fn truncate(&mut self, length: usize) {
        self.states.truncate(length, self.length());
        self.tokens.truncate(length);
        self.cut();
    }

    /// Gives back what is behind the tokens.
    fn cut(&mut self) {
        let length = self.length();
        self.lineage.truncate(length);
        match &mut self.storage {
            _ if length == 0 => self.empty(),
            Storage::Blocks(blocks) => blocks.truncate(self.tokens.len()),
            Storage::Arrays(_) | Storage::Spilled(..) => {}
        }
    }

    fn empty(&mut self) {
        self.storage = self.storage.emptied();
        self.states = States::new(self.first_shape.states());
        self.shape = self.first_shape.clone();
    }

    /// Counts tokens that were just evaluated, by this recipe.
    pub fn advance(&mut self, recipe: &Arc<Recipe>, tokens: &[i32]) {
        let first = self.length();
        self.tokens.extend_from_slice(tokens);
        self.lineage.extend(recipe, first, self.length());
        debug_assert!(self.length() <= self.shape.max_tokens);
    }

    /// Makes room for `n` more tokens, which are about to be written. What is here now can
    /// be come back to.
    pub fn reserve(&mut self, ops: &Ops, n: usize) -> Result<()> {
        let needed = self.length() + n;
        if needed > self.shape.max_tokens {
            return Err(Error::no_space(format!(
                "the sequence holds {} tokens and {n} more do not fit into the context of {}; \
                 trim it or make a context with a larger n_ctx",
                self.length(),
                self.shape.max_tokens
            )));
        }
        match &mut self.storage {
            Storage::Blocks(blocks) => blocks.reserve(&self.shape, self.tokens.len(), needed)?,
            Storage::Arrays(arrays) => arrays.reserve(ops, &self.shape, needed)?,
            Storage::Spilled(..) => return Err(not_here()),
        }
        self.states.reserve(ops, self.tokens.len())
    }

    /// Whether it is in memory and `convert` would change it.
    pub(super) fn can_become(&self, shape: &CacheShape) -> bool {
        let is_here = matches!(self.storage, Storage::Blocks(_)) && self.length() > 0;
        is_here && self.shape != *shape
    }

    /// Stores what it holds, and what comes behind, as another shape says until it is
    /// empty. If that fails, the sequence is as before.
    pub(super) fn convert(
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

    /// Of our kernels.
    pub(super) fn held_blocks(&self) -> impl Iterator<Item = &Arc<Block>> {
        let blocks = match &self.storage {
            Storage::Blocks(blocks) => Some(blocks.all()),
            Storage::Arrays(_) | Storage::Spilled(..) => None,
        };
        blocks.into_iter().flatten()
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
    pub(super) fn chunk(&self, ops: &Ops, index: usize) -> Result<CacheBlock> {
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
    pub(super) fn replace(
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

    /// The states of recurrent layers, one after the other.
    pub(super) fn state_floats(&self, ops: &Ops) -> Result<Vec<f32>> {
        self.states.to_vec(ops, self.length())
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

    pub(super) fn parts(&self) -> impl Iterator<Item = Part> {
        let (blocks, arrays) = match &self.storage {
            Storage::Blocks(blocks) => (Some(blocks.parts(&self.shape, self.length())), None),
            Storage::Arrays(arrays) => (None, Some(arrays.part(&self.shape, self.length()))),
            Storage::Spilled(..) => (None, None),
        };
        let states = self.states.parts(self.length());
        blocks.into_iter().flatten().chain(arrays).chain(states)
    }
}

/// The tokens of chunk `index` of a sequence of `length`.
pub(super) fn chunk_tokens(index: usize, length: usize) -> Range<usize> {
    index * BLOCK..length.min((index + 1) * BLOCK)
}

fn no_copy(error: io::Error) -> Error {
    Error::out_of_memory(format!("cannot copy a block of keys and values: {error}"))
}

fn not_here() -> Error {
    Error::internal("a sequence on disk was not brought back")
}
