//! Rows that are computed as if each was alone.

use proptest::prelude::*;

use super::stored::{Kind, Stored, columns, kinds};
use super::{activations, packed, values};
use crate::kernels::linear::*;
use crate::kernels::quantized::Format;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

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
