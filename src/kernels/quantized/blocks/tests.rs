//! Against the values that the `gguf` package gives for the same bytes.

use safetensors::SafeTensors;

use super::*;
use crate::kernels::{Float, Floats, Format};

const FIXTURE: &[u8] = include_bytes!("../../../../tests/fixtures/gguf/blocks.safetensors");
const ROWS: usize = 2;

/// The blocks of a type off any alignment, and their values.
fn fixture(format: BlockFormat) -> (Vec<u8>, Vec<f32>) {
    let tensors = SafeTensors::deserialize(FIXTURE).expect("safetensors");
    let bytes = tensors.tensor(&format!("{format}.bytes")).expect("bytes");
    let values = tensors.tensor(&format!("{format}.values")).expect("values");
    let mut values_f32 = vec![0.0; values.data().len() / 4];
    let values = Floats::new(Float::F32, values.data());
    Level::Scalar.convert(values, (&mut values_f32[..]).into());
    ([&[0], bytes.data()].concat(), values_f32)
}

fn rows(format: BlockFormat, bytes: &[u8]) -> QuantizedRows<'_> {
    QuantizedRows {
        codes: &bytes[1..],
        scales: &[],
        biases: None,
        format: Format::Blocks(format),
        columns: (bytes.len() - 1) / format.bytes() * format.values() / ROWS,
    }
}

#[test]
fn values_are_those_of_ggml_at_every_level() {
    for format in BlockFormat::ALL {
        let (bytes, expected) = fixture(format);
        let rows = rows(format, &bytes);
        for level in Level::available() {
            let mut values = vec![0.0; expected.len()];
            for (row, values) in values.chunks_exact_mut(rows.columns).enumerate() {
                rows.dequantize(level, row, values);
            }
            assert_eq!(values, expected, "{format} {level:?}");
        }
    }
}

#[test]
fn codes_with_their_factors_are_the_values() {
    for format in BlockFormat::ALL {
        let (bytes, expected) = fixture(format);
        let rows = rows(format, &bytes);
        let groups = rows.columns / format.group_size();
        let (mut scales, mut biases) = (vec![0.0; groups], vec![0.0; groups]);
        for level in Level::available() {
            let mut codes = vec![0; rows.columns];
            rows.unpack(level, 1, &mut codes);
            rows.scales(level, 1, &mut scales, &mut biases);
            for (column, code) in codes.iter().enumerate() {
                let group = column / format.group_size();
                let value = scales[group] * f32::from(*code) + biases[group];
                assert_eq!(value, expected[rows.columns + column], "{format} {level:?}");
                assert!(*code <= format.largest_code());
            }
        }
    }
}

#[test]
fn parts_of_rows_are_cut_between_blocks() {
    for format in BlockFormat::ALL {
        let (bytes, expected) = fixture(format);
        let rows = rows(format, &bytes);
        let columns = format.values()..3 * format.values();
        let mut values = vec![0.0; columns.len()];
        let part = rows.part(1, &columns);
        part.dequantize(Level::detect(), 0, &mut values);
        assert_eq!(values, expected[rows.columns..][columns], "{format}");
    }
}
