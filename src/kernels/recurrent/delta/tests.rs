use std::sync::Arc;

use proptest::prelude::*;

use super::super::gate::GroupNorm;
use super::super::state::StateMemory;
use super::super::tests::{floats, lengths, memory, segments, traded};
use super::*;
use crate::kernels::activation::{Activation, Gate};
use crate::kernels::float::Float;
use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};

/// Rows with all parts of each key head next to each other, or all heads of each part.
fn places(shape: &DeltaShape, by_head: bool) -> ([PartPlace; 6], usize) {
    let lengths = [
        shape.key_dim,
        shape.key_dim,
        shape.group(),
        shape.group(),
        shape.values_per_key,
        shape.values_per_key,
    ];
    let of_head: usize = lengths.iter().sum();
    let columns = shape.n_key_heads * of_head + 1;
    let mut first = 1;
    let places = lengths.map(|length| {
        let own = first;
        first += if by_head {
            length
        } else {
            length * shape.n_key_heads
        };
        PartPlace {
            columns,
            first: own,
            stride: if by_head { of_head } else { length },
            length,
        }
    });
    (places, columns)
}

struct Case {
    shape: DeltaShape,
    places: [PartPlace; 6],
    columns: usize,
    rows: Packed,
    /// Rates, biases, norm's weights.
    vectors: [Packed; 3],
}

const EPS: f32 = 1e-5;

impl Case {
    fn new(shape: DeltaShape, by_head: bool, float: Float, n: usize, seed: u32) -> Case {
        let (places, columns) = places(&shape, by_head);
        let heads = shape.n_value_heads();
        let vector = |seed, count| Packed::of(float, 1, &values(seed, count));
        Case {
            shape,
            places,
            columns,
            rows: vector(seed, n * columns),
            vectors: [
                vector(seed ^ 1, heads),
                vector(seed ^ 2, heads),
                vector(seed ^ 3, shape.value_dim),
            ],
        }
    }

    fn step(&self, state: usize) -> DeltaStep<'_> {
        let [queries, keys, values, gates, alphas, betas] = self.places.map(|place| HeadParts {
            rows: self.rows.floats(),
            place,
        });
        let [rates, biases, weight] = self.vectors.each_ref().map(Packed::floats);
        DeltaStep {
            shape: self.shape,
            state,
            queries,
            keys,
            values,
            gates,
            alphas,
            betas,
            rates,
            biases,
            norm: GatedNorm {
                gate: Gate::Times(Activation::Silu),
                norm: Some(GroupNorm {
                    weight,
                    eps: EPS,
                    n_groups: 1,
                    is_before_gate: true,
                }),
            },
        }
    }

    /// What one value head says of some rows, by the definition.
    fn head(&self, rows: Range<usize>, head: usize, memory: &mut [f64]) -> Vec<Vec<f64>> {
        let shape = &self.shape;
        let (group, value) = (head / shape.values_per_key, head % shape.values_per_key);
        let all = self.rows.f64s();
        let part = |row: usize, part: usize| {
            let place = &self.places[part];
            let first = row * self.columns + place.first + group * place.stride;
            all[first..first + place.length].to_vec()
        };
        let unit = |x: Vec<f64>, factor: f64| -> Vec<f64> {
            let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
            x.iter().map(|x| x / length * factor).collect()
        };
        let [rates, biases, weights] = self.vectors.each_ref().map(Packed::f64s);
        let (key_dim, value_dim) = (shape.key_dim, shape.value_dim);
        let recall = |memory: &[f64], key: &[f64], column: usize| -> f64 {
            (0..key_dim)
                .map(|row| memory[row * value_dim + column] * key[row])
                .sum()
        };
        rows.map(|row| {
            let query = unit(part(row, 0), (key_dim as f64).powf(-0.5));
            let key = unit(part(row, 1), 1.0);
            let own = value * value_dim..(value + 1) * value_dim;
            let (values, gates) = (
                part(row, 2)[own.clone()].to_vec(),
                part(row, 3)[own].to_vec(),
            );
            let softplus = (part(row, 4)[value] + biases[head]).exp().ln_1p();
            let most = if shape.doubles_beta { 2.0 } else { 1.0 };
            let beta = most / (1.0 + (-part(row, 5)[value]).exp());
            let decay = (-rates[head].exp() * softplus).exp();
            memory.iter_mut().for_each(|x| *x *= decay);
            for (column, value) in values.iter().enumerate() {
                let delta = (value - recall(memory, &key, column)) * beta;
                for (row, key) in key.iter().enumerate() {
                    memory[row * value_dim + column] += key * delta;
                }
            }
            let said: Vec<_> = (0..value_dim)
                .map(|column| recall(memory, &query, column))
                .collect();
            let mean = said.iter().map(|x| x * x).sum::<f64>() / value_dim as f64;
            let factor = (mean + f64::from(EPS)).powf(-0.5);
            let gated = said.iter().zip(gates).zip(&weights);
            gated
                .map(|((x, gate), weight)| x * factor * weight * gate / (1.0 + (-gate).exp()))
                .collect()
        })
        .collect()
    }
}

/// Floats in front of the memories.
const FIRST: usize = 3;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn heads_say_what_the_rule_defines(
        (n_key_heads, key_dim, values_per_key, value_dim) in (1_usize..3, 1_usize..40, 1_usize..4, 1_usize..75),
        doubles_beta: bool, by_head: bool,
        n in prop::sample::select(vec![1_usize, 2, 5, BLOCK_TOKENS + 3]),
        float in prop::sample::select(&FLOATS[..]),
        seed: u32,
    ) {
        let shape = DeltaShape { n_key_heads, key_dim, values_per_key, value_dim, doubles_beta };
        let case = Case::new(shape, by_head, float, n, seed);
        let mut expected = vec![0.0; n * shape.columns()];
        let mut memories = Vec::new();
        for head in 0..shape.n_value_heads() {
            let mut memory = vec![0.0; shape.memory()];
            let said = case.head(0..n, head, &mut memory);
            for (row, said) in said.iter().enumerate() {
                let first = row * shape.columns() + head * value_dim;
                expected[first..first + value_dim].copy_from_slice(said);
            }
            memories.extend(memory);
        }
        for level in Level::available() {
            let state = memory(FIRST + shape.state());
            let mut out = Packed::unset(Float::F32, 1, n * shape.columns());
            let step = case.step(FIRST);
            let segments = segments(&[0, n], &state);
            // SAFETY: the states are this test's.
            unsafe { gated_delta_at(level, &Pool::new(2), &step, &segments, out.floats_mut()) };
            // Norms of small values magnify what is lost in sums.
            assert_all_close(&out, &expected, (1e-4, 1e-3));
            let after = Packed::of(Float::F32, 0, &floats(&state)[FIRST..]);
            assert_all_close(&after, &memories, (1e-4, 1e-5));
            prop_assert_eq!(&floats(&state)[..FIRST], &[0.0; FIRST]);
        }
    }

    #[test]
    fn results_do_not_depend_on_how_tokens_are_cut_nor_on_threads(
        (n_key_heads, key_dim, values_per_key, value_dim) in (1_usize..4, 1_usize..20, 1_usize..3, 1_usize..40),
        cuts in lengths(),
        seed: u32,
    ) {
        let shape = DeltaShape { n_key_heads, key_dim, values_per_key, value_dim, doubles_beta: false };
        let n: usize = cuts.iter().sum();
        let case = Case::new(shape, true, Float::Bf16, n, seed);
        let run = |n_threads, (segments, state): (Vec<StateSegment>, Arc<StateMemory>)| {
            let mut out = Packed::unset(Float::Bf16, 0, n * shape.columns());
            for segment in segments {
                let step = case.step(0);
                // SAFETY: the states are this test's.
                unsafe { gated_delta(&Pool::new(n_threads), &step, &[segment], out.floats_mut()) };
            }
            (out.f64s(), floats(&state).iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        };
        let mut firsts = vec![0];
        firsts.extend(cuts.iter().scan(0, |sum, cut| { *sum += cut; Some(*sum) }));
        let in_place = |cuts: &[usize]| {
            let state = memory(shape.state());
            (segments(cuts, &state), state)
        };
        let whole = run(1, in_place(&[0, n]));
        prop_assert_eq!(&run(3, in_place(&[0, n])), &whole);
        prop_assert_eq!(&run(2, in_place(&firsts)), &whole);
        prop_assert_eq!(&run(2, traded(&firsts, shape.state())), &whole);
    }
}

#[test]
fn sequences_of_a_step_do_not_see_each_other() {
    let shape = DeltaShape {
        n_key_heads: 2,
        key_dim: 8,
        values_per_key: 2,
        value_dim: 24,
        doubles_beta: false,
    };
    let case = Case::new(shape, false, Float::F32, 7, 5);
    let state = || memory(shape.state());
    let run = |cuts: &[&[usize]]| {
        let mut out = Packed::unset(Float::F32, 0, 7 * shape.columns());
        let segments: Vec<_> = cuts
            .iter()
            .flat_map(|cut| segments(cut, &state()))
            .collect();
        // SAFETY: the states are this test's.
        unsafe { gated_delta(&Pool::new(2), &case.step(0), &segments, out.floats_mut()) };
        out.f64s()
    };
    let together = run(&[&[0, 3], &[3, 4], &[4, 7]]);
    for cut in [[0, 3], [3, 4], [4, 7]] {
        let own = cut[0] * shape.columns()..cut[1] * shape.columns();
        assert_eq!(run(&[&cut])[own.clone()], together[own]);
    }
}
