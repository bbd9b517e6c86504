//! Speculative sampling (Leviathan et al., 2023, <https://arxiv.org/abs/2211.17192>):
//! tokens that somebody else proposed are accepted or replaced so that what comes out
//! has the distribution that sampling without proposals has.

use super::candidates::{self, Candidate};

/// A token that might come next, and how it was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub token: i32,
    /// The probabilities that it was drawn with, by ascending id; empty: it was sure
    /// to be proposed.
    shares: Vec<(i32, f64)>,
}

impl Proposal {
    /// Chosen without chance, as by looking it up.
    pub fn certain(token: i32) -> Proposal {
        Proposal {
            token,
            shares: Vec::new(),
        }
    }

    /// Drawn from weighed candidates.
    pub fn drawn(token: i32, from: &[Candidate]) -> Proposal {
        let total = candidates::total_weight(from);
        let share = |one: &Candidate| (one.id, f64::from(one.weight) / total);
        let mut shares: Vec<_> = from.iter().map(share).collect();
        shares.sort_unstable_by_key(|(id, _)| *id);
        Proposal { token, shares }
    }

    /// The probability with which `token` would have been proposed.
    fn share(&self, token: i32) -> f64 {
        if self.shares.is_empty() {
            return f64::from(u8::from(token == self.token));
        }
        let found = self.shares.binary_search_by_key(&token, |(id, _)| *id);
        found.map_or(0.0, |index| self.shares[index].1)
    }
}

/// The proposed token with the probability `min(1, p / q)`, where the candidates' is
/// `p` and the proposal's is `q`; else one drawn from what of `p` is above `q`.
/// `units` are evenly distributed in [0, 1). `None` without candidates.
pub fn accept_or_replace(
    candidates: &mut [Candidate],
    proposal: &Proposal,
    units: [f64; 2],
) -> Option<i32> {
    let total = candidates::total_weight(candidates);
    let proposed = candidates.iter().find(|one| one.id == proposal.token);
    let weight = proposed.map_or(0.0, |one| f64::from(one.weight));
    if units[0] * proposal.share(proposal.token) * total < weight {
        return Some(proposal.token);
    }
    for one in &mut *candidates {
        let above = f64::from(one.weight) - proposal.share(one.id) * total;
        one.weight = above.max(0.0) as f32;
    }
    // Nothing is left where both distributions are the same but for rounding.
    if total > 0.0 && candidates::total_weight(candidates) == 0.0 {
        return Some(proposal.token);
    }
    candidates::pick(candidates, units[1]).map(|picked| picked.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::rng::Rng;

    const N_DRAWS: usize = 200_000;

    fn weighed(weights: &[f32]) -> Vec<Candidate> {
        let numbered = (0..).zip(weights);
        numbered
            .map(|(id, &weight)| Candidate {
                weight,
                ..Candidate::new(id, 0.0)
            })
            .collect()
    }

    /// Half of the sum of differences between how often tokens come and how often
    /// they should.
    fn total_variation(
        p: &[f32],
        q: &[f32],
        rule: impl Fn(&mut [Candidate], &Proposal, [f64; 2]) -> i32,
    ) -> f64 {
        let mut rng = Rng::from_seed(5);
        let mut counts = vec![0_u32; p.len()];
        for _ in 0..N_DRAWS {
            let from = weighed(q);
            let token = candidates::pick(&from, rng.next_unit())
                .expect("weights")
                .id;
            let proposal = match q.iter().filter(|weight| **weight > 0.0).count() {
                1 => Proposal::certain(token),
                _ => Proposal::drawn(token, &from),
            };
            let units = [rng.next_unit(), rng.next_unit()];
            counts[rule(&mut weighed(p), &proposal, units) as usize] += 1;
        }
        let total: f32 = p.iter().sum();
        let difference = |(count, p): (&u32, &f32)| {
            (f64::from(*count) / N_DRAWS as f64 - f64::from(p / total)).abs()
        };
        counts.iter().zip(p).map(difference).sum::<f64>() / 2.0
    }

    /// Weights of the candidates and of what proposes.
    const PAIRS: [([f32; 5], [f32; 5]); 4] = [
        ([0.4, 0.3, 0.2, 0.1, 0.0], [0.1, 0.2, 0.3, 0.2, 0.2]),
        ([1.0, 0.5, 0.1, 0.0, 0.0], [0.0, 0.0, 0.3, 0.3, 0.4]),
        ([0.2, 0.2, 0.2, 0.2, 0.2], [1.0, 0.0, 0.0, 0.0, 0.0]),
        ([1.0, 0.9, 0.8, 0.3, 0.1], [1.0, 0.9, 0.8, 0.3, 0.1]),
    ];

    #[test]
    fn what_comes_out_has_the_distribution_of_the_candidates() {
        for (p, q) in PAIRS {
            let rule = |candidates: &mut [Candidate], proposal: &Proposal, units| {
                accept_or_replace(candidates, proposal, units).expect("candidates")
            };
            let distance = total_variation(&p, &q, rule);
            assert!(distance < 0.006, "{p:?} from {q:?}: {distance}");
        }
    }

    #[test]
    fn drawing_again_from_all_candidates_would_be_noticed() {
        let (p, q) = PAIRS[0];
        let wrong = |candidates: &mut [Candidate], proposal: &Proposal, units: [f64; 2]| {
            let total = candidates::total_weight(candidates);
            let p = f64::from(candidates[proposal.token as usize].weight) / total;
            match units[0] * proposal.share(proposal.token) < p {
                true => proposal.token,
                false => candidates::pick(candidates, units[1]).expect("weights").id,
            }
        };
        assert!(total_variation(&p, &q, wrong) > 0.03);
    }

    #[test]
    fn equal_distributions_accept_everything() {
        let (p, _) = PAIRS[3];
        let mut rng = Rng::from_seed(1);
        for token in 0..5 {
            let proposal = Proposal::drawn(token, &weighed(&p));
            let units = [rng.next_unit() * 0.999_999, 0.0];
            let found = accept_or_replace(&mut weighed(&p), &proposal, units);
            assert_eq!(found, Some(token));
        }
    }

    #[test]
    fn a_token_that_is_no_candidate_is_replaced() {
        let proposal = Proposal::certain(7);
        let mut candidates = weighed(&[0.0, 1.0]);
        assert_eq!(
            accept_or_replace(&mut candidates, &proposal, [0.0, 0.5]),
            Some(1)
        );
        assert_eq!(accept_or_replace(&mut [], &proposal, [0.0, 0.5]), None);
    }
}
