//! - here: products are those of float64, fused ones those of their steps
//! - `apart`: rows that are computed as if each was alone
//! - `levels`: what processors compute is what the scalar definitions say
//! - `stored`: matrices of any kind

mod apart;
mod levels;
mod stored;

use proptest::prelude::*;

use self::stored::{Kind, Stored, columns, kinds};
use super::planes::Resolution;
use super::*;
use crate::kernels::activation::Activation;
use crate::kernels::norm::Norm;
use crate::kernels::quantized::{BlockFormat, Format};

/// Relative to the root of the sum of the squares of a product's terms: what
/// float32 sums of this length cost.
const FLOAT_TOLERANCE: f64 = 1e-5;
/// The same with activations of 15 bits: six times their root mean square error.
const CODES_TOLERANCE: f64 = 2e-4;
/// The same with activations of 8 bits.
const BYTES_TOLERANCE: f64 = 2.5e-2;

/// Deterministic values between -1 and 1 from a seed.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn activations() -> impl Strategy<Value = Activations> {
    prop_oneof![Just(Activations::Auto), Just(Activations::EightBits)]
}

/// Values as packed floats, `shift` bytes off any alignment.
fn packed(float: Float, values: &[f32], shift: usize) -> Vec<u8> {
    let mut bytes = vec![0; shift + values.len() * float.bytes()];
    for (index, value) in values.iter().enumerate() {
        float.set(&mut bytes[shift..], index, *value);
    }
    bytes
}

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let values = values(seed, count);
    values
        .iter()
        .map(|value| (value.to_bits() >> 3) as u8)
        .collect()
}

fn multiply(
    level: Level,
    n_threads: usize,
    x: &Rows<'_>,
    projections: &[Projection<'_>],
    finish: Finish<'_>,
    length: usize,
) -> Vec<f32> {
    let mut out = vec![0; length * 4];
    let job = Job::new(x, projections, finish, &mut out, Float::F32);
    linear_at(level, &Pool::new(n_threads), x, Arithmetic::default(), &job);
    (0..length)
        .map(|index| Float::F32.get(&out, index))
        .collect()
}

fn in_bytes(level: Level, x: Float, weights: &QuantizedRows<'_>, n: usize) -> bool {
    let format = weights.format;
    let resolution = match level.code_order(weights) {
        Some(order) if n <= MAX_DOT_ROWS => {
            Some(Resolution::choose(x, format, n, Activations::Auto).in_order(order, format))
        }
        _ if n <= MAX_DOT_ROWS || !level.has_code_tiles(format) => None,
        _ => Some(Resolution::choose(x, format, n, Activations::Auto)),
    };
    resolution.is_some_and(|resolution| resolution.planes == 1)
}

/// For products of `n` rows.
fn tolerance(level: Level, x: Float, matrix: &Matrix<'_>, n: usize) -> f64 {
    match matrix {
        Matrix::Quantized(weights) if in_bytes(level, x, weights, n) => BYTES_TOLERANCE,
        Matrix::Quantized(_) if x != Float::F32 => CODES_TOLERANCE,
        // The weights of a sum are of any size next to the sum.
        Matrix::Quantized(_) => 3.0 * FLOAT_TOLERANCE,
        Matrix::Float(_) | Matrix::Columns(_) => FLOAT_TOLERANCE,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn products_are_those_of_float64(
        kind in kinds(), rows in 1_usize..70, wanted in 1_usize..400, n in 1_usize..40,
        x_float in prop_oneof![Just(Float::F32), Just(Float::F16), Just(Float::Bf16)],
        shift in 0_usize..4, n_threads in 1_usize..3, seed in 0_u64..1 << 40,
    ) {
        let columns = columns(kind, wanted);
        let weights = Stored::new(kind, rows, columns, shift, seed);
        let x = packed(x_float, &values(seed + 3, n * columns), shift);
        let x = Floats::new(x_float, &x[shift..]);
        let exact: Vec<Vec<f64>> = (0..n)
            .map(|row| {
                let row = x.row(row, columns);
                (0..columns).map(|i| f64::from(x_float.get(row.bytes(), i))).collect()
            })
            .collect();
        for level in Level::available() {
            let projection = Projection { matrix: weights.matrix(), rows, bias: None };
            let x = Rows { values: x, columns, norm: None };
            let found = multiply(level, n_threads, &x, &[projection], Finish::Store, n * rows);
            for (found, x) in found.chunks(rows).zip(&exact) {
                for (found, (expected, size)) in found.iter().zip(weights.multiply(x)) {
                    let error = (f64::from(*found) - expected).abs();
                    let bound = tolerance(level, x_float, &weights.matrix(), n) * size + 1e-7;
                    prop_assert!(error <= bound, "{level:?} {kind:?}: {found} for {expected}");
                }
            }
        }
    }

    #[test]
    fn what_is_fused_equals_the_steps_one_by_one(
        kinds in (kinds(), kinds()), rows in 1_usize..50, wanted in 1_usize..200,
        n in 1_usize..20, seed in 0_u64..1 << 40,
    ) {
        let columns = columns(kinds.1, columns(kinds.0, wanted));
        let stored = [
            Stored::new(kinds.0, rows, columns, 0, seed),
            Stored::new(kinds.1, rows, columns, 0, seed + 10),
        ];
        let x = packed(Float::Bf16, &values(seed + 3, n * columns), 0);
        let norm_weight = packed(Float::F32, &values(seed + 4, columns), 0);
        let bias = packed(Float::F16, &values(seed + 5, rows), 0);
        let addend = packed(Float::Bf16, &values(seed + 6, n * rows), 0);
        let norm = Norm::Rms {
            weight: Some(Floats::new(Float::F32, &norm_weight)),
            offset: 0.0,
            eps: 1e-5,
        };
        let bias = Floats::new(Float::F16, &bias);
        let addend = Floats::new(Float::Bf16, &addend);
        let level = Level::detect();
        let values = Floats::new(Float::Bf16, &x);
        let normed = Rows { values, columns, norm: Some(norm) };
        // The norm's result as rows of their own.
        let mut rounded = vec![0.0; n * columns];
        for (index, row) in rounded.chunks_mut(columns).enumerate() {
            normed.read(level, index, row);
        }
        let rounded = packed(Float::Bf16, &rounded, 0);
        let plain = Rows { values: Floats::new(Float::Bf16, &rounded), columns, norm: None };
        let projections = stored.each_ref().map(|weights| Projection {
            matrix: weights.matrix(),
            rows,
            bias: Some(bias),
        });
        let single = projections.map(|projection| {
            multiply(level, 1, &plain, &[projection], Finish::Store, n * rows)
        });

        let joined = multiply(level, 2, &normed, &projections, Finish::Store, 2 * n * rows);
        for (index, joined) in joined.chunks(2 * rows).enumerate() {
            let row = index * rows..(index + 1) * rows;
            let expected = [&single[0][row.clone()], &single[1][row]].concat();
            prop_assert!(close(joined, &expected));
        }
        let finish = Finish::Add(addend);
        let added = multiply(level, 2, &normed, &projections[..1], finish, n * rows);
        let expected: Vec<f32> = (0..n * rows)
            .map(|index| single[0][index] + Float::Bf16.get(addend.bytes(), index))
            .collect();
        prop_assert!(close(&added, &expected));
        let finish = Finish::Gated(Gate::Times(Activation::Relu));
        let gated = multiply(level, 2, &normed, &projections, finish, n * rows);
        let expected: Vec<f32> = (0..n * rows)
            .map(|index| single[0][index].max(0.0) * single[1][index])
            .collect();
        prop_assert!(close(&gated, &expected));
    }
}

/// Equal but for what gates and additions round.
fn close(found: &[f32], expected: &[f32]) -> bool {
    let largest = expected.iter().fold(1.0_f32, |a, b| a.max(b.abs()));
    let pairs = found.iter().zip(expected);
    pairs
        .into_iter()
        .all(|(a, b)| (a - b).abs() <= 1e-6 * largest)
}

#[test]
fn long_rows_are_summed_over_all_their_blocks() {
    let kinds = [
        Kind::Float(Float::Bf16),
        Kind::Quantized(Format::Affine {
            bits: 4,
            group_size: 64,
            float: Float::Bf16,
        }),
        Kind::Quantized(Format::Blocks(BlockFormat::Q4_0)),
        Kind::Quantized(Format::Blocks(BlockFormat::Q4K)),
        Kind::Quantized(Format::Blocks(BlockFormat::Q6K)),
    ];
    for kind in kinds {
        let (rows, n) = (13, 35);
        let columns = columns(kind, 2 * 2048 + 192);
        let weights = Stored::new(kind, rows, columns, 1, 5);
        let x = packed(Float::F16, &values(6, n * columns), 0);
        for level in Level::available() {
            let projection = Projection {
                matrix: weights.matrix(),
                rows,
                bias: None,
            };
            let x = Rows {
                values: Floats::new(Float::F16, &x),
                columns,
                norm: None,
            };
            let found = multiply(level, 2, &x, &[projection], Finish::Store, n * rows);
            let mut row = vec![0.0; columns];
            for (index, found) in found.chunks(rows).enumerate() {
                x.read(level, index, &mut row);
                let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                for (found, (expected, size)) in found.iter().zip(weights.multiply(&row)) {
                    let bound = tolerance(level, Float::F16, &weights.matrix(), n) * size;
                    assert!((f64::from(*found) - expected).abs() <= bound);
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_comes_through() {
    let kinds = [
        Kind::Float(Float::Bf16),
        Kind::Float(Float::F32),
        Kind::Quantized(Format::Affine {
            bits: 4,
            group_size: 32,
            float: Float::F16,
        }),
        Kind::Quantized(Format::Affine {
            bits: 6,
            group_size: 32,
            float: Float::F16,
        }),
        Kind::Quantized(Format::Nvfp4),
    ];
    for (kind, n) in kinds.into_iter().flat_map(|kind| [(kind, 2), (kind, 20)]) {
        let (rows, columns) = (3, 128);
        let weights = Stored::new(kind, rows, columns, 0, 5);
        for special in [f32::NAN, f32::INFINITY] {
            let mut x = values(6, n * columns);
            x[columns + 40] = special;
            let x = packed(Float::Bf16, &x, 0);
            for level in Level::available() {
                let projection = Projection {
                    matrix: weights.matrix(),
                    rows,
                    bias: None,
                };
                let x = Rows {
                    values: Floats::new(Float::Bf16, &x),
                    columns,
                    norm: None,
                };
                let found = multiply(level, 1, &x, &[projection], Finish::Store, n * rows);
                let (first, second) = (&found[..rows], &found[rows..2 * rows]);
                assert!(
                    first.iter().all(|value| value.is_finite()),
                    "{level:?} {kind:?}"
                );
                assert!(
                    second.iter().all(|value| !value.is_finite()),
                    "{level:?} {kind:?}"
                );
            }
        }
    }
}
