//! [`Blocks`]: a sequence's keys and values as our kernels use them.

use std::io;
use std::sync::Arc;

use super::block::{Block, Held, no_block};
use super::reduce::Converted;
use super::shape::{BLOCK, CacheShape};
use super::usage::Part;
use crate::error::Result;
use crate::kernels::{CacheBlock, Pool, RopeTable, Shift, shift_tokens};

/// Tokens that move at a time, so that their angles take little memory.
const MOVED_TOKENS: usize = 4 * BLOCK;

/// By layer: how keys turn when their tokens move.
pub type KeyRotations<'a> = dyn Fn(Shift) -> Vec<Option<Arc<RopeTable>>> + 'a;

/// Tokens `BLOCK * i` and the following ones are in block i. Cloning shares them.
#[derive(Clone, Default)]
pub struct Blocks(Vec<Held>);

impl Blocks {
    /// What others hold too, of tokens from the first on. The last one may have room
    /// for fewer or more than this shape says, until something is written behind it.
    pub fn shared<'a>(blocks: impl IntoIterator<Item = &'a Arc<Block>>) -> Blocks {
        Blocks(blocks.into_iter().map(Held::of).collect())
    }

    /// Makes room for tokens `first..end`, which are about to be written; those in
    /// front of `first` stay.
    pub fn reserve(&mut self, shape: &CacheShape, first: usize, end: usize) -> Result<()> {
        self.own_from(shape, first / BLOCK, first)?;
        while self.0.len() < end.div_ceil(BLOCK) {
            let capacity = shape.block_capacity(self.0.len());
            let memory = CacheBlock::zeroed(shape.layout(), capacity).map_err(no_block)?;
            self.0.push(Held::new(memory));
        }
        Ok(())
    }

    /// Sees to it that nobody else has blocks from `index` on, and that they have room
    /// for as many tokens as this shape says. Only the first `length` tokens are kept.
    fn own_from(&mut self, shape: &CacheShape, index: usize, length: usize) -> Result<()> {
        for (index, held) in self.0.iter_mut().enumerate().skip(index) {
            let (memory, capacity) = (held.block().memory().clone(), shape.block_capacity(index));
            if memory.capacity() != capacity || !held.is_exclusive() {
                let n = length.saturating_sub(index * BLOCK).min(capacity);
                let copy = memory.copy_tokens(shape.layout(), n, capacity);
                *held = Held::new(copy.map_err(no_block)?);
            }
        }
        Ok(())
    }

    /// Removes `drop` of `length` tokens from `from` on and moves what is behind them. If
    /// that fails, nothing has changed.
    pub fn remove(
        &mut self,
        shape: &CacheShape,
        (from, drop, length): (usize, usize, usize),
        pool: Option<&Pool>,
        rotations: &KeyRotations<'_>,
    ) -> Result<()> {
        self.own_from(shape, from / BLOCK, length)?;
        let blocks = self.memory();
        let kept = length - drop;
        for first in (from..kept).step_by(MOVED_TOKENS) {
            let shift = Shift {
                first,
                by: drop,
                n_tokens: MOVED_TOKENS.min(kept - first),
            };
            // SAFETY: the blocks are the sequence's own from the first token that changes
            // on, which holds them exclusively; a graph that still has one was evaluated.
            unsafe { shift_tokens(pool, shape.layout(), &blocks, shift, &rotations(shift)) };
        }
        self.truncate(kept);
        Ok(())
    }

    /// Stores the first `length` tokens in another format. Blocks that others hold too are
    /// looked for among the converted ones first. If that fails, nothing has changed.
    pub fn convert(
        &mut self,
        [from, to]: [&CacheShape; 2],
        length: usize,
        pool: Option<&Pool>,
        converted: &mut Converted,
    ) -> Result<()> {
        let layouts = [from, to].map(|shape| &**shape.layout());
        let address = |held: &Held| Arc::as_ptr(held.block()).addr();
        let target = |held: &Held| match converted.contains_key(&address(held)) {
            true => Ok(None),
            false => CacheBlock::zeroed(layouts[1], held.block().memory().capacity()).map(Some),
        };
        // They take memory when they are written to, one after the other; by then the
        // former ones are gone.
        let targets: io::Result<Vec<_>> = self.0.iter().map(target).collect();
        let targets = targets.map_err(no_block)?;
        for ((held, target), first) in self.0.iter_mut().zip(targets).zip((0..).step_by(BLOCK)) {
            let (memory, address) = (held.block().memory(), address(held));
            *held = match target {
                None => Held::of(&converted[&address]),
                Some(mut target) => {
                    let n = (length - first).min(memory.capacity());
                    memory.convert_tokens(layouts, n, &mut target, pool);
                    let new = Held::new(target);
                    converted.insert(address, new.block().clone());
                    new
                }
            };
        }
        Ok(())
    }

    /// Gives back the blocks that hold none of the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length.div_ceil(BLOCK));
    }

    /// For a graph.
    pub fn memory(&self) -> Vec<Arc<CacheBlock>> {
        let memory = |held: &Held| held.block().memory().clone();
        self.0.iter().map(memory).collect()
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Block>> {
        self.0.iter().map(Held::block)
    }

    pub fn block(&self, index: usize) -> &Arc<Block> {
        self.0[index].block()
    }

    /// A copy of the first `n` tokens of block `index`, with room for no more.
    pub fn chunk(&self, shape: &CacheShape, index: usize, n: usize) -> io::Result<CacheBlock> {
        self.block(index).memory().copy_tokens(shape.layout(), n, n)
    }

    /// What `chunk` gave, with room for more behind them.
    pub fn push_chunk(&mut self, shape: &CacheShape, chunk: CacheBlock) -> Result<()> {
        let capacity = shape.block_capacity(self.0.len());
        let memory = match chunk.capacity() == capacity {
            true => Ok(chunk),
            false => chunk.copy_tokens(shape.layout(), chunk.capacity(), capacity),
        };
        self.0.push(Held::new(memory.map_err(no_block)?));
        Ok(())
    }

    /// What is held for a sequence of `length` tokens.
    pub fn parts(&self, shape: &CacheShape, length: usize) -> impl Iterator<Item = Part> {
        let bytes_per_token = shape.bytes_per_token();
        let firsts = (0..).step_by(BLOCK);
        self.0.iter().zip(firsts).map(move |(held, first)| {
            let block = held.block();
            let n_tokens = length.saturating_sub(first).min(block.memory().capacity());
            Part {
                is_shared: Arc::strong_count(block) > 1,
                identity: Arc::as_ptr(block).addr(),
                reserved_bytes: block.bytes(),
                used_bytes: n_tokens * bytes_per_token,
            }
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
        blocks.all().map(|block| block.bytes()).sum()
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
