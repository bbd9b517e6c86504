use half::{bf16, f16};
use proptest::prelude::*;

use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};
use crate::kernels::{Float, Floats, FloatsMut, Level};

/// What is right around every 16-bit float: itself, the middle to the next one,
/// and the float32 on each side of both.
fn around(widen: impl Fn(u16) -> f32) -> Vec<f32> {
    let around = |bits: u32| [bits.wrapping_sub(1), bits, bits.wrapping_add(1)];
    (0..=u16::MAX)
        .flat_map(|bits| {
            let (here, next) = (widen(bits).to_bits(), widen(bits.wrapping_add(1)).to_bits());
            let middle = here.wrapping_add(next.wrapping_sub(here) / 2);
            around(here).into_iter().chain(around(middle))
        })
        .map(f32::from_bits)
        .collect()
}

fn narrowed(level: Level, float: Float, values: &[f32], shift: usize) -> Vec<u16> {
    let mut bytes = vec![0; shift + 2 * values.len()];
    level.convert(
        Floats::from(values),
        FloatsMut::new(float, &mut bytes[shift..]),
    );
    let elements = bytes[shift..].as_chunks::<2>().0;
    elements
        .iter()
        .map(|bytes| u16::from_le_bytes(*bytes))
        .collect()
}

/// Equal in every bit, but for those of a NaN, which may become a quiet one.
fn same(found: f32, expected: f32) -> bool {
    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan()
}

#[test]
fn every_16_bit_float_widens_as_half_does() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for level in Level::available() {
        let mut wide = vec![0.0_f32; 1 << 16];
        level.convert(
            Floats::new(Float::F16, &all),
            FloatsMut::from(&mut wide[..]),
        );
        for (bits, found) in (0..=u16::MAX).zip(&wide) {
            let expected = f16::from_bits(bits).to_f32();
            assert!(same(*found, expected), "{level:?}: f16 {bits:#x}");
        }
        level.convert(
            Floats::new(Float::Bf16, &all),
            FloatsMut::from(&mut wide[..]),
        );
        for (bits, found) in (0..=u16::MAX).zip(&wide) {
            let expected = bf16::from_bits(bits).to_f32();
            assert!(same(*found, expected), "{level:?}: bf16 {bits:#x}");
        }
    }
}

#[test]
fn values_at_every_rounding_boundary_narrow_as_half_does() {
    let f16s = around(|bits| f16::from_bits(bits).to_f32());
    let bf16s = around(|bits| bf16::from_bits(bits).to_f32());
    for level in Level::available() {
        for values in [&f16s, &bf16s] {
            let expected: Vec<_> = values.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
            assert!(
                narrowed(level, Float::F16, values, 0) == expected,
                "{level:?}: f16"
            );
            let expected: Vec<_> = values
                .iter()
                .map(|v| bf16::from_f32(*v).to_bits())
                .collect();
            assert!(
                narrowed(level, Float::Bf16, values, 0) == expected,
                "{level:?}: bf16"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bits_at_any_length_and_alignment_narrow_as_half_does(
        bits in prop::collection::vec(any::<u32>(), 0..300), shift in 0_usize..4,
    ) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for level in Level::available() {
            let expected: Vec<_> = values.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
            prop_assert_eq!(narrowed(level, Float::F16, &values, shift), expected);
            let expected: Vec<_> = values.iter().map(|v| bf16::from_f32(*v).to_bits()).collect();
            prop_assert_eq!(narrowed(level, Float::Bf16, &values, shift), expected);
        }
    }

    #[test]
    fn scaling_and_adding_round_once(
        columns in 0_usize..300, kinds in (0_usize..3, 0_usize..3), shift in 0_usize..4,
        factor in -100_f32..100.0, seed: u32,
    ) {
        let (from, to) = (FLOATS[kinds.0], FLOATS[kinds.1]);
        let a = Packed::of(from, shift, &values(seed, columns));
        let b = Packed::of(to, shift, &values(!seed, columns));
        for level in Level::available() {
            let mut found = Packed::unset(to, shift, columns);
            level.scale(a.floats(), Some(factor), found.floats_mut());
            let product = |a: &f64| f64::from(*a as f32 * factor);
            assert_all_close(&found, &a.f64s().iter().map(product).collect::<Vec<_>>(), (0.0, 0.0));

            level.add(a.floats(), b.floats(), found.floats_mut());
            let sums = a.f64s().into_iter().zip(b.f64s());
            let sums: Vec<_> = sums.map(|(a, b)| f64::from(a as f32 + b as f32)).collect();
            assert_all_close(&found, &sums, (0.0, 0.0));
        }
    }
}
