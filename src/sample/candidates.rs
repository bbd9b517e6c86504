//! The tokens still in the running, and the stages that narrow them down.

use std::cmp::Ordering;

/// A token, its logit, and from [`weigh`] on its probability relative to the
/// most likely token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub id: i32,
    pub logit: f32,
    pub weight: f32,
}

impl Candidate {
    pub fn new(id: i32, logit: f32) -> Self {
        Self {
            id,
            logit,
            weight: 0.0,
        }
    }
}

/// Largest logit first, lowest id among equals. A total order without NaN.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    let by_logit = b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal);
    by_logit.then(a.id.cmp(&b.id))
}

/// Keeps the `k` first by rank, in that order; 0, and as many as the vocabulary has or
/// more, leave all as they are. The candidates come in the order of their ids.
///
/// One pass: what isn't above the k-th best so far is passed over, and the few
/// others gather at the front, where they are thinned out now and then.
pub fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize, vocab_size: usize) {
    const ROOM: usize = 1024;
    if k == 0 || k >= vocab_size {
        return;
    }
    let mut n_gathered = 0;
    let mut bar = f32::NEG_INFINITY;
    for index in 0..candidates.len() {
        let candidate = candidates[index];
        if candidate.logit <= bar {
            continue;
        }
        candidates[n_gathered] = candidate;
        n_gathered += 1;
        if n_gathered == k.saturating_add(ROOM) {
            candidates[..n_gathered].select_nth_unstable_by(k - 1, by_rank);
            bar = candidates[k - 1].logit;
            n_gathered = k;
        }
    }
    candidates.truncate(n_gathered);
    if k < n_gathered {
        candidates.select_nth_unstable_by(k - 1, by_rank);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(by_rank);
}

/// Sets every weight to `exp((logit - largest) / temperature)`.
///
/// Infinitely large logits share the whole probability among themselves.
pub fn weigh(candidates: &mut [Candidate], temperature: f32) {
    let largest = candidates
        .iter()
        .map(|candidate| candidate.logit)
        .fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::INFINITY {
        for candidate in candidates {
            candidate.weight = f32::from(u8::from(candidate.logit == largest));
        }
        return;
    }
    let scale = 1.0 / f64::from(temperature);
    for candidate in candidates {
        let below = f64::from(candidate.logit) - f64::from(largest);
        candidate.weight = exp_of_non_positive(below * scale) as f32;
    }
}

/// Keeps the most likely candidates, by rank, until the ones before reach the
/// share `p` of the whole. 0 and 1 leave everything as it is.
///
/// Only as much is sorted as is looked at: a growing head of the ranking.
pub fn keep_top_p(candidates: &mut Vec<Candidate>, p: f32) {
    const FIRST_HEAD: usize = 256;
    if p == 0.0 || p >= 1.0 {
        return;
    }
    let wanted = total_weight(candidates) * f64::from(p);
    let mut reached = 0.0;
    let mut n_sorted = 0;
    while n_sorted < candidates.len() {
        let head = sort_next_head(candidates, n_sorted, n_sorted.max(FIRST_HEAD));
        for (offset, candidate) in head.iter().enumerate() {
            reached += f64::from(candidate.weight);
            if reached >= wanted {
                candidates.truncate(n_sorted + offset + 1);
                return;
            }
        }
        n_sorted += head.len();
    }
}

/// Sorts the `len` best candidates from `start` on into place; what is before
/// `start` is already there.
fn sort_next_head(candidates: &mut [Candidate], start: usize, len: usize) -> &[Candidate] {
    let rest = &mut candidates[start..];
    let len = len.min(rest.len());
    if len < rest.len() {
        rest.select_nth_unstable_by(len - 1, by_rank);
    }
    let head = &mut rest[..len];
    head.sort_unstable_by(by_rank);
    head
}

/// Drops what is less likely than `min_p` times the most likely candidate.
pub fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    if min_p > 0.0 {
        candidates.retain(|candidate| candidate.weight >= min_p);
    }
}

pub fn total_weight(candidates: &[Candidate]) -> f64 {
    candidates
        .iter()
        .map(|candidate| f64::from(candidate.weight))
        .sum()
}

/// The candidate at the share `unit`, in [0, 1), of the whole weight.
pub fn pick(candidates: &[Candidate], unit: f64) -> Option<Candidate> {
    let target = total_weight(candidates) * unit;
    let mut reached = 0.0;
    candidates
        .iter()
        .find(|candidate| {
            reached += f64::from(candidate.weight);
            reached > target
        })
        .or(candidates.last())
        .copied()
}

/// `e^x` for x <= 0, with a relative error of 1e-11: `f32` keeps 6e-8.
///
/// The platform's `exp` differs from system to system in the last bit, which is
/// enough to turn a draw: this one uses basic operations only. x = n ln 2 + r
/// with |r| <= ln 2 / 2, then the Taylor series of e^r, then a shift by n.
fn exp_of_non_positive(x: f64) -> f64 {
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // Zero as an f32, and still a normal f64.
    let x = x.max(-700.0);
    // Casts round toward zero, so this is the nearest integer.
    let n = (x * std::f64::consts::LOG2_E - 0.5) as i32;
    let r = (x - f64::from(n) * LN_2_HIGH) - f64::from(n) * LN_2_LOW;
    let series = INVERSE_FACTORIALS
        .iter()
        .rev()
        .fold(0.0, |sum, coefficient| sum * r + coefficient);
    series * f64::from_bits(((n + 1023) as u64) << 52)
}

/// 1/k! for k from 0 to 9.
const INVERSE_FACTORIALS: [f64; 10] = {
    let mut values = [1.0; 10];
    let mut k = 1;
    while k < values.len() {
        values[k] = values[k - 1] / k as f64;
        k += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_platform() {
        for step in 0..200_000 {
            let x = -f64::from(step) * 0.003_499;
            let (ours, theirs) = (exp_of_non_positive(x), x.exp());
            let error = (ours - theirs).abs() / theirs;
            assert!(error < 1e-11, "exp({x}) = {ours}, not {theirs}");
        }
        assert_eq!(exp_of_non_positive(0.0), 1.0);
        assert_eq!(exp_of_non_positive(f64::MIN) as f32, 0.0);
    }

    #[test]
    fn infinite_logits_share_everything() {
        let mut candidates = [0.0, f32::INFINITY, 5.0, f32::INFINITY]
            .map(|logit| Candidate::new(0, logit))
            .to_vec();
        weigh(&mut candidates, 0.7);
        let weights: Vec<f32> = candidates.iter().map(|c| c.weight).collect();
        assert_eq!(weights, [0.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn top_k_agrees_with_sorting_everything() {
        let logit = |id: i32| ((id * 7919) % 4001) as f32;
        for k in [1, 2, 40, 1024, 1025, 4999] {
            let mut kept: Vec<Candidate> =
                (0..5000).map(|id| Candidate::new(id, logit(id))).collect();
            let mut sorted = kept.clone();
            sorted.sort_by(by_rank);
            keep_top_k(&mut kept, k, 5000);
            assert_eq!(kept, sorted[..k]);
        }
    }

    #[test]
    fn top_k_ranks_what_is_there_but_not_a_whole_vocabulary() {
        let some: Vec<Candidate> = (0..4).map(|id| Candidate::new(id, id as f32)).collect();
        let ids = |k, vocab_size| {
            let mut kept = some.clone();
            keep_top_k(&mut kept, k, vocab_size);
            kept.iter().map(|one| one.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(4, 9), [3, 2, 1, 0]);
        assert_eq!(ids(8, 9), [3, 2, 1, 0]);
        assert_eq!(ids(9, 9), [0, 1, 2, 3]);
    }

    #[test]
    fn top_p_looks_beyond_its_first_head() {
        let mut candidates: Vec<Candidate> = (0..2000).map(|id| Candidate::new(id, 1.0)).collect();
        weigh(&mut candidates, 1.0);
        keep_top_p(&mut candidates, 0.75);
        assert_eq!(candidates.len(), 1500);
        assert!(candidates.windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    #[test]
    fn pick_never_takes_a_candidate_without_weight() {
        let mut candidates: Vec<Candidate> = (0..3).map(|id| Candidate::new(id, 0.0)).collect();
        candidates[1].weight = 1.0;
        for unit in [0.0, 0.5, 1.0 - f64::EPSILON] {
            assert_eq!(pick(&candidates, unit).unwrap().id, 1);
        }
    }
}
