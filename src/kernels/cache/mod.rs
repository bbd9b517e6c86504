//! Memory of keys and values: blocks of consecutive tokens that hold all layers.
//!
//! - `layout`: [`CacheLayout`], where in a block a layer's keys and values are
//! - `block`: [`CacheBlock`], the memory
//! - `rows`: [`CacheRows`], keys or values to be read

mod block;
mod layout;
mod rows;

pub use block::CacheBlock;
pub use layout::{CacheFormat, CacheLayout, LayerLayout, LayerShape, RowsLayout};
pub use rows::CacheRows;

#[cfg(test)]
mod tests;
