use proptest::prelude::*;

use super::codes::CodeRows;
use super::panels::PANEL;
use super::planes::{Planes, Resolution};
use super::tiles::{CODES_STRIDE, Tile};
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

/// Lets the float16 factors of blocks be below 2.
fn keep_factors_small(format: BlockFormat, blocks: &mut [u8]) {
    let upper_bytes: &[usize] = match format {
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[1],
        BlockFormat::Iq4Nl | BlockFormat::Iq4Xs => &[1],
        BlockFormat::Q2K => &[81, 83],
        BlockFormat::Q3K => &[109],
        BlockFormat::Q6K => &[209],
        BlockFormat::Mxfp4 => &[],
        _ => &[1, 3],
    };
    for block in blocks.chunks_exact_mut(format.bytes()) {
        if format == BlockFormat::Mxfp4 {
            block[0] = 112 + block[0] % 16;
        }
        for at in upper_bytes {
            block[*at] &= 0b1011_1111;
        }
    }
}

/// A matrix that owns its bytes.
struct Stored {
    parts: [Vec<u8>; 3],
    kind: Kind,
    rows: usize,
    columns: usize,
    shift: usize,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Float(Float),
    /// By column, with `OTHER_ROWS` in front of the matrix's own and behind them.
    Columns(Float),
    Quantized(Format),
}

const OTHER_ROWS: [usize; 2] = [2, 3];

impl Stored {
    fn new(kind: Kind, rows: usize, columns: usize, shift: usize, seed: u64) -> Stored {
        let shifted = |bytes: Vec<u8>| [vec![0; shift], bytes].concat();
        let parts = match kind {
            Kind::Float(float) => {
                let weights = packed(float, &values(seed, rows * columns), shift);
                [weights, Vec::new(), Vec::new()]
            }
            Kind::Columns(float) => {
                let stored_rows = rows + OTHER_ROWS[0] + OTHER_ROWS[1];
                let weights = packed(float, &values(seed, stored_rows * columns), shift);
                [weights, Vec::new(), Vec::new()]
            }
            Kind::Quantized(format) => {
                let groups = rows * columns / format.group_size();
                let mut codes = bytes(seed, rows * format.code_bytes(columns));
                if let Format::Blocks(blocks) = format {
                    keep_factors_small(blocks, &mut codes);
                }
                let codes = shifted(codes);
                match format {
                    Format::Affine { float, .. } => [
                        codes,
                        packed(float, &values(seed + 1, groups), shift),
                        packed(float, &values(seed + 2, groups), shift),
                    ],
                    // Powers of two around one, and numbers below sixteen.
                    Format::Mxfp4 | Format::Mxfp8 => {
                        let scales = bytes(seed + 1, groups);
                        let scales = scales.iter().map(|byte| 124 + byte % 6).collect();
                        [codes, shifted(scales), Vec::new()]
                    }
                    Format::Nvfp4 => {
                        let scales = bytes(seed + 1, groups);
                        let scales = scales.iter().map(|byte| 32 + byte % 32).collect();
                        [codes, shifted(scales), Vec::new()]
                    }
                    Format::Blocks(_) => [codes, shifted(Vec::new()), Vec::new()],
                }
            }
        };
        Stored {
            parts,
            kind,
            rows,
            columns,
            shift,
        }
    }

    fn matrix(&self) -> Matrix<'_> {
        let part = |index: usize| &self.parts[index][self.shift..];
        match self.kind {
            Kind::Float(float) => Matrix::Float(Floats::new(float, part(0))),
            Kind::Columns(float) => {
                let stored_rows = self.rows + OTHER_ROWS[0] + OTHER_ROWS[1];
                let values = Floats::new(float, part(0));
                Matrix::Columns(Columns::new(values, stored_rows, OTHER_ROWS[0]))
            }
            Kind::Quantized(format) => Matrix::Quantized(QuantizedRows {
                codes: part(0),
                scales: part(1),
                biases: matches!(format, Format::Affine { .. }).then(|| part(2)),
                format,
                columns: self.columns,
            }),
        }
    }

    /// Products with a row of float64, and the root of the sum of the squares of
    /// the terms of each.
    fn multiply(&self, x: &[f64]) -> Vec<(f64, f64)> {
        let mut weights = vec![0.0; self.columns];
        let row = |row: usize| {
            let columns = 0..self.columns;
            self.matrix()
                .dequantize(Level::Scalar, row, self.columns, &columns, &mut weights);
            let terms = || weights.iter().zip(x).map(|(w, x)| f64::from(*w) * x);
            (
                terms().sum(),
                terms().map(|term| term * term).sum::<f64>().sqrt(),
            )
        };
        (0..self.rows).map(row).collect()
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let floats = prop_oneof![Just(Float::F32), Just(Float::F16), Just(Float::Bf16)];
    let bits = prop_oneof![Just(2), Just(3), Just(4), Just(5), Just(6), Just(8)];
    let groups = prop_oneof![Just(32), Just(64), Just(128)];
    let affine = (bits, groups, floats.clone());
    prop_oneof![
        2 => floats.clone().prop_map(Kind::Float),
        2 => floats.prop_map(Kind::Columns),
        4 => affine.prop_map(|(bits, group_size, float)| {
            Kind::Quantized(Format::Affine { bits, group_size, float })
        }),
        1 => Just(Kind::Quantized(Format::Mxfp4)),
        1 => Just(Kind::Quantized(Format::Mxfp8)),
        1 => Just(Kind::Quantized(Format::Nvfp4)),
        2 => prop::sample::select(BlockFormat::ALL.to_vec()).prop_map(|blocks| {
            Kind::Quantized(Format::Blocks(blocks))
        }),
    ]
}

/// The columns nearest to `wanted` that a kind can have.
fn columns(kind: Kind, wanted: usize) -> usize {
    match kind {
        Kind::Float(_) | Kind::Columns(_) => wanted,
        Kind::Quantized(Format::Blocks(blocks)) => wanted.next_multiple_of(blocks.values()),
        Kind::Quantized(format) => wanted.next_multiple_of(format.group_size()),
    }
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
    fn rows_apart_are_what_each_is_alone_to_the_last_bit(
        kind in kinds(), rows in 1_usize..50, wanted in 1_usize..700, n in 1_usize..20,
        x_float in prop_oneof![Just(Float::F32), Just(Float::F16), Just(Float::Bf16)],
        activations in activations(), seed in 0_u64..1 << 40,
    ) {
        let columns = columns(kind, wanted);
        let apart = Arithmetic { activations, rows_apart: true };
        let weights = Stored::new(kind, rows, columns, 0, seed);
        let projections = [Projection { matrix: weights.matrix(), rows, bias: None }];
        let x = packed(x_float, &values(seed + 3, n * columns), 0);
        let x = Floats::new(x_float, &x);
        for level in Level::available() {
            let together = Rows { values: x, columns, norm: None };
            let mut found = vec![0; n * rows * 4];
            let job = Job::new(&together, &projections, Finish::Store, &mut found, Float::F32);
            linear_at(level, &Pool::new(2), &together, apart, &job);
            for (index, found) in found.chunks(rows * 4).enumerate() {
                let alone = Rows { values: x.row(index, columns), columns, norm: None };
                let mut expected = vec![0; rows * 4];
                let job = Job::new(&alone, &projections, Finish::Store, &mut expected, Float::F32);
                linear_at(level, &Pool::new(1), &alone, Arithmetic { activations, rows_apart: false }, &job);
                prop_assert!(found == expected, "{level:?} {kind:?}: row {index} of {n}");
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn integer_products_are_the_scalar_ones(
        kind in kinds(), rows in 1_usize..9, wanted in 1_usize..700, n in 1_usize..8,
        x_float in prop_oneof![Just(Float::F16), Just(Float::Bf16)], activations in activations(),
        shift in 0_usize..4, seed in 0_u64..1 << 40,
    ) {
        let columns = columns(kind, wanted);
        let stored = Stored::new(kind, rows, columns, shift, seed);
        let Matrix::Quantized(weights) = stored.matrix() else {
            return Ok(());
        };
        let x = values(seed + 3, n * columns);
        for level in Level::available() {
            let Some(order) = level.code_order(&weights) else {
                continue;
            };
            let resolution = Resolution::choose(x_float, weights.format, n, activations).in_order(order, weights.format);
            let planes = Planes::new(level, &x, columns, resolution, order).expect("finite");
            let mut scratch = Default::default();
            let codes = CodeRows::new(level, &weights, &(0..rows), &mut scratch);
            let (mut found, mut expected) = (vec![0.0; n * rows], vec![0.0; n * rows]);
            level.multiply_codes(&codes, &planes, &mut found);
            Level::Scalar.multiply_codes(&codes, &planes, &mut expected);
            for (token, row) in (0..n).flat_map(|token| (0..rows).map(move |row| (token, row))) {
                let x: Vec<f64> = x[token * columns..][..columns].iter().map(|x| f64::from(*x)).collect();
                let (_, size) = stored.multiply(&x)[row];
                let (found, expected) = (found[token * rows + row], expected[token * rows + row]);
                let error = f64::from((found - expected).abs());
                prop_assert!(error <= 3.0 * FLOAT_TOLERANCE * size + 1e-7, "{level:?} {kind:?}: {found} for {expected}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn tiles_of_codes_are_the_scalar_ones(
        planes in 1_usize..3, group in prop_oneof![Just((16, 16)), Just((32, 32)), Just((64, 32)), Just((128, 32))],
        bits in 2_usize..9, n_groups in 1_usize..5, n_panels in 1_usize..3, seed in 0_u64..1 << 40,
    ) {
        let (group_words, part_words) = (group.0 / 4, group.1 / 4);
        let words = n_groups * group_words;
        let parts = words / part_words;
        let as_words = |bytes: Vec<u8>| -> Vec<u32> {
            bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
        };
        let format = Format::Affine { bits, group_size: group.0, float: Float::F32 };
        let largest_code = codes::largest(format).expect("whole codes");
        for level in Level::available().into_iter().filter(|level| level.has_code_tiles(format)) {
            let rows = level.tile_rows(true);
            let codes = bytes(seed, 4 * rows * CODES_STRIDE);
            let weights = as_words(codes.iter().map(|code| code & largest_code).collect());
            let panel = as_words(bytes(seed + 1, 4 * n_panels * words * planes * PANEL));
            let [scales, biases] = [2, 3].map(|other| values(seed + other, rows * n_groups));
            let x_scales = values(seed + 4, n_panels * parts * PANEL);
            let x_sums = values(seed + 5, n_panels * n_groups * PANEL);
            let there = values(seed + 6, n_panels * rows * PANEL);
            let [mut found, mut expected] = [there.clone(), there];
            let tile = |out: &mut [f32]| Tile {
                weights: weights.as_ptr(),
                weights_stride: CODES_STRIDE,
                panel: panel.as_ptr(),
                panel_stride: words * planes * PANEL,
                words,
                out: out.as_mut_ptr(),
                out_stride: rows * PANEL,
                scales: scales.as_ptr(),
                biases: biases.as_ptr(),
                groups_stride: n_groups,
                group_words,
                part_words,
                planes,
                largest_code,
                x_scales: (x_scales.as_ptr(), parts * PANEL),
                x_sums: (x_sums.as_ptr(), n_groups * PANEL),
            };
            // SAFETY: the tiles describe the vectors above.
            unsafe {
                level.tile_codes(&tile(&mut found), n_panels);
                for panel in 0..n_panels {
                    scalar::tile_codes(&tile(&mut expected).panel(panel), rows);
                }
            }
            let largest = expected.iter().fold(1.0_f32, |a, b| a.max(b.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                prop_assert!((found - expected).abs() <= 1e-6 * largest, "{level:?}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn turned_panels_are_the_scalar_ones(n_rows in 1_usize..100, seed in 0_u64..1 << 40) {
        let panel = values(seed, n_rows * PANEL);
        let mut expected = vec![0.0; panel.len()];
        Level::Scalar.transpose_panel(&panel, &mut expected);
        prop_assert_eq!(expected[n_rows.saturating_sub(1)], panel[(n_rows - 1) * PANEL]);
        for level in Level::available() {
            let mut found = vec![0.0; panel.len()];
            level.transpose_panel(&panel, &mut found);
            prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn whole_numbers_are_the_scalar_ones(groups in 1_usize..5, scale in -30_i32..30, seed in 0_u64..1 << 40) {
        let factor = 2.0_f32.powi(scale);
        let values: Vec<f32> = values(seed, groups * 16).iter().map(|value| value * factor).collect();
        let of = |level: Level| {
            let [mut high, mut low, mut single] = [(); 3].map(|()| vec![0; values.len()]);
            let split = level.split(&values, &mut high, &mut low);
            let rounded = level.round_to_bytes(&values, &mut single);
            (split, rounded, high, low, single)
        };
        for level in Level::available() {
            prop_assert_eq!(of(level), of(Level::Scalar));
        }
    }
}

/// Of so many activations that two rows of weights take them together.
#[test]
fn rows_of_many_columns_apart_are_what_each_is_alone_to_the_last_bit() {
    let affine = Format::Affine {
        bits: 4,
        group_size: 64,
        float: Float::Bf16,
    };
    for format in [affine, Format::Mxfp4, Format::Nvfp4] {
        let kind = Kind::Quantized(format);
        let (rows, n) = (5, 7);
        let columns = columns(kind, 4096 + 192);
        let weights = Stored::new(kind, rows, columns, 0, 3);
        let projections = [Projection {
            matrix: weights.matrix(),
            rows,
            bias: None,
        }];
        let x = packed(Float::Bf16, &values(6, n * columns), 0);
        let x = Floats::new(Float::Bf16, &x);
        let choices = [Activations::Auto, Activations::EightBits];
        for (level, activations) in Level::available()
            .into_iter()
            .flat_map(|level| choices.map(|activations| (level, activations)))
        {
            let apart = Arithmetic {
                activations,
                rows_apart: true,
            };
            let product = |values: Floats<'_>| {
                let x = Rows {
                    values,
                    columns,
                    norm: None,
                };
                let mut out = vec![0; x.n() * rows * 4];
                let job = Job::new(&x, &projections, Finish::Store, &mut out, Float::F32);
                linear_at(level, &Pool::new(1), &x, apart, &job);
                out
            };
            let alone = (0..n).flat_map(|row| product(x.row(row, columns)));
            assert!(
                product(x) == alone.collect::<Vec<u8>>(),
                "{level:?} {format:?} {apart:?}"
            );
        }
    }
}
