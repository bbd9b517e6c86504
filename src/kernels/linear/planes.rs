//! [`Planes`]: rows of activations as integers of 15 bits in two bytes, so that
//! products with codes are integer products. Each group of columns has a scale.
//! The error is below 1/32000 of a group's largest value: a hundredth of what
//! rounding to bfloat16 costs.

use super::codes::CodeRows;
use crate::kernels::aligned::Aligned;
use crate::kernels::level::Level;

/// In which order the codes of a row come out of their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Codes that are multiplied at once.
    pub unit: usize,
    /// Codes come in pairs of units: those of the low halves of the bytes, which
    /// are the even columns, and those of the high ones.
    pub nibbles: bool,
}

impl Order {
    /// Columns of a chunk: one unit, or both of a pair.
    pub fn chunk(self) -> usize {
        if self.nibbles {
            2 * self.unit
        } else {
            self.unit
        }
    }

    /// Bytes of one chunk's columns in this order.
    fn arrange(self, columns: &[i8], out: &mut [i8]) {
        if self.nibbles {
            let (even, odd) = out.split_at_mut(self.unit);
            for ((pair, even), odd) in columns.as_chunks::<2>().0.iter().zip(even).zip(odd) {
                [*even, *odd] = *pair;
            }
        } else {
            out.copy_from_slice(columns);
        }
    }

    /// Where column `index` of a chunk goes.
    fn place(self, index: usize) -> usize {
        match self.nibbles {
            true => index / 2 + index % 2 * self.unit,
            false => index,
        }
    }
}

/// Rows of activations. A value is `scale * (128 * high + low)`.
pub struct Planes {
    pub order: Order,
    pub group_size: usize,
    columns: usize,
    /// Bytes of one row: for each chunk its high bytes, then its low ones.
    pub row_bytes: usize,
    pub bytes: Aligned<i8>,
    /// `[n, groups]`, with zeros up to a whole vector
    pub scales: Vec<f32>,
    /// The sums of the groups' represented values, in the same places.
    pub sums: Vec<f32>,
    /// From one row's scales to the next.
    pub groups_stride: usize,
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
const GROUPS_READ: usize = 16;

impl Planes {
    /// `values` are rows of `columns`; `None` if they aren't all finite.
    pub fn new(
        level: Level,
        values: &[f32],
        columns: usize,
        group_size: usize,
        order: Order,
    ) -> Option<Planes> {
        let n = values.len() / columns;
        let row_bytes = 2 * columns.next_multiple_of(order.chunk());
        let groups_stride = (columns / group_size).next_multiple_of(GROUPS_READ);
        let mut planes = Planes {
            order,
            group_size,
            columns,
            row_bytes,
            bytes: Aligned::zeroed(n * row_bytes),
            scales: vec![0.0; n * groups_stride],
            sums: vec![0.0; n * groups_stride],
            groups_stride,
        };
        let (mut high, mut low) = (vec![0; row_bytes / 2], vec![0; row_bytes / 2]);
        for (index, row) in values.chunks_exact(columns).enumerate() {
            let first = index * groups_stride;
            let parts = high.chunks_mut(group_size).zip(low.chunks_mut(group_size));
            for (group, (values, (high, low))) in
                row.chunks_exact(group_size).zip(parts).enumerate()
            {
                let (scale, sum) = level.split(values, high, low);
                planes.scales[first + group] = scale;
                planes.sums[first + group] = sum;
            }
            let chunks = high
                .chunks_exact(order.chunk())
                .zip(low.chunks_exact(order.chunk()));
            let out = &mut planes.bytes.as_mut_slice()[index * row_bytes..(index + 1) * row_bytes];
            for ((high, low), out) in chunks.zip(out.chunks_exact_mut(2 * order.chunk())) {
                let (out_high, out_low) = out.split_at_mut(order.chunk());
                order.arrange(high, out_high);
                order.arrange(low, out_low);
            }
        }
        // What isn't finite shows in its group's sum.
        planes
            .sums
            .iter()
            .all(|sum| sum.is_finite())
            .then_some(planes)
    }

    /// The whole number that stands for a value.
    pub fn get(&self, row: usize, column: usize) -> i32 {
        let chunk = self.order.chunk();
        let at = row * self.row_bytes + column / chunk * 2 * chunk;
        let place = self.order.place(column % chunk);
        let [high, low] =
            [place, place + chunk].map(|place| i32::from(self.bytes.as_slice()[at + place]));
        128 * high + low
    }

    pub fn n(&self) -> usize {
        self.scales.len() / self.groups_stride
    }

    /// Whether the rows can be multiplied with codes.
    pub fn fit(&self, rows: &CodeRows<'_>) -> bool {
        rows.row_bytes * 8 == self.columns * rows.bits
            && rows.groups * self.group_size == self.columns
            && rows.scales.len() == rows.len() * rows.groups
            && rows.biases.len() == rows.scales.len()
    }
}
