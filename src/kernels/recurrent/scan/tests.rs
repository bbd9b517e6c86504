use std::sync::Arc;

use proptest::prelude::*;

use super::super::state::StateMemory;
use super::super::tests::{floats, lengths, memory, segments, traded};
use super::*;
use crate::kernels::float::Float;
use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};

struct Case {
    shape: ScanShape,
    columns: usize,
    places: [PartPlace; 4],
    rows: Packed,
    /// Biases of times, rates, skips.
    vectors: [Packed; 3],
}

const TIME_FACTOR: f32 = 0.7;
const TIME_LIMITS: [f32; 2] = [0.05, 1.5];
/// Floats in front of the memories.
const FIRST: usize = 5;

impl Case {
    fn new(shape: ScanShape, float: Float, n: usize, seed: u32) -> Case {
        let (heads, groups) = (shape.n_heads(), shape.n_groups);
        let lengths = [
            (shape.head_dim, heads),
            (shape.state_dim, groups),
            (shape.state_dim, groups),
            (1, heads),
        ];
        let columns = lengths.iter().map(|(length, count)| length * count).sum();
        let mut first = 0;
        let places = lengths.map(|(length, count)| {
            first += length * count;
            PartPlace::in_turn(columns, first - length * count, length)
        });
        let vector = |seed, count| Packed::of(float, 1, &values(seed, count));
        Case {
            shape,
            columns,
            places,
            rows: vector(seed, n * columns),
            vectors: [1, 2, 3].map(|other| vector(seed ^ other, heads)),
        }
    }

    fn step(&self, state: usize) -> ScanStep<'_> {
        let [x, keys, queries, times] = self.places.map(|place| HeadParts {
            rows: self.rows.floats(),
            place,
        });
        let [time_biases, rates, skips] = self.vectors.each_ref().map(Packed::floats);
        ScanStep {
            shape: self.shape,
            state,
            x,
            keys,
            queries,
            times,
            time_factor: TIME_FACTOR,
            time_biases,
            time_limits: TIME_LIMITS,
            rates,
            skips,
        }
    }

    /// What a head says of each row, by the definition.
    fn head(&self, n: usize, head: usize, memory: &mut [f64]) -> Vec<Vec<f64>> {
        let shape = &self.shape;
        let all = self.rows.f64s();
        let part = |row: usize, part: usize, index: usize| {
            let place = &self.places[part];
            let first = row * self.columns + place.first + index * place.stride;
            &all[first..first + place.length]
        };
        let group = head / shape.heads_per_group;
        let [biases, rates, skips] = self.vectors.each_ref().map(|vector| vector.f64s()[head]);
        let said = |row: usize| {
            let time = part(row, 3, head)[0] * f64::from(TIME_FACTOR) + biases;
            let limits = TIME_LIMITS.map(f64::from);
            let time = time.exp().ln_1p().clamp(limits[0], limits[1]);
            let decay = (-rates.exp() * time).exp();
            let (key, query) = (part(row, 1, group), part(row, 2, group));
            let x = part(row, 0, head);
            let of_column = |(column, x): (usize, &f64)| {
                let mut sum = skips * x;
                for (index, (key, query)) in key.iter().zip(query).enumerate() {
                    let cell = &mut memory[index * shape.head_dim + column];
                    *cell = *cell * decay + key * time * x;
                    sum += *cell * query;
                }
                sum
            };
            x.iter().enumerate().map(of_column).collect()
        };
        (0..n).map(said).collect()
    }
}

fn shapes() -> impl Strategy<Value = ScanShape> {
    (1_usize..4, 1_usize..7, 1_usize..75, 1_usize..40).prop_map(
        |(n_groups, heads_per_group, head_dim, state_dim)| ScanShape {
            n_groups,
            heads_per_group,
            head_dim,
            state_dim,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn heads_say_what_the_scan_defines(
        shape in shapes(),
        n in prop::sample::select(vec![1_usize, 2, 5, BLOCK_TOKENS + 3]),
        float in prop::sample::select(&FLOATS[..]),
        seed: u32,
    ) {
        let case = Case::new(shape, float, n, seed);
        let mut expected = vec![0.0; n * shape.columns()];
        let mut memories = Vec::new();
        for head in 0..shape.n_heads() {
            let mut memory = vec![0.0; shape.memory()];
            for (row, said) in case.head(n, head, &mut memory).iter().enumerate() {
                let first = row * shape.columns() + head * shape.head_dim;
                expected[first..first + shape.head_dim].copy_from_slice(said);
            }
            memories.extend(memory);
        }
        for level in Level::available() {
            let state = memory(FIRST + shape.state());
            let mut out = Packed::unset(float, 1, n * shape.columns());
            let (step, segments) = (case.step(FIRST), segments(&[0, n], &state));
            // SAFETY: the states are this test's.
            unsafe { selective_scan_at(level, &Pool::new(2), &step, &segments, out.floats_mut()) };
            assert_all_close(&out, &expected, (1e-4, 1e-4));
            let after = Packed::of(Float::F32, 0, &floats(&state)[FIRST..]);
            assert_all_close(&after, &memories, (1e-4, 1e-5));
            prop_assert_eq!(&floats(&state)[..FIRST], &[0.0; FIRST]);
        }
    }

    #[test]
    fn results_do_not_depend_on_how_tokens_are_cut_nor_on_threads(
        shape in shapes(), cuts in lengths(), seed: u32,
    ) {
        let n: usize = cuts.iter().sum();
        let case = Case::new(shape, Float::Bf16, n, seed);
        let run = |n_threads, (segments, state): (Vec<StateSegment>, Arc<StateMemory>)| {
            let mut out = Packed::unset(Float::Bf16, 0, n * shape.columns());
            for segment in segments {
                let (pool, step) = (Pool::new(n_threads), case.step(0));
                // SAFETY: the states are this test's.
                unsafe { selective_scan(&pool, &step, &[segment], out.floats_mut()) };
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
