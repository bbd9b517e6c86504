//! `x W^T + b`: the product that decoding consists of.

use super::float::Float;
use super::level::Level;
use super::output::Output;
use super::pool::Pool;
use super::rows::AffineRow;

/// Weights that a piece of work covers at least: about 20 microseconds' worth.
const PIECE_WEIGHTS: usize = 1 << 16;

/// A weight matrix `[rows, columns]` in its file's bytes, row after row.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    Float {
        weights: &'a [u8],
        float: Float,
    },
    /// MLX's affine quantization.
    Affine {
        codes: &'a [u8],
        scales: &'a [u8],
        biases: &'a [u8],
        float: Float,
        group_size: usize,
        bits: usize,
    },
}

/// Rows of activations: float32 `[n, columns]`.
pub struct Activations<'a> {
    pub values: &'a [f32],
    pub columns: usize,
}

/// Computes `out[i, r] = x[i] . w[r] + bias[r]` into `out`, `[n, rows]` packed
/// as `out_float`.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub fn linear(
    pool: &Pool,
    x: &Activations<'_>,
    matrix: &Matrix<'_>,
    bias: Option<(&[u8], Float)>,
    rows: usize,
    out: &mut [u8],
    out_float: Float,
) {
    let columns = x.columns;
    let n = x.values.len() / columns;
    assert_eq!(out.len(), n * rows * out_float.bytes());
    let level = Level::detect();
    let group_sums = match matrix {
        Matrix::Affine { group_size, .. } if n == 1 => sums(x.values, *group_size),
        _ => Vec::new(),
    };
    let out = Output::new(out);
    let rows_per_piece = (PIECE_WEIGHTS / columns).clamp(1, rows);
    pool.run(rows.div_ceil(rows_per_piece), &|piece| {
        let first = piece * rows_per_piece;
        let last = (first + rows_per_piece).min(rows);
        let mut row_f32 = vec![0.0; if n == 1 { 0 } else { columns }];
        for row in first..last {
            let add = bias.map_or(0.0, |(bias, float)| float.get(bias, row));
            let mut put = |index: usize, value: f32| {
                let start = (index * rows + row) * out_float.bytes();
                // SAFETY: each (index, row) belongs to one piece alone.
                let element = unsafe { out.part(start..start + out_float.bytes()) };
                out_float.set(element, 0, value + add);
            };
            if n == 1 {
                put(0, one(level, matrix, row, x.values, &group_sums));
                continue;
            }
            expand(level, matrix, row, &mut row_f32);
            many(level, &row_f32, x.values, &mut put);
        }
    });
}

fn sums(x: &[f32], group_size: usize) -> Vec<f32> {
    x.chunks_exact(group_size)
        .map(|group| group.iter().sum())
        .collect()
}

fn one(level: Level, matrix: &Matrix<'_>, row: usize, x: &[f32], group_sums: &[f32]) -> f32 {
    match part(matrix, row, x.len()) {
        Row::Float(weights, float) => level.dot(float, weights, x),
        Row::Affine(row) => level.affine_dot(&row, x, group_sums),
    }
}

fn expand(level: Level, matrix: &Matrix<'_>, row: usize, out: &mut [f32]) {
    match part(matrix, row, out.len()) {
        Row::Float(weights, float) => level.widen(float, weights, out),
        Row::Affine(row) => level.dequantize(&row, out),
    }
}

/// One float32 row of weights times all activations.
fn many(level: Level, row: &[f32], x: &[f32], put: &mut impl FnMut(usize, f32)) {
    let columns = row.len();
    let fours = x.chunks_exact(4 * columns);
    let rest = fours.remainder();
    let n_fours = x.len() / (4 * columns) * 4;
    for (four, x) in fours.enumerate() {
        for (index, value) in level.dot4(row, x).into_iter().enumerate() {
            put(4 * four + index, value);
        }
    }
    for (index, x) in rest.chunks_exact(columns).enumerate() {
        let padded: f32 = dot_f32(level, row, x);
        put(n_fours + index, padded);
    }
}

fn dot_f32(level: Level, row: &[f32], x: &[f32]) -> f32 {
    // SAFETY: any float32 is four bytes, and bytes have no alignment.
    let bytes = unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), size_of_val(row)) };
    level.dot(Float::F32, bytes, x)
}

enum Row<'a> {
    Float(&'a [u8], Float),
    Affine(AffineRow<'a>),
}

fn part<'a>(matrix: &Matrix<'a>, row: usize, columns: usize) -> Row<'a> {
    let slice = |bytes: &'a [u8], length: usize| &bytes[row * length..(row + 1) * length];
    match *matrix {
        Matrix::Float { weights, float } => {
            Row::Float(slice(weights, columns * float.bytes()), float)
        }
        Matrix::Affine {
            codes,
            scales,
            biases,
            float,
            group_size,
            bits,
        } => {
            let group_bytes = columns / group_size * float.bytes();
            Row::Affine(AffineRow {
                codes: slice(codes, columns * bits / 8),
                scales: slice(scales, group_bytes),
                biases: slice(biases, group_bytes),
                float,
                group_size,
                bits,
            })
        }
    }
}
