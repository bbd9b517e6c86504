//! How large a cache is.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernels::{CacheFormat, CacheLayout, LayerShape, StateLayout};
use crate::mlx::Dtype;

/// Tokens of a block, and of a step in which MLX's arrays grow.
pub const BLOCK: usize = 256;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// In the type that the model computes in.
    #[default]
    Computed,
    F32,
    F16,
    Bf16,
    /// Whole numbers of `bits`, 4 or 8, with a scale and a bias for each
    /// `group_size`, 32 or 64, of a head's dimensions.
    Quantized {
        bits: usize,
        group_size: usize,
    },
}

/// What a sequence's cache consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheShape {
    layout: Arc<CacheLayout>,
    states: Arc<StateLayout>,
    /// Tokens that a sequence may hold at most.
    pub max_tokens: usize,
}

impl CacheShape {
    /// `computed` is the type of keys and values before they are stored.
    pub fn new(
        layers: &[LayerShape],
        computed: Dtype,
        kv_type: KvType,
        max_tokens: usize,
    ) -> Result<CacheShape> {
        let format = match kv_type {
            KvType::Computed => CacheFormat::Float(computed.float()?),
            KvType::F32 => CacheFormat::Float(Dtype::F32.float()?),
            KvType::F16 => CacheFormat::Float(Dtype::F16.float()?),
            KvType::Bf16 => CacheFormat::Float(Dtype::Bf16.float()?),
            KvType::Quantized { bits, group_size } => CacheFormat::Affine {
                bits,
                group_size,
                float: computed.float()?,
            },
        };
        let mut dims = layers.iter().flat_map(|l| [l.key_dim, l.value_dim]);
        if let (Some(dim), KvType::Quantized { group_size, .. }) =
            (dims.find(|&dim| !format.fits(dim)), kv_type)
        {
            return Err(Error::unsupported(format!(
                "keys and values cannot be quantized in groups of {group_size}: the model's heads \
                 have {dim} dimensions; choose smaller groups or a type of floats"
            )));
        }
        Ok(CacheShape {
            layout: Arc::new(CacheLayout::new(layers, format)),
            states: Arc::default(),
            max_tokens,
        })
    }

    /// With the states of recurrent layers.
    #[must_use]
    pub fn with_states(self, states: &Arc<StateLayout>) -> CacheShape {
        CacheShape {
            states: states.clone(),
            ..self
        }
    }

    pub fn layout(&self) -> &Arc<CacheLayout> {
        &self.layout
    }

    pub fn states(&self) -> &Arc<StateLayout> {
        &self.states
    }

    /// Keys and values of all layers.
    pub fn bytes_per_token(&self) -> usize {
        self.layout.bytes_per_token()
    }

    /// Tokens that block `index` of a sequence has room for: the last one ends
    /// with the sequence.
    pub(super) fn block_capacity(&self, index: usize) -> usize {
        BLOCK.min(self.max_tokens - index * BLOCK)
    }

    /// The capacity of arrays to allocate when `needed` tokens no longer fit into
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
    use crate::error::Status;

    const LAYER: LayerShape = LayerShape {
        n_kv_heads: 3,
        key_dim: 64,
        value_dim: 64,
    };

    fn shape(kv_type: KvType) -> Result<CacheShape> {
        CacheShape::new(&[LAYER; 2], Dtype::Bf16, kv_type, 1000)
    }

    #[test]
    fn capacity_grows_in_blocks_up_to_the_maximum() {
        let shape = shape(KvType::Computed).expect("a shape");
        assert_eq!(shape.grown_capacity(0, 1), 256);
        assert_eq!(shape.grown_capacity(256, 257), 512);
        assert_eq!(shape.grown_capacity(512, 513), 768);
        assert_eq!(shape.grown_capacity(768, 769), 1000);
        let capacities = [0, 1, 2, 3].map(|index| shape.block_capacity(index));
        assert_eq!(capacities, [256, 256, 256, 232]);
    }

    #[test]
    fn a_token_takes_what_its_type_says() {
        let elements = 2 * 2 * 3 * 64;
        let quantized = |bits, group_size| KvType::Quantized { bits, group_size };
        for (kv_type, bytes) in [
            (KvType::Computed, elements * 2),
            (KvType::F32, elements * 4),
            (KvType::F16, elements * 2),
            (quantized(8, 64), elements + elements / 64 * 4),
            (quantized(4, 64), elements / 2 + elements / 64 * 4),
            (quantized(4, 32), elements / 2 + elements / 32 * 4),
        ] {
            let shape = shape(kv_type).expect("a shape");
            assert_eq!(shape.bytes_per_token(), bytes, "{kv_type:?}");
        }
    }

    #[test]
    fn heads_that_are_no_whole_groups_are_unsupported_by_name() {
        let odd = LayerShape {
            key_dim: 96,
            ..LAYER
        };
        let kv_type = KvType::Quantized {
            bits: 8,
            group_size: 64,
        };
        let error = CacheShape::new(&[LAYER, odd], Dtype::Bf16, kv_type, 10).expect_err("odd");
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("96 dimensions"), "{error}");
    }
}
