//! [`Sequence`]: keys and values of one sequence, updated in place.

use std::sync::Arc;

use super::arrays::Arrays;
use super::blocks::Blocks;
use super::shape::CacheShape;
use super::usage::Part;
use crate::error::{Error, Result};
use crate::kernels::CacheBlock;
use crate::mlx::{Array, CachedArrays, Ops};

/// The cache of one sequence. A step writes behind `length`, and only a step
/// that succeeded moves `length`: what a failed one wrote is free space again.
pub struct Sequence {
    shape: CacheShape,
    storage: Storage,
    length: usize,
}

#[derive(Clone)]
enum Storage {
    /// For our kernels.
    Blocks(Blocks),
    /// For MLX's operations.
    Arrays(Arrays),
}

impl Storage {
    fn empty(ops: &Ops) -> Storage {
        match ops.uses_kernels() {
            true => Storage::Blocks(Blocks::default()),
            false => Storage::Arrays(Arrays::default()),
        }
    }

    fn emptied(&self) -> Storage {
        match self {
            Storage::Blocks(_) => Storage::Blocks(Blocks::default()),
            Storage::Arrays(_) => Storage::Arrays(Arrays::default()),
        }
    }
}

impl Sequence {
    /// For what `ops` compute.
    pub fn new(ops: &Ops, shape: CacheShape) -> Self {
        Self {
            shape,
            storage: Storage::empty(ops),
            length: 0,
        }
    }

    /// A sequence with the same tokens. It takes no memory: what both hold is
    /// shared until one of them writes into it.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            shape: self.shape.clone(),
            storage: self.storage.clone(),
            length: self.length,
        }
    }

    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// Tokens whose keys and values are here.
    pub fn length(&self) -> usize {
        self.length
    }

    pub fn bytes_per_token(&self) -> usize {
        self.shape.bytes_per_token()
    }

    /// Keeps the first `length` tokens, which must be there. Blocks behind them
    /// are given back; with 0 all memory is.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        match &mut self.storage {
            Storage::Blocks(blocks) => blocks.truncate(self.length),
            Storage::Arrays(_) if length > 0 => {}
            Storage::Arrays(arrays) => *arrays = Arrays::default(),
        }
    }

    /// Counts `n` tokens that were just evaluated.
    pub fn advance(&mut self, n: usize) {
        self.length += n;
        debug_assert!(self.length <= self.shape.max_tokens);
    }

    /// Makes room for `n` more tokens, which are about to be written.
    pub fn reserve(&mut self, ops: &Ops, n: usize) -> Result<()> {
        let needed = self.length + n;
        if needed > self.shape.max_tokens {
            return Err(Error::no_space(format!(
                "the sequence holds {} tokens and {n} more do not fit into the context of {}; \
                 trim it or make a context with a larger n_ctx",
                self.length, self.shape.max_tokens
            )));
        }
        match &mut self.storage {
            Storage::Blocks(blocks) => blocks.reserve(&self.shape, self.length, needed),
            Storage::Arrays(arrays) => arrays.reserve(ops, &self.shape, needed),
        }
    }

    /// The memory for our kernels; `None`: MLX's operations are in use.
    pub(crate) fn blocks(&self) -> Option<Vec<Arc<CacheBlock>>> {
        match &self.storage {
            Storage::Blocks(blocks) => Some(blocks.memory()),
            Storage::Arrays(_) => None,
        }
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
        }
    }

    /// The arrays that a step must evaluate so that the cache is up to date.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        let arrays = match &self.storage {
            Storage::Arrays(arrays) => Some(arrays.all()),
            Storage::Blocks(_) => None,
        };
        arrays.into_iter().flatten()
    }

    /// After a step that failed: whether everything up to `length` is still there.
    /// If MLX lost some of it, the sequence is empty.
    pub fn recover(&mut self) -> bool {
        let is_complete = match &self.storage {
            Storage::Blocks(_) => true,
            Storage::Arrays(arrays) => arrays.are_complete(),
        };
        if !is_complete {
            self.storage = self.storage.emptied();
            self.length = 0;
        }
        is_complete
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = Part> {
        let (blocks, arrays) = match &self.storage {
            Storage::Blocks(blocks) => (Some(blocks.parts(self.length)), None),
            Storage::Arrays(arrays) => (None, Some(arrays.part(self.length))),
        };
        blocks.into_iter().flatten().chain(arrays)
    }
}
