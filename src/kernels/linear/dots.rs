//! [`Dots`]: products of few rows of activations, one row of weights after the
//! other. This is decoding: as fast as the weights can be read.

use std::cell::RefCell;
use std::ops::Range;

use super::arithmetic::Activations;
use super::codes::{CodeRows, CodeScratch};
use super::columns;
use super::halves::{HalfRows, takes_halves};
use super::planes::{Planes, Resolution};
use super::rows::Rows;
use super::shape::ProductShape;
use super::{Job, Matrix, PIECE_BYTES, Projection};
use crate::kernels::float::Float;
use crate::kernels::floats::Floats;
use crate::kernels::level::Level;
use crate::kernels::pool::Pool;
use crate::kernels::quantized::Format;

/// Rows of activations in the forms in which the weights want them.
pub struct Dots<'a> {
    level: Level,
    n: usize,
    columns: usize,
    /// `[n, columns]`
    values: Vec<f32>,
    /// The same as bfloat16, exactly, if any weights want it.
    halves: Vec<HalfRows>,
    planes: Vec<Planes>,
    /// By projection: which of the planes, for codes that are multiplied as integers.
    choice: Vec<Option<usize>>,
    projections: &'a [Projection<'a>],
    /// How many rows are computed together: all of them, or 1.
    n_together: usize,
}

/// Rows as float32, and as halves or integers in two bytes with scales and sums.
pub fn dots_scratch_bytes(shape: &ProductShape) -> usize {
    shape.n_rows * shape.columns * (size_of::<f32>() + 2 + 1)
}

thread_local! {
    /// Grows to the longest row and stays.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    values: Vec<f32>,
    row: Vec<f32>,
    codes: CodeScratch,
}

impl<'a> Dots<'a> {
    /// So many rows together are computed as they suit so many: with 1, each row's
    /// products are those of a single row.
    pub fn prepare(
        level: Level,
        x: &Rows<'_>,
        projections: &'a [Projection<'a>],
        (n_together, activations): (usize, Activations),
    ) -> Dots<'a> {
        let (n, columns) = (x.n(), x.columns);
        let mut values = vec![0.0; n * columns];
        for (index, row) in values.chunks_exact_mut(columns).enumerate() {
            x.read(level, index, row);
        }
        let mut planes = Vec::new();
        let choice = projections
            .iter()
            .map(|projection| {
                let resolution =
                    |format| Resolution::choose(x.float(), format, n_together, activations);
                choose_planes(
                    &mut planes,
                    level,
                    (x.float(), &values),
                    &projection.matrix,
                    &resolution,
                )
            })
            .collect();
        let wants_halves = |projection: &Projection<'_>| matches!(projection.matrix, Matrix::Float(weights) if takes_halves(level, x, &weights));
        let halves = match projections.iter().any(wants_halves) {
            true => values
                .chunks_exact(n_together * columns)
                .map(|rows| HalfRows::new(level, rows, columns))
                .collect(),
            false => Vec::new(),
        };
        Dots {
            level,
            n,
            columns,
            values,
            halves,
            planes,
            choice,
            projections,
            n_together,
        }
    }

    pub fn run(&self, pool: &Pool, job: &Job<'_>) {
        let row_bytes = self.projections[0].matrix.row_bytes(self.columns);
        let fair = job.width * row_bytes / (8 * pool.n_threads());
        let piece_bytes = fair.clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end());
        let is_by_column = |p: &Projection<'_>| matches!(p.matrix, Matrix::Columns(_));
        let least_rows = match self.projections.iter().any(is_by_column) {
            true => columns::LEAST_ROWS,
            false => 1,
        };
        let blocks = job.blocks((piece_bytes / row_bytes).max(least_rows));
        pool.run(blocks.len(), &|piece| {
            SCRATCH.with_borrow_mut(|scratch| {
                let block = &blocks[piece];
                let mut values = std::mem::take(&mut scratch.values);
                let length = self.n * block.rows.len();
                values.resize(2 * length, 0.0);
                let mut products: Vec<_> = values.chunks_exact_mut(length.max(1)).collect();
                for (projection, out) in job.projections_of(block).zip(&mut products) {
                    self.multiply(projection, &block.rows, scratch, out);
                }
                job.finish(self.level, block, 0, &mut products);
                scratch.values = values;
            });
        });
    }

    /// `out` is `[n, rows]`.
    fn multiply(
        &self,
        projection: usize,
        rows: &Range<usize>,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        match (
            &self.projections[projection].matrix,
            self.choice[projection],
            &self.halves[..],
        ) {
            (Matrix::Quantized(weights), Some(index), _) => {
                let rows = CodeRows::new(self.level, weights, rows, &mut scratch.codes);
                self.level.multiply_codes(&rows, &self.planes[index], out);
            }
            (Matrix::Float(weights), _, [first, ..]) if weights.float() == Float::Bf16 => {
                let bytes = rows.start * first.row_bytes()..rows.end * first.row_bytes();
                let weights = &weights.bytes()[bytes];
                let outs = out.chunks_exact_mut(self.n_together * rows.len());
                for (halves, out) in self.halves.iter().zip(outs) {
                    self.level.multiply_halves(weights, halves, out);
                }
            }
            (Matrix::Columns(weights), ..) => {
                weights.multiply(self.level, rows, (&self.values, self.columns), out);
            }
            (Matrix::Float(weights), ..) if self.n_together == 1 => {
                self.multiply_alone(weights, rows, out);
            }
            (matrix, ..) => {
                let length = rows.len();
                scratch.row.resize(self.columns, 0.0);
                for (index, row) in rows.clone().enumerate() {
                    let columns = 0..self.columns;
                    matrix.dequantize(self.level, row, self.columns, &columns, &mut scratch.row);
                    self.multiply_floats(&scratch.row, index, length, out);
                }
            }
        }
    }

    fn multiply_alone(&self, weights: &Floats<'_>, rows: &Range<usize>, out: &mut [f32]) {
        for (index, row) in rows.clone().enumerate() {
            let row = weights.row(row, self.columns);
            let out = out[index..].iter_mut().step_by(rows.len());
            for (x, out) in self.values.chunks_exact(self.columns).zip(out) {
                *out = self.level.dot(row.float(), row.bytes(), x);
            }
        }
    }

    fn multiply_floats(&self, row: &[f32], index: usize, length: usize, out: &mut [f32]) {
        let n_in_fours = match self.n_together {
            1 => 0,
            _ => self.n / 4 * 4,
        };
        let (fours, rest) = self.values.split_at(n_in_fours * self.columns);
        let fours = fours.chunks_exact(4 * self.columns);
        let rest = rest.chunks_exact(self.columns);
        let mut token = 0;
        for x in fours {
            for product in self.level.dot4(row, x) {
                out[token * length + index] = product;
                token += 1;
            }
        }
        for x in rest {
            out[token * length + index] = self.level.dot_f32(row, x);
            token += 1;
        }
    }
}

/// Which of the planes a matrix of codes takes, made if they aren't there yet.
/// `None` where the product is computed in float32: float32 activations stay
/// exact, and so does what isn't finite.
fn choose_planes(
    planes: &mut Vec<Planes>,
    level: Level,
    (float, values): (Float, &[f32]),
    matrix: &Matrix<'_>,
    resolution: &dyn Fn(Format) -> Resolution,
) -> Option<usize> {
    let Matrix::Quantized(weights) = matrix else {
        return None;
    };
    if float == Float::F32 {
        return None;
    }
    let order = level.code_order(weights)?;
    let resolution = resolution(weights.format).in_order(order, weights.format);
    let same = |made: &Planes| made.order == order && made.resolution == resolution;
    planes.iter().position(same).or_else(|| {
        planes.push(Planes::new(
            level,
            values,
            weights.columns,
            resolution,
            order,
        )?);
        Some(planes.len() - 1)
    })
}
