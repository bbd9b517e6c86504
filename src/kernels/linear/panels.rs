//! [`Panels`]: rows of activations, rearranged for tiles: panels of 16 rows, in
//! which words of all rows lie next to each other.

use super::Matrix;
use super::arithmetic::Activations;
use super::planes::{MAX_PART_SIZE, Resolution};
use super::rows::Rows;
use crate::kernels::float::Float;
use crate::kernels::level::Level;
use crate::kernels::output::Output;
use crate::kernels::pool::{Buffer, Pool};

/// Rows of activations in a panel.
pub const PANEL: usize = 16;

/// In what tiles are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Weights as float32.
    F32,
    /// Weights and activations that are bfloat16, two columns at a time.
    Bf16,
    /// Codes as unsigned bytes times whole activations of one byte or two, four
    /// columns at a time.
    Codes {
        resolution: Resolution,
        group_size: usize,
    },
}

impl Element {
    pub fn choose(
        level: Level,
        x: &Rows<'_>,
        matrix: &Matrix<'_>,
        activations: Activations,
    ) -> Element {
        let float = x.float();
        match matrix {
            Matrix::Float(_) | Matrix::Columns(_)
                if level.has_dot_halves()
                    && (float, matrix.float()) == (Float::Bf16, Some(Float::Bf16)) =>
            {
                Element::Bf16
            }
            Matrix::Quantized(weights)
                if float != Float::F32 && level.has_code_tiles(weights.format) =>
            {
                Element::Codes {
                    resolution: Resolution::choose(float, weights.format, x.n(), activations),
                    group_size: weights.format.group_size(),
                }
            }
            _ => Element::F32,
        }
    }

    /// Columns of a word of weights.
    pub fn columns(self) -> usize {
        match self {
            Element::F32 => 1,
            Element::Bf16 => 2,
            Element::Codes { .. } => 4,
        }
    }

    /// Words of a row of a panel for each word of weights.
    pub fn planes(self) -> usize {
        match self {
            Element::F32 | Element::Bf16 => 1,
            Element::Codes { resolution, .. } => resolution.planes,
        }
    }

    /// Columns that share a scale of the weights, and of the activations.
    pub fn groups(self) -> Option<(usize, usize)> {
        match self {
            Element::F32 | Element::Bf16 => None,
            Element::Codes {
                resolution,
                group_size,
            } => Some((group_size, resolution.part_size)),
        }
    }
}

/// Activations in panels.
pub struct Panels {
    pub element: Element,
    /// `[n / 16][columns as words][16]`; of codes
    /// `[n / 16][parts of groups][planes][words][16]`
    pub words: Buffer,
    /// Float32 `[n / 16][parts of groups][16]`; of codes.
    pub scales: Buffer,
    /// Float32 `[n / 16][groups][16]`; of codes.
    pub sums: Buffer,
}

impl Panels {
    pub fn new(level: Level, pool: &Pool, x: &Rows<'_>, element: Element) -> Panels {
        let columns = x.columns;
        let n_panels = x.n().div_ceil(PANEL);
        let words = columns.div_ceil(element.columns()) * element.planes() * PANEL;
        let (sums, scales) = element.groups().map_or((0, 0), |(group, part)| {
            (columns / group * PANEL, columns / part * PANEL)
        });
        let lengths = [words, scales, sums];
        let mut buffers = lengths.map(|length| pool.buffer(n_panels * length));
        let outputs = buffers
            .each_mut()
            .map(|buffer| Output::new(buffer.as_mut_slice()));
        pool.run(n_panels, &|panel| {
            // SAFETY: each piece has a panel of its own.
            let part = |index: usize| unsafe {
                let length = lengths[index];
                outputs[index].part(panel * length..(panel + 1) * length)
            };
            let mut out = Panel {
                words: part(0),
                scales: part(1),
                sums: part(2),
            };
            let mut row = vec![0.0; columns];
            for lane in 0..PANEL.min(x.n() - panel * PANEL) {
                x.read(level, panel * PANEL + lane, &mut row);
                out.put(level, element, &row, lane);
            }
        });
        let [words, scales, sums] = buffers;
        Panels {
            element,
            words,
            scales,
            sums,
        }
    }

    pub fn give_back(self, pool: &Pool) {
        for buffer in [self.words, self.scales, self.sums] {
            pool.give_back(buffer);
        }
    }
}

/// One panel that is being written.
struct Panel<'a> {
    words: &'a mut [u32],
    scales: &'a mut [u32],
    sums: &'a mut [u32],
}

impl Panel<'_> {
    /// Writes a row as one of the sixteen.
    fn put(&mut self, level: Level, element: Element, row: &[f32], lane: usize) {
        match element {
            Element::F32 => {
                for (value, words) in row.iter().zip(self.words.chunks_exact_mut(PANEL)) {
                    words[lane] = value.to_bits();
                }
            }
            Element::Bf16 => {
                // The values are bfloat16 numbers already: their upper halves.
                let pairs = row.chunks(2).zip(self.words.chunks_exact_mut(PANEL));
                for (pair, words) in pairs {
                    let second = pair.get(1).map_or(0, |value| value.to_bits() & 0xffff_0000);
                    words[lane] = pair[0].to_bits() >> 16 | second;
                }
            }
            Element::Codes {
                resolution,
                group_size,
            } => {
                for (group, values) in row.chunks_exact(group_size).enumerate() {
                    let sum = self.put_group(level, resolution, group, values, lane);
                    self.sums[group * PANEL + lane] = sum.to_bits();
                }
            }
        }
    }

    /// Gives the sum of the values as they are represented.
    fn put_group(
        &mut self,
        level: Level,
        resolution: Resolution,
        group: usize,
        values: &[f32],
        lane: usize,
    ) -> f32 {
        let Resolution {
            planes,
            part_size: size,
        } = resolution;
        let first = group * (values.len() / size);
        let mut total = 0.0;
        for (index, values) in values.chunks_exact(size).enumerate() {
            let mut bytes = [[0_i8; MAX_PART_SIZE]; 2];
            let [high, low] = &mut bytes;
            let (high, low) = (&mut high[..size], &mut low[..size]);
            let (scale, sum) = match planes {
                1 => level.round_to_bytes(values, high),
                _ => level.split(values, high, low),
            };
            total += sum;
            let part = first + index;
            self.scales[part * PANEL + lane] = scale.to_bits();
            let words = &mut self.words[part * planes * size / 4 * PANEL..];
            let fours = bytes[..planes]
                .iter()
                .flat_map(|bytes| bytes[..size].as_chunks().0);
            for (four, words) in fours.zip(words.chunks_exact_mut(PANEL)) {
                words[lane] = u32::from_le_bytes(four.map(|byte: i8| byte as u8));
            }
        }
        total
    }
}
