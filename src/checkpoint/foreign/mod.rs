//! Weights that other tools have quantized, as MLX's formats or as floats.
//!
//! - `scheme`: which tool, as config.json says
//! - `translate`: the tensors that there are instead: renamed where their bytes are
//!   MLX's already, otherwise made once, when the files are mapped
//! - `work`: makes them
//! - `blocks`: those of GGUF files, taken apart

mod blocks;
mod scheme;
mod translate;
mod work;

pub(super) use scheme::Scheme;
pub(super) use translate::translate;

use super::mmap::{MappedFile, page_bytes};
use super::tensors::TensorInfo;
use crate::error::Result;
use work::Work;

/// Tensors that are in none of the files, one after the other in a memory of their
/// own, each at a multiple of 64 bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Foreign {
    made: Vec<(TensorInfo, Work)>,
    /// Up to the end of the last.
    bytes: usize,
    /// Of the tensors that they are made of.
    pub source_bytes: usize,
}

/// Also in front of the first, where MLX's arrays have a few bytes.
const ALIGNMENT_BYTES: usize = 64;

impl Foreign {
    /// Of the memory, in whole pages.
    pub fn bytes(&self) -> usize {
        self.bytes.next_multiple_of(page_bytes())
    }

    /// Makes all tensors; `maps` are the files. `None`: there are none.
    pub fn make(&self, maps: &[MappedFile]) -> Result<Option<MappedFile>> {
        let Some(first) = maps.first().filter(|_| !self.made.is_empty()) else {
            return Ok(None);
        };
        let made = first.made_of(self.bytes, |memory| work::run(&self.made, maps, memory))?;
        Ok(Some(made))
    }

    /// Adds a tensor of `shape` to be made; gives back where it will be.
    fn push(&mut self, tensor: TensorInfo, work: Work) -> TensorInfo {
        let start = self.bytes.max(1).next_multiple_of(ALIGNMENT_BYTES);
        let tensor = TensorInfo {
            offset: start,
            ..tensor
        };
        self.bytes = start + tensor.bytes;
        self.made.push((tensor.clone(), work));
        tensor
    }
}
