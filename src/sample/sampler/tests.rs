use proptest::prelude::*;

use super::*;
use crate::error::Status;

fn sampler(params: SamplerParams) -> Sampler {
    Sampler::new(params).unwrap()
}

fn warm(seed: u64) -> SamplerParams {
    SamplerParams {
        temperature: 1.0,
        seed,
        ..Default::default()
    }
}

fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let scaled: Vec<f64> = logits
        .iter()
        .map(|&logit| f64::from(logit) / f64::from(temperature))
        .collect();
    let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scaled.iter().map(|x| (x - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Hugging Face's chain written down naively: which ids may be drawn.
fn allowed_ids(logits: &[f32], params: &SamplerParams) -> Vec<usize> {
    let probabilities = softmax(logits, params.temperature);
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if params.top_k > 0 {
        ids.truncate(params.top_k as usize);
    }
    if params.top_p > 0.0 && params.top_p < 1.0 {
        let total: f64 = ids.iter().map(|&id| probabilities[id]).sum();
        let mut before = 0.0;
        ids.retain(|&id| {
            let kept = before < f64::from(params.top_p) * total;
            before += probabilities[id];
            kept
        });
    }
    let best = probabilities[ids[0]];
    ids.retain(|&id| probabilities[id] >= f64::from(params.min_p) * best);
    ids.sort_unstable();
    ids
}

fn ids_left(sampler: &Sampler) -> Vec<usize> {
    let mut ids: Vec<usize> = sampler.candidates.iter().map(|c| c.id as usize).collect();
    ids.sort_unstable();
    ids
}

/// Pearson's statistic of `draws` draws against the expected probabilities.
fn chi_square(sampler: &mut Sampler, logits: &[f32], expected: &[f64], draws: usize) -> f64 {
    let mut counts = vec![0usize; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(Logits::F32(logits)).unwrap() as usize] += 1;
    }
    let bins = counts.iter().zip(expected);
    bins.map(|(&count, probability)| {
        let mean = probability * draws as f64;
        (count as f64 - mean).powi(2) / mean
    })
    .sum()
}

#[test]
fn draws_follow_the_softmax() {
    let logits = [1.0, -0.5, 2.0, 0.0, 0.3, -1.2, 1.7, 0.9];
    // The 99.9% quantile of chi-square with 7 degrees of freedom.
    const LIMIT: f64 = 24.32;
    for temperature in [0.5, 1.0, 2.0] {
        let mut sampler = sampler(SamplerParams {
            temperature,
            ..warm(11)
        });
        let expected = softmax(&logits, temperature);
        let statistic = chi_square(&mut sampler, &logits, &expected, 50_000);
        assert!(
            statistic < LIMIT,
            "temperature {temperature}: chi-square {statistic}"
        );
    }
}

#[test]
fn draws_after_truncation_follow_the_renormalised_softmax() {
    let logits = [1.0, -0.5, 2.0, 0.0, 0.3];
    let mut sampler = sampler(SamplerParams {
        top_k: 3,
        ..warm(5)
    });
    let kept = softmax(&[1.0, 2.0, 0.3], 1.0);
    let mut counts = [0f64; 5];
    for _ in 0..50_000 {
        counts[sampler.sample(Logits::F32(&logits)).unwrap() as usize] += 1.0;
    }
    assert_eq!((counts[1], counts[3]), (0.0, 0.0));
    for (count, probability) in [counts[0], counts[2], counts[4]].into_iter().zip(kept) {
        assert!((count / 50_000.0 - probability).abs() < 0.01);
    }
}

#[test]
fn greedy_takes_the_first_of_equal_logits() {
    let mut sampler = sampler(SamplerParams::default());
    let logits = [0.0, 3.0, 3.0, -1.0];
    assert_eq!(sampler.sample(Logits::F32(&logits)).unwrap(), 1);
    assert_eq!(sampler.sample(Logits::F32(&[-0.0, 0.0])).unwrap(), 0);
}

#[test]
fn top_k_of_one_agrees_with_greedy_on_ties() {
    let params = SamplerParams {
        top_k: 1,
        ..warm(3)
    };
    for logits in [[2.0, 2.0, 1.0], [-0.0, 0.0, 0.0]] {
        let token = sampler(params.clone()).sample(Logits::F32(&logits));
        assert_eq!(token.unwrap(), 0);
    }
}

#[test]
fn greedy_obeys_penalties() {
    let mut sampler = sampler(SamplerParams {
        presence_penalty: 2.0,
        repetition_window: 4,
        ..Default::default()
    });
    let logits = Logits::F32(&[1.0, 2.0, 0.5]);
    assert_eq!(sampler.sample(logits).unwrap(), 1);
    sampler.accept(1).unwrap();
    assert_eq!(sampler.sample(logits).unwrap(), 0);
    sampler.reset();
    assert_eq!(sampler.sample(logits).unwrap(), 1);
}

#[test]
fn half_precision_rows_give_the_same_tokens() {
    let values = [0.5f32, -1.0, 1.5, 0.25, 1.0];
    let as_f16 = values.map(f16::from_f32);
    let as_bf16 = values.map(bf16::from_f32);
    let mut samplers = [(); 3].map(|()| sampler(warm(9)));
    for _ in 0..100 {
        let expected = samplers[0].sample(Logits::F32(&values)).unwrap();
        assert_eq!(samplers[1].sample(Logits::F16(&as_f16)).unwrap(), expected);
        assert_eq!(
            samplers[2].sample(Logits::Bf16(&as_bf16)).unwrap(),
            expected
        );
    }
}

/// Pins the stream of tokens: a change here changes what users get for a seed.
/// The values agree with the same stages written in Python.
#[test]
fn seed_fixes_the_tokens_for_good() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 * 0.05).collect();
    let params = SamplerParams {
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        seed: 42,
        ..Default::default()
    };
    let mut sampler = sampler(params);
    let mut draw = || -> Vec<i32> {
        let row = Logits::F32(&logits);
        (0..8).map(|_| sampler.sample(row).unwrap()).collect()
    };
    assert_eq!(draw(), SEED_42);
    assert_ne!(draw(), SEED_42);
    sampler.reset();
    assert_eq!(sampler.sample(Logits::F32(&logits)).unwrap(), SEED_42[0]);
}

const SEED_42: [i32; 8] = [232, 363, 494, 423, 726, 898, 696, 120];

#[test]
fn clone_continues_the_same_stream() {
    let logits = [0.0; 64];
    let mut original = sampler(warm(1));
    original.sample(Logits::F32(&logits)).unwrap();
    let mut copy = original.clone();
    for _ in 0..20 {
        let row = Logits::F32(&logits);
        assert_eq!(original.sample(row).unwrap(), copy.sample(row).unwrap());
    }
}

#[test]
fn nan_is_never_chosen() {
    let logits = [f32::NAN, 0.0, f32::NAN, 0.0];
    for params in [SamplerParams::default(), warm(2)] {
        let mut sampler = sampler(params);
        for _ in 0..50 {
            let token = sampler.sample(Logits::F32(&logits)).unwrap();
            assert!(token == 1 || token == 3);
        }
    }
}

#[test]
fn infinite_logit_wins() {
    let logits = [0.0, f32::INFINITY, 1.0, f32::INFINITY];
    assert_eq!(
        sampler(SamplerParams::default())
            .sample(Logits::F32(&logits))
            .unwrap(),
        1
    );
    let mut warm = sampler(warm(4));
    let drawn: std::collections::BTreeSet<i32> = (0..50)
        .map(|_| warm.sample(Logits::F32(&logits)).unwrap())
        .collect();
    assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn row_without_a_choice_is_a_backend_error() {
    for row in [[f32::NAN; 3], [f32::NEG_INFINITY; 3]] {
        for params in [SamplerParams::default(), warm(0)] {
            let error = sampler(params).sample(Logits::F32(&row)).unwrap_err();
            assert_eq!(error.status(), Status::Backend);
        }
    }
    let error = sampler(warm(0)).sample(Logits::F32(&[])).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
}

#[test]
fn buffers_stop_growing_after_the_first_token() {
    let logits: Vec<f32> = (0..5000).map(|i| (i % 97) as f32 * 0.1).collect();
    let mut sampler = sampler(SamplerParams {
        top_p: 0.9,
        presence_penalty: 0.1,
        repetition_window: 64,
        ..warm(6)
    });
    let first = sampler.sample(Logits::F32(&logits)).unwrap();
    sampler.accept(first).unwrap();
    let buffer = (sampler.candidates.as_ptr(), sampler.candidates.capacity());
    for _ in 0..200 {
        let token = sampler.sample(Logits::F32(&logits)).unwrap();
        sampler.accept(token).unwrap();
    }
    assert_eq!(
        (sampler.candidates.as_ptr(), sampler.candidates.capacity()),
        buffer
    );
}

fn rows() -> impl Strategy<Value = Vec<f32>> {
    // A coarse grid makes ties frequent.
    prop::collection::vec((-40i32..40).prop_map(|step| step as f32 * 0.25), 1..600)
}

proptest! {
    #[test]
    fn stages_keep_what_a_naive_reference_keeps(
        logits in rows(),
        temperature in 0.2f32..3.0,
        top_k in 0u32..80,
        // Off the grid of sums that rounding could decide either way.
        top_p in prop_oneof![Just(0.0f32), Just(1.0), 0.0501f32..0.9899],
        min_p in prop_oneof![Just(0.0f32), 0.0011f32..0.9],
        seed: u64,
    ) {
        let params = SamplerParams { temperature, top_k, top_p, min_p, seed, ..Default::default() };
        let allowed = allowed_ids(&logits, &params);
        let mut sampler = sampler(params);
        let token = sampler.sample(Logits::F32(&logits)).unwrap();
        prop_assert_eq!(ids_left(&sampler), allowed.clone());
        prop_assert!(allowed.contains(&(token as usize)));
    }

    #[test]
    fn any_bits_give_a_token_or_an_error(
        bits in prop::collection::vec(any::<u32>(), 0..200),
        temperature in 0.0f32..=100.0,
        top_k: u32,
        top_p in 0.0f32..=1.0,
        min_p in 0.0f32..=1.0,
        repetition_penalty in 0.0f32..=100.0,
        presence_penalty in -100.0f32..=100.0,
        frequency_penalty in -100.0f32..=100.0,
        repetition_window in 0u32..100,
        accepted in prop::collection::vec(any::<i32>(), 0..50),
    ) {
        let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let mut sampler = sampler(SamplerParams {
            temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
            frequency_penalty, repetition_window, seed: 0,
        });
        accepted.into_iter().for_each(|token| sampler.accept(token).unwrap());
        if let Ok(token) = sampler.sample(Logits::F32(&logits)) {
            prop_assert!(!logits[token as usize].is_nan());
        }
    }
}
