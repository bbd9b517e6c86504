//! [`Sequence`]: keys and values of one sequence, updated in place.
//!
//! - here: its tokens, and where it can be cut
//! - `step`: what a step sees of it and writes
//! - `transfer`: what it holds elsewhere or in another form

mod step;
mod transfer;

use std::sync::Arc;

use super::arrays::Arrays;
use super::block::Block;
use super::blocks::Blocks;
use super::lineage::{Lineage, Recipe};
use super::shape::CacheShape;
use super::spilled::Spilled;
use super::states::States;
use super::usage::Part;
use crate::error::{Error, Result};
use crate::mlx::Ops;

pub(super) use transfer::chunk_tokens;

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

    /// Of our kernels.
    pub(super) fn held_blocks(&self) -> impl Iterator<Item = &Arc<Block>> {
        let blocks = match &self.storage {
            Storage::Blocks(blocks) => Some(blocks.all()),
            Storage::Arrays(_) | Storage::Spilled(..) => None,
        };
        blocks.into_iter().flatten()
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

fn not_here() -> Error {
    Error::internal("a sequence on disk was not brought back")
}
