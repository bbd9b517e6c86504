use proptest::prelude::*;

use super::*;
use crate::kernels::Pool;
use crate::kernels::quantized::{Format, QuantizedRows};
use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};

proptest! {
    #[test]
    fn rows_of_floats_come_by_id_in_order(
        n_rows in 1_usize..20, columns in 1_usize..300, shift in 0_usize..4,
        kinds in (0_usize..3, 0_usize..3), factor in prop::option::of(-50_f32..50.0),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..20), seed: u32,
    ) {
        let table = Packed::of(FLOATS[kinds.0], shift, &values(seed, n_rows * columns));
        let ids: Vec<u32> = picks.iter().map(|pick| pick.index(n_rows) as u32).collect();
        let mut out = Packed::unset(FLOATS[kinds.1], shift, ids.len() * columns);
        gather(
            &Pool::new(1), &ids, (n_rows, columns), &float_rows(table.floats()), factor,
            out.floats_mut(),
        );
        let table = table.f64s();
        let expected: Vec<_> = ids
            .iter()
            .flat_map(|id| &table[*id as usize * columns..][..columns])
            .map(|value| f64::from(*value as f32 * factor.unwrap_or(1.0)))
            .collect();
        assert_all_close(&out, &expected, (0.0, 0.0));
    }

    #[test]
    fn rows_of_affine_codes_come_by_id_in_order(
        wide: bool, group_log in 5_u32..8, n_groups in 1_usize..4, kinds in (0_usize..3, 0_usize..3),
        picks in prop::collection::vec(0_u32..9, 1..20), seed: u32,
    ) {
        let (bits, group_size) = (if wide { 8 } else { 4 }, 1 << group_log);
        let (n_rows, columns) = (9, n_groups * group_size);
        let float = FLOATS[kinds.0];
        let codes: Vec<u8> = values(seed, n_rows * columns * bits / 8)
            .into_iter()
            .map(|value| value.to_bits() as u8)
            .collect();
        let scales = values(seed ^ 1, n_rows * n_groups);
        let biases = values(seed ^ 2, n_rows * n_groups);
        let pack = |values: &[f32]| {
            let mut bytes = vec![0; values.len() * float.bytes()];
            for (index, value) in values.iter().enumerate() {
                float.set(&mut bytes, index, *value);
            }
            bytes
        };
        let (scale_bytes, bias_bytes) = (pack(&scales), pack(&biases));
        let read_row = |row: usize, out: &mut [f32]| {
            let table = QuantizedRows {
                codes: &codes,
                scales: &scale_bytes,
                biases: Some(&bias_bytes),
                format: Format::Affine { bits, group_size, float },
                columns,
            };
            table.dequantize(Level::detect(), row, out);
        };
        let mut out = Packed::unset(FLOATS[kinds.1], 1, picks.len() * columns);
        gather(&Pool::new(1), &picks, (n_rows, columns), &read_row, Some(3.0), out.floats_mut());

        let expected: Vec<f64> = picks
            .iter()
            .flat_map(|id| (0..columns).map(move |column| (*id as usize, column)))
            .map(|(row, column)| {
                let index = row * columns + column;
                let code = match bits {
                    4 => codes[index / 2] >> (4 * (index % 2)) & 0xf,
                    _ => codes[index],
                };
                let group = index / group_size;
                let scale = f64::from(float.get(&scale_bytes, group));
                3.0 * (scale * f64::from(code) + f64::from(float.get(&bias_bytes, group)))
            })
            .collect();
        // Two roundings of values up to 3 * (255 * 2 + 2).
        assert_all_close(&out, &expected, (0.0, 3e-4));
    }
}

#[test]
fn shared_rows_equal_the_table() {
    let (n_rows, columns) = (50, 3000);
    let table = values(7, n_rows * columns);
    let ids: Vec<u32> = (0..n_rows as u32).rev().collect();
    let mut out = vec![0.0; table.len()];
    gather(
        &Pool::new(3),
        &ids,
        (n_rows, columns),
        &float_rows(Floats::from(&table[..])),
        None,
        FloatsMut::from(&mut out[..]),
    );
    for (found, expected) in out.chunks(columns).zip(table.chunks(columns).rev()) {
        assert_eq!(found, expected);
    }
}

#[test]
#[should_panic(expected = "< n_rows")]
fn an_id_outside_of_the_table_is_refused() {
    let mut out = [0.0; 4];
    gather(
        &Pool::new(1),
        &[2],
        (2, 4),
        &float_rows(Floats::from(&[0.0; 8][..])),
        None,
        FloatsMut::from(&mut out[..]),
    );
}
