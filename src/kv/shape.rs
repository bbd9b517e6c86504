//! How large a cache is.

use crate::mlx::Dtype;

/// Tokens by which a cache grows at least.
const BLOCK: usize = 256;

/// What a sequence's cache consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    pub n_layers: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub dtype: Dtype,
    /// Tokens that a sequence may hold at most.
    pub max_tokens: usize,
}

impl CacheShape {
    /// Keys and values of all layers.
    pub fn bytes_per_token(&self) -> usize {
        self.n_layers * 2 * self.n_kv_heads * self.head_dim * self.dtype.bytes()
    }

    /// The capacity to allocate when `needed` tokens no longer fit into
    /// `current`: half as much again, in whole blocks, so that a growing
    /// sequence is moved only a logarithmic number of times.
    pub(super) fn grown_capacity(&self, current: usize, needed: usize) -> usize {
        let wanted = needed.max(current + current / 2);
        wanted.next_multiple_of(BLOCK).min(self.max_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_grows_in_blocks_up_to_the_maximum() {
        let shape = CacheShape {
            n_layers: 2,
            n_kv_heads: 3,
            head_dim: 4,
            dtype: Dtype::Bf16,
            max_tokens: 1000,
        };
        assert_eq!(shape.bytes_per_token(), 2 * 2 * 3 * 4 * 2);
        assert_eq!(shape.grown_capacity(0, 1), 256);
        assert_eq!(shape.grown_capacity(256, 257), 512);
        assert_eq!(shape.grown_capacity(512, 513), 768);
        assert_eq!(shape.grown_capacity(768, 769), 1000);
    }
}
