//! [`Blocks`]: a sequence's keys and values as our kernels use them.

use std::io;
use std::sync::Arc;

use super::shape::{BLOCK, CacheShape};
use super::usage::Part;
use crate::error::{Error, Result};
use crate::kernels::CacheBlock;
use crate::memory::{Category, Entry};

/// Memory for the next [`BLOCK`] tokens. As long as several sequences hold it,
/// nobody writes into it.
struct Block {
    // Apart from the count of sequences: a graph that was evaluated may hold the
    // memory for a moment longer.
    memory: Arc<CacheBlock>,
    reserved: Entry,
}

impl Block {
    fn new(memory: io::Result<CacheBlock>) -> Result<Arc<Block>> {
        let memory = memory.map_err(|error| {
            Error::out_of_memory(format!(
                "the system has no memory for {BLOCK} more tokens of keys and values: {error}; \
                 trim or free what is not needed"
            ))
        })?;
        Ok(Arc::new(Block {
            reserved: Entry::new(Category::KvReserved, memory.bytes()),
            memory: Arc::new(memory),
        }))
    }
}

/// Tokens `BLOCK * i` and the following ones are in block i. Cloning shares them.
#[derive(Clone, Default)]
pub struct Blocks(Vec<Arc<Block>>);

impl Blocks {
    /// Makes room for tokens `first..end`, which are about to be written.
    pub fn reserve(&mut self, shape: &CacheShape, first: usize, end: usize) -> Result<()> {
        for block in self.0.iter_mut().skip(first / BLOCK) {
            if Arc::get_mut(block).is_none() {
                *block = Block::new(block.memory.copy_shared())?;
            }
        }
        while self.0.len() < end.div_ceil(BLOCK) {
            let capacity = shape.block_capacity(self.0.len());
            let memory = CacheBlock::zeroed(shape.layout(), capacity);
            self.0.push(Block::new(memory)?);
        }
        Ok(())
    }

    /// Gives back the blocks that hold none of the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length.div_ceil(BLOCK));
    }

    /// For a graph.
    pub fn memory(&self) -> Vec<Arc<CacheBlock>> {
        self.0.iter().map(|block| block.memory.clone()).collect()
    }

    /// What is held for a sequence of `length` tokens.
    pub fn parts(&self, length: usize) -> impl Iterator<Item = Part> {
        let firsts = (0..).step_by(BLOCK);
        self.0.iter().zip(firsts).map(move |(block, first)| Part {
            is_shared: Arc::strong_count(block) > 1,
            identity: Arc::as_ptr(block).addr(),
            reserved_bytes: block.reserved.bytes(),
            n_tokens: length.saturating_sub(first).min(block.memory.capacity()),
        })
    }
}
