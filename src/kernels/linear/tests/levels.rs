//! What processors compute is what the scalar definitions say.

use proptest::prelude::*;

use super::stored::{Stored, columns, kinds};
use super::{FLOAT_TOLERANCE, activations, bytes, values};
use crate::kernels::linear::codes::CodeRows;
use crate::kernels::linear::panels::PANEL;
use crate::kernels::linear::planes::{Planes, Resolution};
use crate::kernels::linear::tiles::{CODES_STRIDE, Tile};
use crate::kernels::linear::*;
use crate::kernels::quantized::Format;

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
