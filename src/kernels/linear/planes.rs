//! [`Planes`]: rows of activations as whole numbers, so that products with codes
//! are integer products. A few columns share a scale. In two bytes the error is
//! below 1/32000 of their largest value, a hundredth of what rounding to bfloat16
//! costs; in one byte it is below 1/254.

use std::borrow::Cow;

use super::arithmetic::Activations;
use super::codes::CodeRows;
use crate::kernels::aligned::Aligned;
use crate::kernels::float::Float;
use crate::kernels::level::Level;
use crate::kernels::quantized::Format;

/// In which order the codes of a row are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they are, so many at once.
    Plain { unit: usize },
    /// So many of the low halves of the bytes, which are the even columns, then
    /// those of the high ones.
    Nibbles { unit: usize },
    /// Blocks of sixteen parts of so many columns, each of which is a lane of
    /// four bytes in several vectors: the even columns of its first eight, the odd
    /// ones, the even columns of the next eight. The codes of 64 bytes fill every
    /// fourth lane (with parts of 16 every other pair of lanes).
    Parts { size: usize },
}

impl Order {
    /// Columns of a chunk, in which columns change places.
    pub fn chunk(self) -> usize {
        match self {
            Order::Plain { unit } => unit,
            Order::Nibbles { unit } => 2 * unit,
            Order::Parts { size } => 16 * size,
        }
    }

    /// Where the columns of a chunk go.
    fn places(self) -> Cow<'static, [u16]> {
        match self {
            Order::Parts { size: 32 } => Cow::Borrowed(&PLACES_OF_32),
            Order::Parts { size: 16 } => Cow::Borrowed(&PLACES_OF_16),
            _ => (0..self.chunk())
                .map(|index| self.place(index) as u16)
                .collect(),
        }
    }

    /// Where column `index` of a chunk goes.
    const fn place(self, index: usize) -> usize {
        match self {
            Order::Plain { .. } => index,
            Order::Nibbles { unit } => index / 2 + index % 2 * unit,
            Order::Parts { size } => {
                let (part, column) = (index / size, index % size);
                let vector = column / 8 * 2 + column % 2;
                vector * 64 + self.lane(part) * 4 + column % 8 / 2
            }
        }
    }

    /// Where the scale of a part goes, of sixteen.
    pub const fn lane(self, part: usize) -> usize {
        match self {
            Order::Parts { size: 32 } => part % 4 * 4 + part / 4,
            Order::Parts { .. } => part % 8 / 2 * 4 + part / 8 * 2 + part % 2,
            _ => part,
        }
    }
}

// Making them takes as long as a short row's products.
static PLACES_OF_32: [u16; 512] = places(Order::Parts { size: 32 });
static PLACES_OF_16: [u16; 256] = places(Order::Parts { size: 16 });

const fn places<const N: usize>(order: Order) -> [u16; N] {
    let mut places = [0; N];
    let mut index = 0;
    while index < N {
        places[index] = order.place(index) as u16;
        index += 1;
    }
    places
}

/// How exactly activations are represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Bytes of each: two are 15 bits.
    pub planes: usize,
    /// Columns that share a scale.
    pub part_size: usize,
}

impl Resolution {
    /// For products of `n` rows with codes.
    ///
    /// A byte has an error of the same order as rounding to bfloat16, which
    /// bfloat16 activations just were. It is too coarse for float16, and for codes
    /// in groups of 16, which are meant to be more exact than those of 32. A single
    /// row gains little from it: memory is the limit.
    pub fn choose(float: Float, format: Format, n: usize, activations: Activations) -> Resolution {
        let suits_weights = matches!(
            format,
            Format::Affine { .. } | Format::Mxfp4 | Format::Blocks(_)
        );
        let one_byte = match activations {
            Activations::Auto => suits_weights && float == Float::Bf16 && n > 1,
            Activations::EightBits => suits_weights,
        };
        Resolution {
            planes: if one_byte { 1 } else { 2 },
            part_size: part_size(format),
        }
    }

    /// The same for an order of columns. Two bytes are exact enough for whole
    /// groups, which have fewer scales, unless parts have lanes.
    pub fn in_order(self, order: Order, format: Format) -> Resolution {
        match (order, self.planes) {
            (Order::Parts { .. }, _) | (_, 1) => self,
            _ => Resolution {
                part_size: format.group_size(),
                ..self
            },
        }
    }
}

/// As many as in llama.cpp's Q8_0.
pub const MAX_PART_SIZE: usize = 32;

/// Columns that share a scale: whole groups or parts of them.
pub fn part_size(format: Format) -> usize {
    format.group_size().min(MAX_PART_SIZE)
}

/// Rows of activations. A value is `scale * byte`, or with two planes
/// `scale * (128 * high + low)`.
pub struct Planes {
    pub order: Order,
    pub resolution: Resolution,
    columns: usize,
    /// Parts of a row.
    pub parts: usize,
    /// Bytes of one row: for each chunk its high bytes, then its low ones.
    pub row_bytes: usize,
    pub bytes: Aligned<i8>,
    /// `[n, parts]`, with zeros up to a whole vector of sixteen, in the order's lanes
    pub scales: Vec<f32>,
    /// The sums of the parts' represented values, in the same places.
    pub sums: Vec<f32>,
    /// From one row's scales to the next.
    pub parts_stride: usize,
}

/// The largest whole number: its high byte is 127.
pub const LARGEST: f32 = 127.0 * 128.0;
/// The largest of a single byte.
pub const LARGEST_BYTE: f32 = 127.0;
/// What values are multiplied with to be whole numbers.
pub fn inverse(scale: f32) -> f32 {
    if scale > 0.0 { 1.0 / scale } else { 0.0 }
}

/// The sum of a group's values as they are represented, so that their errors
/// count with weights and not with codes, which are larger. If the values are
/// not all finite, neither is it.
pub fn sum_of(scale: f32, whole_sum: i32, sum: f32) -> f32 {
    if sum.is_finite() {
        scale * whole_sum as f32
    } else {
        f32::NAN
    }
}

/// Scales are read in vectors of this many.
const PARTS_READ: usize = 16;

impl Planes {
    /// `values` are rows of `columns`; `None` if they aren't all finite.
    pub fn new(
        level: Level,
        values: &[f32],
        columns: usize,
        resolution: Resolution,
        order: Order,
    ) -> Option<Planes> {
        let Resolution { planes, part_size } = resolution;
        let n = values.len() / columns;
        let row_bytes = planes * columns.next_multiple_of(order.chunk());
        let parts = columns / part_size;
        let parts_stride = parts.next_multiple_of(PARTS_READ);
        let mut made = Planes {
            order,
            resolution,
            columns,
            parts,
            row_bytes,
            bytes: Aligned::zeroed(n * row_bytes),
            scales: vec![0.0; n * parts_stride],
            sums: vec![0.0; n * parts_stride],
            parts_stride,
        };
        let mut bytes = vec![0; row_bytes];
        let places = order.places();
        for (index, row) in values.chunks_exact(columns).enumerate() {
            made.put(level, index, row, &places, &mut bytes);
        }
        // What isn't finite shows in its part's sum.
        made.sums.iter().all(|sum| sum.is_finite()).then_some(made)
    }

    /// `bytes` is scratch for a row: one plane after the other.
    fn put(&mut self, level: Level, index: usize, row: &[f32], places: &[u16], bytes: &mut [i8]) {
        let Resolution { planes, part_size } = self.resolution;
        let plane_bytes = self.row_bytes / planes;
        let (high, low) = bytes.split_at_mut(plane_bytes);
        for (part, values) in row.chunks_exact(part_size).enumerate() {
            let columns = part * part_size..(part + 1) * part_size;
            let high = &mut high[columns.clone()];
            let (scale, sum) = match planes {
                1 => level.round_to_bytes(values, high),
                _ => level.split(values, high, &mut low[columns]),
            };
            let at = self.part(index, part);
            self.scales[at] = scale;
            self.sums[at] = sum;
        }
        let chunk = places.len();
        let out = &mut self.bytes.as_mut_slice()[index * self.row_bytes..][..self.row_bytes];
        for (plane, bytes) in bytes.chunks_exact(plane_bytes).enumerate() {
            let chunks = out.chunks_exact_mut(chunk).skip(plane).step_by(planes);
            for (columns, out) in bytes[..row.len()].chunks(chunk).zip(chunks) {
                for (column, place) in columns.iter().zip(places) {
                    out[usize::from(*place)] = *column;
                }
            }
        }
    }

    /// The whole number that stands for a value.
    pub fn get(&self, row: usize, column: usize) -> i32 {
        let chunk = self.order.chunk();
        let at = row * self.row_bytes + column / chunk * self.resolution.planes * chunk;
        let place = at + self.order.place(column % chunk);
        (0..self.resolution.planes).fold(0, |above, plane| {
            128 * above + i32::from(self.bytes.as_slice()[place + plane * chunk])
        })
    }

    /// Where the scale and the sum of a part are.
    pub fn part(&self, row: usize, part: usize) -> usize {
        let (block, part) = (part / PARTS_READ * PARTS_READ, part % PARTS_READ);
        row * self.parts_stride + block + self.order.lane(part)
    }

    pub fn n(&self) -> usize {
        self.scales.len() / self.parts_stride
    }

    /// Whether the rows can be multiplied with codes.
    pub fn fit(&self, rows: &CodeRows<'_>) -> bool {
        rows.row_bytes * 8 == self.columns * rows.bits
            && self.parts.is_multiple_of(rows.groups)
            && rows.scales.len() == rows.len() * rows.groups
            && rows.biases.len() == rows.scales.len()
    }
}
