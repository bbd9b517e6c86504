//! Memory of keys and values: blocks of consecutive tokens that hold all layers.
//!
//! - `layout`: [`CacheLayout`], where in a block a layer's keys and values are
//! - `block`: [`CacheBlock`], the memory
//! - `convert`: tokens that go from one format to another
//! - `rows`: keys or values of a block, read as [`CacheRows`], and written
//! - `shift`: tokens that move within a sequence
//! - `transfer`: tokens that move between memory of different sizes

mod block;
mod convert;
mod layout;
mod rows;
mod shift;
mod transfer;

pub use block::CacheBlock;
pub use layout::{CacheFormat, CacheLayout, LayerLayout, LayerShape, PartLayout, RowsLayout};
pub use rows::CacheRows;
pub use shift::{Shift, shift_tokens};

#[cfg(test)]
mod tests;
