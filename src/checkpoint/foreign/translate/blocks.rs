//! Blocks of GGUF files, which only our kernels read, as what MLX's operations read.

use super::{Translation, Work};
use crate::checkpoint::dtype::Dtype;
use crate::checkpoint::foreign::blocks::Part;
use crate::checkpoint::quantization::{Mode, QuantSpec};
use crate::checkpoint::tensors::TensorInfo;
use crate::kernels::BlockFormat;

/// MLX's affine groups of this size are those of most blocks.
const GROUP_SIZE: usize = 32;

impl Translation<'_> {
    /// Codes with the same scales, or bfloat16 where MLX has no groups so short.
    pub(super) fn blocks(&mut self, module: &str, blocks: &TensorInfo, format: BlockFormat) {
        self.use_up(blocks);
        let (row_bytes, outer) = blocks.shape.split_last().expect("at least rows");
        let columns = row_bytes / format.bytes() * format.values();
        let shape = |columns: usize| [outer, &[columns]].concat();
        let work = |part| Work::OfBlocks {
            blocks: blocks.clone(),
            format,
            part,
        };
        if format.group_size() != GROUP_SIZE {
            let values = work(Part::Values);
            return self.make(module, "weight", Dtype::BF16, shape(columns), values);
        }
        let bits = stored_bits(format);
        let factors = factor_type(format);
        let (words, groups) = (columns * bits / 32, columns / GROUP_SIZE);
        let codes = work(Part::Codes { bits });
        self.make(module, "weight", Dtype::U32, shape(words), codes);
        self.make(module, "scales", factors, shape(groups), work(Part::Scales));
        self.make(module, "biases", factors, shape(groups), work(Part::Biases));
        let spec = QuantSpec {
            group_size: GROUP_SIZE,
            bits,
            mode: Mode::Affine,
        };
        self.specs.insert(module.to_owned(), spec);
    }
}

/// Of a code as a whole number; tables have more than their indices.
fn stored_bits(format: BlockFormat) -> usize {
    (u8::BITS - format.largest_code().leading_zeros()) as usize
}

/// Where blocks have one float16 scale, their bias is a float16 too: stored, or the
/// scale times a power of two. Others are products of more bits.
fn factor_type(format: BlockFormat) -> Dtype {
    match format {
        BlockFormat::Q4_0
        | BlockFormat::Q4_1
        | BlockFormat::Q5_0
        | BlockFormat::Q5_1
        | BlockFormat::Q8_0 => Dtype::F16,
        _ => Dtype::F32,
    }
}
