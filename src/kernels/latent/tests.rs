use proptest::prelude::*;

use super::*;
use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};

/// `matrix` is `[n_heads * rows_per_head, columns]`.
fn product(matrices: &HeadMatrices<'_>, matrix: &[f64], head: usize, x: &[f64]) -> Vec<f64> {
    let first = head * matrices.rows_per_head + matrices.rows.start;
    let at = |row: usize, column: usize| matrix[(first + row) * matrices.columns + column];
    match matrices.by_input {
        true => (0..matrices.columns)
            .map(|column| (0..x.len()).map(|row| x[row] * at(row, column)).sum())
            .collect(),
        false => (0..matrices.rows.len())
            .map(|row| (0..x.len()).map(|column| x[column] * at(row, column)).sum())
            .collect(),
    }
}

fn shapes() -> impl Strategy<Value = LatentShape> {
    (
        1_usize..4,
        1_usize..40,
        1_usize..9,
        1_usize..70,
        1_usize..40,
    )
        .prop_map(|(n_heads, plain_dim, pairs, rank, value_dim)| LatentShape {
            n_heads,
            plain_dim,
            rotated_dim: 2 * pairs,
            rank,
            value_dim,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn queries_are_absorbed_and_values_expanded_by_each_heads_matrix(
        shape in shapes(),
        n in prop::sample::select(vec![0_usize, 1, 3, PIECE_ROWS, PIECE_ROWS + 5]),
        // Rows of others, in front of and behind a head's.
        (before, behind) in (0_usize..3, 0_usize..3),
        by_input: bool,
        float in prop::sample::select(&FLOATS[..]),
        weights in prop::sample::select(&FLOATS[..]),
        shift in 0_usize..4,
    ) {
        let pool = Pool::new(2);
        let stored = |inputs: usize, outputs: usize| match by_input {
            true => (inputs, outputs),
            false => (outputs, inputs),
        };
        let matrix = |seed, rows: usize, columns: usize| {
            let count = shape.n_heads * (before + rows + behind) * columns;
            Packed::of(weights, shift, &values(seed, count))
        };
        let heads = |rows: usize, columns: usize, packed| HeadMatrices {
            matrix: Matrix::Float(packed),
            columns,
            rows_per_head: before + rows + behind,
            rows: before..before + rows,
            by_input,
        };
        let (key_dim, rank, rotated) = (shape.key_dim(), shape.rank, shape.rotated_dim);

        let (rows, columns) = stored(shape.plain_dim, rank);
        let keys = matrix(1, rows, columns);
        let matrices = heads(rows, columns, keys.floats());
        let queries = Packed::of(float, shift, &values(2, n * shape.query_columns()));
        let latents = Packed::of(float, shift, &values(3, n * key_dim));
        let weight = Packed::of(float, 0, &values(4, rank));
        let norm = Norm::Rms { weight: Some(weight.floats()), offset: 0.0, eps: 0.1 };
        let mut out = Packed::unset(float, 1, n * shape.row_columns());
        let given = LatentRows { queries: queries.floats(), latents: latents.floats(), norm };
        absorb(&pool, &shape, &given, &matrices, out.floats_mut());
        let mut expected = Vec::new();
        let width = shape.plain_dim + rotated;
        let (keys, queries, latents) = (keys.f64s(), queries.f64s(), latents.f64s());
        for row in 0..n {
            for head in 0..shape.n_heads {
                let query = &queries[(row * shape.n_heads + head) * width..][..width];
                expected.extend(&query[shape.plain_dim..]);
                expected.extend(product(&matrices, &keys, head, &query[..shape.plain_dim]));
            }
            let (vector, rest) = latents[row * key_dim..][..key_dim].split_at(rank);
            expected.extend(rest);
            let square = vector.iter().map(|x| x * x).sum::<f64>() / rank as f64;
            let factor = (square + 0.1).powf(-0.5);
            expected.extend(vector.iter().zip(weight.f64s()).map(|(x, w)| x * w * factor));
        }
        assert_all_close(&out, &expected, (1e-4, 1e-4));

        let (rows, columns) = stored(rank, shape.value_dim);
        let values_of = matrix(5, rows, columns);
        let matrices = heads(rows, columns, values_of.floats());
        let seen = Packed::of(float, shift, &values(6, n * shape.n_heads * rank));
        let mut out = Packed::unset(float, 1, n * shape.n_heads * shape.value_dim);
        expand(&pool, &shape, seen.floats(), &matrices, out.floats_mut());
        let (matrix, seen) = (values_of.f64s(), seen.f64s());
        let expected: Vec<f64> = seen
            .chunks(rank)
            .enumerate()
            .flat_map(|(index, x)| product(&matrices, &matrix, index % shape.n_heads, x))
            .collect();
        assert_all_close(&out, &expected, (1e-4, 1e-4));
    }
}
