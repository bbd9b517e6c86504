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

    /// A copy of the first `n` tokens of block `index`, with room for no more.
    pub fn chunk(&self, shape: &CacheShape, index: usize, n: usize) -> io::Result<CacheBlock> {
        self.0[index].memory.copy_tokens(shape.layout(), n, n)
    }

    /// What `chunk` gave, with room for more behind them.
    pub fn push_chunk(&mut self, shape: &CacheShape, chunk: CacheBlock) -> Result<()> {
        let capacity = shape.block_capacity(self.0.len());
        let memory = match chunk.capacity() == capacity {
            true => Ok(chunk),
            false => chunk.copy_tokens(shape.layout(), chunk.capacity(), capacity),
        };
        self.0.push(Block::new(memory)?);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::LayerShape;
    use crate::kv::KvType;
    use crate::mlx::Dtype;

    fn shape(max_tokens: usize) -> CacheShape {
        let layer = LayerShape {
            n_kv_heads: 1,
            key_dim: 32,
            value_dim: 32,
        };
        CacheShape::new(&[layer], Dtype::F16, KvType::Computed, max_tokens).expect("a shape")
    }

    fn reserved(blocks: &Blocks) -> usize {
        blocks.parts(0).map(|part| part.reserved_bytes).sum()
    }

    fn same(a: &Arc<CacheBlock>, b: &Arc<CacheBlock>) -> bool {
        Arc::ptr_eq(a, b)
    }

    #[test]
    fn growing_adds_blocks_and_moves_none() {
        let shape = shape(1000);
        let mut blocks = Blocks::default();
        blocks.reserve(&shape, 0, 256).expect("memory");
        let first = blocks.memory();
        blocks.reserve(&shape, 256, 257).expect("memory");
        blocks.reserve(&shape, 257, 1000).expect("memory");
        assert!(same(&first[0], &blocks.memory()[0]));
        assert_eq!(reserved(&blocks), 1000 * shape.bytes_per_token());
        blocks.truncate(513);
        assert_eq!(reserved(&blocks), 768 * shape.bytes_per_token());
        blocks.truncate(512);
        assert_eq!(reserved(&blocks), 512 * shape.bytes_per_token());
    }

    #[test]
    fn a_short_sequence_takes_no_whole_block() {
        let shape = shape(40);
        let mut blocks = Blocks::default();
        blocks.reserve(&shape, 0, 1).expect("memory");
        assert_eq!(reserved(&blocks), 40 * shape.bytes_per_token());
    }

    #[test]
    fn shared_blocks_are_copied_where_they_are_about_to_be_written() {
        let shape = shape(1000);
        let mut blocks = Blocks::default();
        blocks.reserve(&shape, 0, 300).expect("memory");
        let before = blocks.memory();
        let mut fork = blocks.clone();
        fork.reserve(&shape, 300, 301).expect("memory");
        assert!(same(&fork.memory()[0], &before[0]), "full and shared");
        assert!(
            !same(&fork.memory()[1], &before[1]),
            "written by one of two"
        );
        blocks.reserve(&shape, 300, 301).expect("memory");
        assert!(same(&blocks.memory()[1], &before[1]), "no longer shared");
        // Graphs that hold memory are no sequences.
        let graph = fork.memory();
        fork.reserve(&shape, 301, 302).expect("memory");
        assert!(same(&fork.memory()[1], &graph[1]));
    }

    #[test]
    fn a_system_without_memory_is_an_error() {
        let layer = LayerShape {
            n_kv_heads: 1 << 20,
            key_dim: 1 << 20,
            value_dim: 1 << 20,
        };
        let shape = CacheShape::new(&[layer], Dtype::F32, KvType::Computed, 256).expect("one");
        let error = Blocks::default()
            .reserve(&shape, 0, 1)
            .expect_err("too much");
        assert_eq!(error.status(), crate::error::Status::OutOfMemory);
        assert!(error.message().contains("trim"), "{error}");
    }
}
