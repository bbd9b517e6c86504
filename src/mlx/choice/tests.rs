use proptest::prelude::*;

use super::*;
use crate::mlx::{CpuOps, Device, Stream};
use crate::sample::candidates::{self, Candidate};
use crate::sample::{Logits, Sampler, SamplerParams};

/// How far, as a share of all weights, float32 may move what a draw is compared with.
const ROUNDING: f64 = 2e-6;

fn ops() -> Ops {
    let stream = Stream::acquire(Device::Cpu).expect("a stream");
    Ops::new(stream, CpuOps::Stock, 1)
}

fn chosen(ops: &Ops, row: &[f32], choice: Choice) -> i32 {
    let logits = Array::from_f32(row, &[1, row.len() as i32]).expect("an array");
    let token = ops.chosen_token(&logits, &choice).expect("nodes");
    ops.stream().eval([&token]).expect("evaluated");
    token.as_i32().expect("a token")[0]
}

fn draw_of(params: &SamplerParams, unit: f64) -> Choice {
    Choice::Drawn(Draw {
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        unit,
    })
}

fn warm(temperature: f32) -> SamplerParams {
    SamplerParams {
        temperature,
        ..SamplerParams::default()
    }
}

/// The weighed candidates behind top-k.
fn weighed(row: &[f32], params: &SamplerParams) -> Vec<Candidate> {
    let mut all: Vec<_> = (0..)
        .zip(row)
        .map(|(id, &logit)| Candidate::new(id, logit))
        .filter(|one| one.logit > f32::NEG_INFINITY)
        .collect();
    candidates::keep_top_k(&mut all, params.top_k as usize, row.len());
    candidates::weigh(&mut all, params.temperature);
    all
}

/// What the CPU's sampler draws from.
fn narrowed(row: &[f32], params: &SamplerParams) -> Vec<Candidate> {
    let mut left = weighed(row, params);
    candidates::keep_top_p(&mut left, params.top_p);
    candidates::keep_min_p(&mut left, params.min_p);
    left
}

/// Whether rounding could let top-p or min-p keep another candidate.
fn is_near_a_limit(row: &[f32], params: &SamplerParams) -> bool {
    let mut all = weighed(row, params);
    let total = candidates::total_weight(&all);
    all.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let mut reached = 0.0;
    all.iter().any(|one| {
        reached += f64::from(one.weight);
        let from_p = (reached / total - f64::from(params.top_p)).abs();
        let from_min_p = (one.weight / params.min_p - 1.0).abs();
        (params.top_p > 0.0 && from_p < ROUNDING) || from_min_p < 1e-5
    })
}

/// Each candidate with the middle of its share, if that is wide enough to be certain.
fn middles(left: &[Candidate]) -> Vec<(i32, f64)> {
    let total = candidates::total_weight(left);
    let mut reached = 0.0;
    let middle = |one: &Candidate| {
        let share = f64::from(one.weight) / total;
        reached += share;
        (share > 2.0 * ROUNDING).then_some((one.id, reached - share / 2.0))
    };
    left.iter().filter_map(middle).collect()
}

/// Between which shares a candidate is.
fn interval(left: &[Candidate], id: i32) -> (f64, f64) {
    let total = candidates::total_weight(left);
    let mut reached = 0.0;
    for one in left {
        let share = f64::from(one.weight) / total;
        if one.id == id {
            return (reached, reached + share);
        }
        reached += share;
    }
    panic!("token {id} is no candidate");
}

fn noise(n: usize, spread: f32) -> Vec<f32> {
    let step = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) % 10_007;
    (0..n)
        .map(|i| spread * (step(i) as f32 / 10_007.0 - 0.5))
        .collect()
}

#[test]
fn the_largest_is_that_of_the_sampler() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let ops = ops();
    let mut sampler = Sampler::new(SamplerParams::default()).expect("greedy");
    for row in [
        vec![0.0, 3.0, -1.0, 3.0],
        vec![-5.0, -5.0],
        vec![nan, 1.0, nan],
        vec![-inf, -7.0, nan],
        vec![1.0, inf, inf],
        (0..1000).map(|i| ((i * 7919) % 997) as f32).collect(),
    ] {
        let expected = sampler.sample(Logits::F32(&row)).expect("a token");
        assert_eq!(chosen(&ops, &row, Choice::Largest), expected, "{row:?}");
    }
}

#[test]
fn a_row_without_a_token_has_none() {
    let ops = ops();
    let choices = [
        Choice::Largest,
        draw_of(&warm(1.0), 0.3),
        draw_of(
            &SamplerParams {
                top_k: 1,
                top_p: 0.5,
                min_p: 0.5,
                ..warm(0.1)
            },
            0.9,
        ),
    ];
    for choice in choices {
        let row = [f32::NAN, f32::NEG_INFINITY, f32::NAN];
        assert_eq!(chosen(&ops, &row, choice), NO_TOKEN);
    }
}

/// What seeds give: thousands of draws, the same tokens as the CPU's sampler chooses.
#[test]
fn a_seed_gives_the_tokens_of_the_sampler() {
    let ops = ops();
    let settings = [
        (1.0, 0, 0.0, 0.0),
        (0.7, 40, 0.0, 0.0),
        (1.3, 0, 0.9, 0.0),
        (1.0, 0, 0.0, 0.02),
        (0.8, 50, 0.95, 0.05),
        (5.0, 500, 0.999, 0.0),
    ];
    let rows = [noise(300, 20.0), noise(2000, 8.0)];
    let (mut n_draws, mut n_moved) = (0, 0);
    for (row, (temperature, top_k, top_p, min_p)) in
        rows.iter().flat_map(|row| settings.map(|set| (row, set)))
    {
        let params = SamplerParams {
            temperature,
            top_k,
            top_p,
            min_p,
            seed: 7,
            ..SamplerParams::default()
        };
        assert!(!is_near_a_limit(row, &params), "{params:?}");
        let left = narrowed(row, &params);
        let mut sampler = Sampler::new(params.clone()).expect("valid");
        for unit in sampler.upcoming_units().take(400) {
            let expected = sampler.sample(Logits::F32(row)).expect("a token");
            let found = chosen(&ops, row, draw_of(&params, unit));
            n_draws += 1;
            n_moved += usize::from(found != expected);
            let (from, to) = interval(&left, found);
            let is_near = unit > from - ROUNDING && unit < to + ROUNDING;
            assert!(found == expected || is_near, "{unit} in {from}..{to}");
        }
    }
    assert!(n_draws > 4000 && n_moved < 3, "{n_moved} of {n_draws}");
}

/// Float32 sums would give everything behind the first half to the same few tokens.
#[test]
fn unlikely_tokens_keep_their_share_of_a_large_vocabulary() {
    let ops = ops();
    let mut row = vec![0.0; 200_000];
    row[0] = 20.0;
    let params = warm(1.0);
    let left = narrowed(&row, &params);
    for id in [1, 1000, 77_777, 199_999] {
        let (from, to) = interval(&left, id);
        assert!(to - from < 2.1e-9, "{from}..{to}");
        let found = chosen(&ops, &row, draw_of(&params, (from + to) / 2.0));
        assert!((found - id).abs() < 400, "{found} for {id}");
    }
}

#[test]
fn equally_likely_tokens_come_in_the_order_of_their_ids() {
    let ops = ops();
    let row = [1.0; 2000];
    let params = SamplerParams {
        top_p: 0.75,
        ..warm(1.0)
    };
    for (unit, expected) in [(0.0, 0), (0.5, 750), (0.9999, 1499)] {
        assert_eq!(chosen(&ops, &row, draw_of(&params, unit)), expected);
    }
    let zeros = [-0.0, 0.0, -0.0, -1.0];
    let first = SamplerParams {
        top_k: 1,
        ..warm(1.0)
    };
    assert_eq!(chosen(&ops, &zeros, draw_of(&first, 0.99)), 0);
}

#[test]
fn the_last_share_belongs_to_the_last_token_with_a_weight() {
    let ops = ops();
    let row = [1.0, 0.0, f32::NEG_INFINITY, f32::NAN];
    let unit = 1.0 - f64::EPSILON / 2.0;
    for params in [
        warm(1.0),
        SamplerParams {
            top_k: 3,
            ..warm(1.0)
        },
    ] {
        assert_eq!(chosen(&ops, &row, draw_of(&params, unit)), 1);
    }
}

#[test]
fn infinitely_large_logits_share_everything() {
    let ops = ops();
    let row = [0.0, f32::INFINITY, 1.0, f32::INFINITY];
    for params in [
        warm(0.7),
        warm(1e-45),
        SamplerParams {
            top_k: 3,
            top_p: 0.9,
            ..warm(1.0)
        },
    ] {
        assert_eq!(chosen(&ops, &row, draw_of(&params, 0.25)), 1);
        assert_eq!(chosen(&ops, &row, draw_of(&params, 0.75)), 3);
    }
}

fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        // A coarse grid makes ties frequent.
        40 => (-40i32..40).prop_map(|step| step as f32 * 0.25),
        1 => Just(f32::NAN),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(-0.0),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_candidate_is_where_the_sampler_has_it(
        row in prop::collection::vec(logit(), 1..300),
        temperature in 0.2f32..3.0,
        top_k in 0u32..80,
        top_p in prop_oneof![Just(0.0f32), Just(1.0), 0.0501f32..0.9899],
        min_p in prop_oneof![Just(0.0f32), 0.0011f32..0.9],
    ) {
        let params = SamplerParams { top_k, top_p, min_p, ..warm(temperature) };
        prop_assume!(row.iter().any(|logit| *logit > f32::NEG_INFINITY));
        prop_assume!(!is_near_a_limit(&row, &params));
        let ops = ops();
        for (id, unit) in middles(&narrowed(&row, &params)).into_iter().take(12) {
            prop_assert_eq!(chosen(&ops, &row, draw_of(&params, unit)), id);
        }
    }

    #[test]
    fn any_bits_give_a_token_that_may_be_chosen(
        bits in prop::collection::vec(any::<u32>(), 1..200),
        temperature in prop_oneof![Just(f32::from_bits(1)), Just(100.0), 0.001f32..100.0],
        top_k: u32,
        top_p in 0.0f32..=1.0,
        min_p in 0.0f32..=1.0,
        unit in 0.0f64..1.0,
    ) {
        let row: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let params = SamplerParams { top_k, top_p, min_p, ..warm(temperature) };
        let may_be = |token: i32| row[token as usize] > f32::NEG_INFINITY;
        match chosen(&ops(), &row, draw_of(&params, unit)) {
            NO_TOKEN => prop_assert!((0..row.len() as i32).all(|token| !may_be(token))),
            token => prop_assert!(may_be(token)),
        }
    }
}
