//! The keys and values of what was already evaluated, by sequence.
//!
//! - `sequence`: [`Sequence`], the cache of one sequence over all layers
//! - `blocks`: its memory for our kernels, shared by forks; `block`: one of them
//! - `arrays`: its memory for MLX's operations
//! - `shape`: [`CacheShape`], its size in elements and bytes; [`KvType`]
//! - `exchange`: sequences as others keep them
//! - `lineage`: how they were computed
//! - `prefixes`: [`Prefixes`], blocks that are found again by their tokens
//! - `reduce`: idle ones that take less memory
//! - `saved`: sequences outside of memory
//! - `spilled`: idle ones that make room for others
//! - `states`: those of recurrent layers, which are of fixed size
//! - `usage`: what several sequences hold, each byte counted once

mod arrays;
mod block;
mod blocks;
mod exchange;
mod lineage;
mod prefixes;
mod reduce;
mod saved;
mod sequence;
mod shape;
mod spilled;
mod states;
mod usage;

pub use crate::kernels::{LayerShape, StateLayout};
pub use crate::mlx::CachedArrays;
pub use block::Block;
pub use blocks::KeyRotations;
pub use exchange::TokenRows;
pub use lineage::{Lineage, Recipe};
pub use prefixes::{Prefixes, common_prefix};
pub use reduce::reduce;
pub use saved::{Origin, SavedSequence, saved_bytes, write_sequence};
pub use sequence::{Mark, Sequence};
pub use shape::{BLOCK, CacheShape, KvType};
pub use spilled::spilled_bytes;
pub use usage::{KvUsage, usage};
