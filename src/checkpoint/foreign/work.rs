//! Makes tensors, a few rows at a time, from those that another tool has stored.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::blocks::Part;
use crate::checkpoint::dtype::Dtype;
use crate::checkpoint::mmap::MappedFile;
use crate::checkpoint::tensors::TensorInfo;
use crate::error::Result;
use crate::kernels::{BlockFormat, Float, Pool};

/// How a tensor `[outputs, ...]` is made.
#[derive(Clone, Debug)]
pub enum Work {
    /// Of words `[inputs, outputs / 8]`, with codes of outputs in AutoAWQ's order.
    AwqCodes {
        words: TensorInfo,
    },
    /// Of words `[inputs / codes, outputs]`.
    TransposedWords {
        words: TensorInfo,
    },
    /// Of signed codes `[outputs, inputs]`.
    SignedBytes {
        bytes: TensorInfo,
    },
    Scales {
        factors: Factors,
    },
    /// `-scale * zero`
    Biases {
        factors: Factors,
        zeros: Zeros,
    },
    /// E4M3 numbers times the scale of their block of rows and columns.
    ScaledFloats {
        weight: TensorInfo,
        scales: TensorInfo,
        block: [usize; 2],
    },
    /// Of blocks `[outputs, bytes of a row]`, perhaps of several matrices.
    OfBlocks {
        blocks: TensorInfo,
        format: BlockFormat,
        part: Part,
    },
}

/// The scales of all groups.
#[derive(Clone, Debug)]
pub struct Factors {
    pub scales: TensorInfo,
    /// `[stored groups, outputs]` instead of `[outputs, stored groups]`
    pub is_transposed: bool,
    pub stored_groups: usize,
    /// A multiple of the stored ones.
    pub groups: usize,
}

/// The codes that stand for zero.
#[derive(Clone, Debug)]
pub enum Zeros {
    /// Half of all codes.
    Middle { bits: usize },
    /// Words `[groups, outputs / 8]` in AutoAWQ's order.
    Awq(TensorInfo),
    /// Words `[groups, outputs / codes]`, to which `offset` is added.
    OfColumns {
        words: TensorInfo,
        bits: usize,
        offset: u8,
    },
    /// Words `[outputs / codes, groups]`.
    OfRows { words: TensorInfo, bits: usize },
}

/// Rows at a time: those of sixteen words, a line of memory, of AutoAWQ's.
const ROWS: usize = 128;

/// Which four bits of a word an output's code is in.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Some rows of a tensor that is made.
struct Piece<'a> {
    work: &'a Work,
    rows: Range<usize>,
    out: &'a mut [u8],
}

/// Fills `memory` with all tensors, each where its entry says.
pub fn run(made: &[(TensorInfo, Work)], maps: &[MappedFile], memory: &mut [u8]) -> Result<()> {
    let mut pieces = Vec::new();
    let (mut rest, mut position) = (memory, 0);
    for (tensor, work) in made {
        let (_, behind) = rest.split_at_mut(tensor.offset - position);
        let (out, behind) = behind.split_at_mut(tensor.bytes);
        (rest, position) = (behind, tensor.offset + tensor.bytes);
        let (_, outer) = tensor.shape.split_last().expect("at least rows");
        let n_rows = outer.iter().product();
        let row_bytes = tensor.bytes.checked_div(n_rows).unwrap_or(0).max(1);
        for (index, out) in out.chunks_mut(ROWS * row_bytes).enumerate() {
            let rows = index * ROWS..n_rows.min((index + 1) * ROWS);
            pieces.push(Mutex::new(Piece { work, rows, out }));
        }
    }
    Pool::shared(0).run(pieces.len(), &|index| {
        let mut piece = pieces[index].lock().unwrap_or_else(PoisonError::into_inner);
        let Piece { work, rows, out } = &mut *piece;
        let from = |tensor: &TensorInfo| &maps[tensor.file].as_slice()[tensor.range()];
        work.fill(rows, &from, out);
    });
    Ok(())
}

impl Work {
    fn fill<'m>(
        &self,
        rows: &Range<usize>,
        from: &dyn Fn(&TensorInfo) -> &'m [u8],
        out: &mut [u8],
    ) {
        match self {
            Work::AwqCodes { words } => awq_codes(from(words), words.shape[1], rows, out),
            Work::TransposedWords { words } => transposed(from(words), words.shape[1], rows, out),
            Work::SignedBytes { bytes } => {
                let row_bytes = bytes.shape[1];
                let codes = &from(bytes)[rows.start * row_bytes..rows.end * row_bytes];
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = code ^ 0x80;
                }
            }
            Work::Scales { factors } => {
                let scales = from(&factors.scales);
                let float = match out.len() / rows.len() / factors.groups {
                    4 => Float::F32,
                    _ => float_of(&factors.scales),
                };
                factors.each(rows, |row, group, index| {
                    float.set(out, index, factors.scale(scales, row, group));
                });
            }
            Work::Biases { factors, zeros } => {
                let scales = from(&factors.scales);
                let words = zeros.words().map(from);
                let float = match zeros {
                    Zeros::Middle { .. } => float_of(&factors.scales),
                    _ => Float::F32,
                };
                factors.each(rows, |row, group, index| {
                    let zero = zeros.code(words.unwrap_or_default(), row, group);
                    let scale = factors.scale(scales, row, group);
                    float.set(out, index, -(scale * f32::from(zero)));
                });
            }
            Work::ScaledFloats {
                weight,
                scales,
                block,
            } => scaled_floats(
                (weight, from(weight)),
                (scales, from(scales)),
                *block,
                rows,
                out,
            ),
            Work::OfBlocks {
                blocks,
                format,
                part,
            } => {
                let row_bytes = blocks.shape.last().copied().unwrap_or(0);
                let stored = &from(blocks)[rows.start * row_bytes..rows.end * row_bytes];
                part.fill(*format, stored, row_bytes, out);
            }
        }
    }
}

fn float_of(tensor: &TensorInfo) -> Float {
    match tensor.dtype {
        Dtype::F16 => Float::F16,
        Dtype::BF16 => Float::Bf16,
        _ => Float::F32,
    }
}

fn word(words: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(words.as_chunks::<4>().0[index])
}

fn awq_codes(words: &[u8], columns: usize, rows: &Range<usize>, out: &mut [u8]) {
    let n_inputs = words.len() / 4 / columns;
    let row_bytes = n_inputs / 2;
    out.fill(0);
    for input in 0..n_inputs {
        for column in rows.start / 8..rows.end / 8 {
            let word = word(words, input * columns + column);
            for (output, place) in AWQ_PLACES.into_iter().enumerate() {
                let code = (word >> (4 * place)) as u8 & 15;
                let row = column * 8 + output - rows.start;
                out[row * row_bytes + input / 2] |= code << (4 * (input % 2));
            }
        }
    }
}

fn transposed(words: &[u8], columns: usize, rows: &Range<usize>, out: &mut [u8]) {
    let per_row = words.len() / 4 / columns;
    let out = out.as_chunks_mut::<4>().0;
    let words = words.as_chunks::<4>().0;
    for index in 0..per_row {
        for row in rows.clone() {
            out[(row - rows.start) * per_row + index] = words[index * columns + row];
        }
    }
}

impl Factors {
    /// `work(row, stored group, index in the rows that are made)`
    fn each(&self, rows: &Range<usize>, mut work: impl FnMut(usize, usize, usize)) {
        let repeats = self.groups / self.stored_groups;
        let indices = rows
            .clone()
            .flat_map(|row| (0..self.groups).map(move |group| (row, group)));
        for (index, (row, group)) in indices.enumerate() {
            work(row, group / repeats, index);
        }
    }

    fn scale(&self, scales: &[u8], row: usize, group: usize) -> f32 {
        let float = float_of(&self.scales);
        let n_rows = scales.len() / float.bytes() / self.stored_groups;
        let index = match self.is_transposed {
            true => group * n_rows + row,
            false => row * self.stored_groups + group,
        };
        float.get(scales, index)
    }
}

impl Zeros {
    fn words(&self) -> Option<&TensorInfo> {
        match self {
            Zeros::Middle { .. } => None,
            Zeros::Awq(words) | Zeros::OfColumns { words, .. } | Zeros::OfRows { words, .. } => {
                Some(words)
            }
        }
    }

    fn code(&self, words: &[u8], row: usize, group: usize) -> u16 {
        let of_word = |word: u32, place: usize, bits: usize| {
            (word >> (place * bits)) as u16 & ((1 << bits) - 1)
        };
        match self {
            Zeros::Middle { bits } => 1 << (bits - 1),
            Zeros::Awq(tensor) => {
                let word = word(words, group * tensor.shape[1] + row / 8);
                of_word(word, AWQ_PLACES[row % 8], 4)
            }
            Zeros::OfColumns {
                words: tensor,
                bits,
                offset,
            } => {
                let per_word = 32 / bits;
                let word = word(words, group * tensor.shape[1] + row / per_word);
                // In so many bits the largest is followed by zero, as in the tools.
                let zero = of_word(word, row % per_word, *bits) + u16::from(*offset);
                zero & ((1 << bits) - 1)
            }
            Zeros::OfRows {
                words: tensor,
                bits,
            } => {
                let per_word = 32 / bits;
                let word = word(words, row / per_word * tensor.shape[1] + group);
                of_word(word, row % per_word, *bits)
            }
        }
    }
}

fn scaled_floats(
    (weight, codes): (&TensorInfo, &[u8]),
    (scale_info, scales): (&TensorInfo, &[u8]),
    [height, width]: [usize; 2],
    rows: &Range<usize>,
    out: &mut [u8],
) {
    let columns = weight.shape[1];
    let blocks = columns.div_ceil(width);
    let float = float_of(scale_info);
    let values: [f32; 256] = std::array::from_fn(|code| e4m3(code as u8));
    for row in rows.clone() {
        let codes = &codes[row * columns..(row + 1) * columns];
        let out = &mut out[(row - rows.start) * columns * 2..][..columns * 2];
        let parts = codes.chunks(width).zip(out.chunks_mut(width * 2));
        for (block, (codes, out)) in parts.enumerate() {
            let scale = float.get(scales, row / height * blocks + block);
            for (index, code) in codes.iter().enumerate() {
                Float::Bf16.set(out, index, values[usize::from(*code)] * scale);
            }
        }
    }
}

/// Sign, four bits of exponent, three of mantissa; all ones are no number.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (code >> 3 & 15, f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * (f32::from(exponent) - 7.0).exp2(),
    };
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}
