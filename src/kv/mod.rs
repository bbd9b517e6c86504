//! The keys and values of what was already evaluated, by sequence.
//!
//! - `sequence`: [`Sequence`], the cache of one sequence over all layers
//! - `shape`: [`CacheShape`], its size in elements and bytes

mod sequence;
mod shape;

pub use sequence::Sequence;
pub use shape::CacheShape;
