use proptest::prelude::*;

use super::*;

const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];

fn formats() -> impl Strategy<Value = Format> {
    let affine = (
        prop::sample::select(vec![2_usize, 3, 4, 5, 6, 8]),
        prop::sample::select(vec![32_usize, 64, 128]),
        prop::sample::select(FLOATS.to_vec()),
    );
    prop_oneof![
        3 => affine.prop_map(|(bits, group_size, float)| Format::Affine { bits, group_size, float }),
        1 => Just(Format::Mxfp4),
        1 => Just(Format::Mxfp8),
        1 => Just(Format::Nvfp4),
    ]
}

/// A matrix of arbitrary bytes, each part off any alignment.
#[derive(Clone, Debug)]
struct Sample {
    format: Format,
    rows: usize,
    columns: usize,
    shift: usize,
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

impl Sample {
    fn strategy() -> impl Strategy<Value = Sample> {
        let sizes = (formats(), 1_usize..4, 1_usize..80, 0_usize..16);
        sizes.prop_flat_map(|(format, rows, groups, shift)| {
            let columns = groups * format.group_size();
            let bytes = |length: usize| prop::collection::vec(any::<u8>(), shift + rows * length);
            let scales = groups * format.scale_bytes();
            (
                bytes(columns * format.bits() / 8),
                bytes(scales),
                bytes(scales),
            )
                .prop_map(move |(codes, scales, biases)| Sample {
                    format,
                    rows,
                    columns,
                    shift,
                    codes,
                    scales,
                    biases,
                })
        })
    }

    fn matrix(&self) -> QuantizedRows<'_> {
        let is_affine = matches!(self.format, Format::Affine { .. });
        QuantizedRows {
            codes: &self.codes[self.shift..],
            scales: &self.scales[self.shift..],
            biases: is_affine.then(|| &self.biases[self.shift..]),
            format: self.format,
            columns: self.columns,
        }
    }

    fn groups(&self) -> usize {
        self.columns / self.format.group_size()
    }

    /// Code `column` of a row, bit by bit.
    fn code(&self, row: usize, column: usize) -> u8 {
        let bits = self.format.bits();
        let first = (row * self.columns + column) * bits;
        let bit = |at: usize| self.codes[self.shift + at / 8] >> (at % 8) & 1;
        (0..bits).map(|i| bit(first + i) << i).sum()
    }

    fn dequantized(&self, level: Level, row: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.columns];
        self.matrix().dequantize(level, row, &mut out);
        out
    }

    fn scales(&self, level: Level, row: usize) -> (Vec<f32>, Vec<f32>) {
        let mut scales = vec![f32::NAN; self.groups()];
        let mut biases = scales.clone();
        self.matrix().scales(level, row, &mut scales, &mut biases);
        (scales, biases)
    }

    fn unpacked(&self, level: Level, row: usize) -> Vec<u8> {
        let mut out = vec![0xaa; self.columns];
        self.matrix().unpack(level, row, &mut out);
        out
    }
}

/// A number with a sign, `exponent_bits`, and `mantissa_bits`, by its definition.
fn small_float(code: u8, exponent_bits: u32, mantissa_bits: u32) -> f64 {
    let field = |from: u32, bits: u32| i32::from(code >> from) & ((1 << bits) - 1);
    let mantissa = f64::from(field(0, mantissa_bits)) / f64::from(1 << mantissa_bits);
    let exponent = field(mantissa_bits, exponent_bits);
    let bias = (1 << (exponent_bits - 1)) - 1;
    let magnitude = match exponent {
        0 => mantissa * 2_f64.powi(1 - bias),
        _ => (1.0 + mantissa) * 2_f64.powi(exponent - bias),
    };
    match field(mantissa_bits + exponent_bits, 1) {
        0 => magnitude,
        _ => -magnitude,
    }
}

fn scale_by_definition(sample: &Sample, row: usize, group: usize) -> f32 {
    let index = row * sample.groups() + group;
    let stored = &sample.scales[sample.shift..];
    match sample.format {
        Format::Affine { float, .. } => float.get(stored, index),
        Format::Mxfp4 | Format::Mxfp8 => 2_f64.powi(i32::from(stored[index]) - 127) as f32,
        Format::Nvfp4 => small_float(stored[index], 4, 3) as f32,
        Format::Blocks(_) => unreachable!("`blocks` has tests of its own"),
    }
}

/// As MLX's `dequantize` to float32 computes it.
fn value_by_definition(sample: &Sample, row: usize, column: usize) -> f32 {
    let group = column / sample.format.group_size();
    let scale = scale_by_definition(sample, row, group);
    let code = sample.code(row, column);
    match sample.format {
        Format::Affine { float, .. } => {
            let bias = float.get(
                &sample.biases[sample.shift..],
                row * sample.groups() + group,
            );
            f32::from(code) * scale + bias
        }
        Format::Mxfp4 | Format::Nvfp4 => small_float(code, 2, 1) as f32 * scale,
        Format::Mxfp8 => small_float(code, 4, 3) as f32 * scale,
        Format::Blocks(_) => unreachable!("`blocks` has tests of its own"),
    }
}

/// The bits, with one pattern for all that are not numbers.
fn bits(values: &[f32]) -> Vec<u32> {
    let canonical = |v: &f32| if v.is_nan() { f32::NAN } else { *v };
    values.iter().map(|v| canonical(v).to_bits()).collect()
}

proptest! {
    #[test]
    fn dequantized_values_are_those_of_the_definition(sample in Sample::strategy()) {
        for row in 0..sample.rows {
            let expected: Vec<_> = (0..sample.columns)
                .map(|column| value_by_definition(&sample, row, column))
                .collect();
            prop_assert_eq!(bits(&sample.dequantized(Level::Scalar, row)), bits(&expected));
        }
    }

    #[test]
    fn scales_are_those_of_the_definition(sample in Sample::strategy()) {
        let row = sample.rows - 1;
        let expected: Vec<_> = (0..sample.groups())
            .map(|group| scale_by_definition(&sample, row, group))
            .collect();
        for level in Level::available() {
            let (scales, biases) = sample.scales(level, row);
            prop_assert_eq!(bits(&scales), bits(&expected), "{:?}", level);
            if !matches!(sample.format, Format::Affine { .. }) {
                prop_assert_eq!(biases, vec![0.0; sample.groups()]);
            }
        }
    }

    #[test]
    fn unpacked_codes_are_those_of_the_definition(sample in Sample::strategy()) {
        prop_assume!(sample.format != Format::Mxfp8);
        let row = sample.rows - 1;
        let expected: Vec<u8> = (0..sample.columns)
            .map(|column| match sample.format {
                Format::Affine { .. } => sample.code(row, column),
                _ => (2.0 * small_float(sample.code(row, column), 2, 1)) as i8 as u8,
            })
            .collect();
        for level in Level::available() {
            prop_assert_eq!(&sample.unpacked(level, row), &expected, "{:?}", level);
        }
    }

    #[test]
    fn every_level_dequantizes_to_the_same_bits(sample in Sample::strategy()) {
        for row in 0..sample.rows {
            let expected = bits(&sample.dequantized(Level::Scalar, row));
            for level in Level::available() {
                prop_assert_eq!(&bits(&sample.dequantized(level, row)), &expected, "{:?}", level);
            }
        }
    }
}

/// One group with one scale byte and one code at its beginning.
fn first_value(format: Format, scale: u8, code: u8) -> f32 {
    let columns = format.group_size();
    let mut codes = vec![0; columns * format.bits() / 8];
    codes[0] = code;
    let matrix = QuantizedRows {
        codes: &codes,
        scales: &[scale],
        biases: None,
        format,
        columns,
    };
    let mut out = vec![0.0; columns];
    matrix.dequantize(Level::detect(), 0, &mut out);
    out[0]
}

#[test]
fn the_ends_of_the_small_floats_are_mlxs() {
    assert_eq!(first_value(Format::Mxfp8, 127, 0x7e), 448.0);
    assert_eq!(first_value(Format::Mxfp8, 127, 0x7f), 480.0, "no NaN");
    assert_eq!(first_value(Format::Mxfp8, 127, 0x01), 1.0 / 512.0);
    assert_eq!(first_value(Format::Mxfp8, 0, 0x38), 2_f32.powi(-127));
    assert_eq!(first_value(Format::Mxfp4, 255, 0x02), f32::INFINITY);
    assert!(first_value(Format::Mxfp4, 255, 0x00).is_nan());
    assert_eq!(first_value(Format::Nvfp4, 0x7e, 0x0f), -2688.0);
    assert!(first_value(Format::Nvfp4, 0x38, 0x08).is_sign_negative());
}

#[test]
#[should_panic(expected = "no whole numbers")]
fn eight_bit_floats_have_no_whole_number_codes() {
    let matrix = QuantizedRows {
        codes: &[0; 32],
        scales: &[127],
        biases: None,
        format: Format::Mxfp8,
        columns: 32,
    };
    matrix.unpack(Level::Scalar, 0, &mut [0; 32]);
}
