//! [`Block`]: memory for consecutive tokens, and what it is held for.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::shape::BLOCK;
use crate::error::Error;
use crate::kernels::CacheBlock;
use crate::memory::{Category, Entry};

/// Keys and values of up to [`BLOCK`] tokens. As long as it is held more than once,
/// nobody writes into it.
pub struct Block {
    // Apart from the count of holders: a graph that was evaluated may hold the
    // memory for a moment longer.
    memory: Arc<CacheBlock>,
    holding: Mutex<Holding>,
}

struct Holding {
    n_sequences: usize,
    /// A prefix cache has it.
    is_kept: bool,
    for_sequences: Entry,
    for_later: Entry,
}

impl Block {
    fn change(&self, change: impl FnOnce(&mut Holding)) {
        let mut holding = self.holding();
        change(&mut holding);
        let bytes = |is_so: bool| if is_so { self.bytes() } else { 0 };
        let is_used = holding.n_sequences > 0;
        let is_spare = !is_used && holding.is_kept;
        holding.for_sequences.set(bytes(is_used));
        holding.for_later.set(bytes(is_spare));
    }

    fn holding(&self) -> MutexGuard<'_, Holding> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn memory(&self) -> &Arc<CacheBlock> {
        &self.memory
    }

    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Whether a prefix cache alone holds it.
    pub fn is_spare(&self) -> bool {
        let holding = self.holding();
        holding.is_kept && holding.n_sequences == 0
    }

    /// How many sequences hold it.
    pub fn n_sequences(&self) -> usize {
        self.holding().n_sequences
    }

    /// A prefix cache takes it, or lets it go.
    pub fn keep(&self, is_kept: bool) {
        self.change(|holding| holding.is_kept = is_kept);
    }
}

/// What a block that could not be allocated means.
pub fn no_block(error: io::Error) -> Error {
    Error::out_of_memory(format!(
        "the system has no memory for {BLOCK} more tokens of keys and values: {error}; trim or \
         free what is not needed"
    ))
}

/// A sequence's share in a block.
pub struct Held(Arc<Block>);

impl Held {
    pub fn new(memory: CacheBlock) -> Held {
        Held::of(&Arc::new(Block {
            memory: Arc::new(memory),
            holding: Mutex::new(Holding {
                n_sequences: 0,
                is_kept: false,
                for_sequences: Entry::new(Category::KvReserved, 0),
                for_later: Entry::new(Category::PrefixCache, 0),
            }),
        }))
    }

    pub fn of(block: &Arc<Block>) -> Held {
        block.change(|holding| holding.n_sequences += 1);
        Held(block.clone())
    }

    pub fn block(&self) -> &Arc<Block> {
        &self.0
    }

    /// Whether nobody else holds it, who would see what is written.
    pub fn is_exclusive(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some()
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Held::of(&self.0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.change(|holding| holding.n_sequences -= 1);
    }
}
