//! Takes blocks of GGUF files apart.

use crate::kernels::{BlockFormat, Float, Format, Level, QuantizedRows};

/// What becomes a tensor of its own.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// One after the other, `bits` each.
    Codes {
        bits: usize,
    },
    /// A number per group, in float16 or float32.
    Scales,
    Biases,
    /// In bfloat16.
    Values,
}

impl Part {
    /// Of whole rows of blocks, `row_bytes` each.
    pub fn fill(self, format: BlockFormat, blocks: &[u8], row_bytes: usize, out: &mut [u8]) {
        let columns = row_bytes / format.bytes() * format.values();
        let rows = QuantizedRows {
            codes: blocks,
            scales: &[],
            biases: None,
            format: Format::Blocks(format),
            columns,
        };
        let n_rows = blocks.len().checked_div(row_bytes).unwrap_or(0);
        let row_bytes = out.len().checked_div(n_rows).unwrap_or(0).max(1);
        for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
            match self {
                Part::Codes { bits } => codes(&rows, row, bits, out),
                Part::Values => values(&rows, row, out),
                Part::Scales | Part::Biases => self.factors(&rows, row, out),
            }
        }
    }

    fn factors(self, rows: &QuantizedRows<'_>, row: usize, out: &mut [u8]) {
        let n_groups = rows.columns / rows.format.group_size();
        let (mut scales, mut biases) = (vec![0.0; n_groups], vec![0.0; n_groups]);
        rows.scales(Level::detect(), row, &mut scales, &mut biases);
        let wanted = match self {
            Part::Biases => biases,
            _ => scales,
        };
        let float = match out.len() / n_groups {
            2 => Float::F16,
            _ => Float::F32,
        };
        set_all(float, &wanted, out);
    }
}

fn values(rows: &QuantizedRows<'_>, row: usize, out: &mut [u8]) {
    let mut values = vec![0.0; rows.columns];
    rows.dequantize(Level::detect(), row, &mut values);
    set_all(Float::Bf16, &values, out);
}

fn set_all(float: Float, values: &[f32], out: &mut [u8]) {
    for (index, value) in values.iter().enumerate() {
        float.set(out, index, *value);
    }
}

fn codes(rows: &QuantizedRows<'_>, row: usize, bits: usize, out: &mut [u8]) {
    let mut codes = vec![0; rows.columns];
    rows.unpack(Level::detect(), row, &mut codes);
    // Eight codes take as many bytes as one takes bits.
    for (codes, out) in codes.chunks_exact(8).zip(out.chunks_exact_mut(bits)) {
        let joined = codes
            .iter()
            .rev()
            .fold(0_u64, |joined, code| joined << bits | u64::from(*code));
        out.copy_from_slice(&joined.to_le_bytes()[..bits]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What MLX computes with equals what the blocks say.
    #[test]
    fn codes_and_factors_are_the_values_of_their_blocks() {
        const N_BLOCKS: usize = 3;
        for format in BlockFormat::ALL {
            if format.group_size() != 32 {
                continue;
            }
            let bits = (u8::BITS - format.largest_code().leading_zeros()) as usize;
            let blocks: Vec<u8> = (0..N_BLOCKS * format.bytes())
                .map(|index| (index * 37 % 60) as u8)
                .collect();
            let columns = N_BLOCKS * format.values();
            let made = |part: Part, bytes: usize| {
                let mut out = vec![0; bytes];
                part.fill(format, &blocks, blocks.len(), &mut out);
                out
            };
            let factor_bytes = columns / 32 * Float::F32.bytes();
            let codes = made(Part::Codes { bits }, columns * bits / 8);
            let [scales, biases] =
                [Part::Scales, Part::Biases].map(|part| made(part, factor_bytes));
            let affine = QuantizedRows {
                codes: &codes,
                scales: &scales,
                biases: Some(&biases),
                format: Format::Affine {
                    bits,
                    group_size: 32,
                    float: Float::F32,
                },
                columns,
            };
            let mut found = vec![0.0; columns];
            affine.dequantize(Level::detect(), 0, &mut found);
            let mut expected = vec![0.0; columns];
            let stored = QuantizedRows {
                codes: &blocks,
                scales: &[],
                biases: None,
                format: Format::Blocks(format),
                columns,
            };
            stored.dequantize(Level::detect(), 0, &mut expected);
            assert_eq!(found, expected, "{format}");
        }
    }
}
