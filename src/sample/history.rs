//! The last accepted tokens, counted, and what having been used costs a logit.

use std::collections::{HashMap, VecDeque};

use super::candidates::Candidate;
use super::params::SamplerParams;

/// A window over the accepted tokens with the number of times each is in it.
#[derive(Clone, Debug, Default)]
pub struct History {
    window: usize,
    tokens: VecDeque<i32>,
    counts: HashMap<i32, u32>,
}

impl History {
    pub fn new(window: usize) -> Self {
        Self {
            window,
            ..Self::default()
        }
    }

    /// Records `token`; the oldest one leaves a full window.
    pub fn push(&mut self, token: i32) {
        if self.window == 0 {
            return;
        }
        if self.tokens.len() == self.window {
            self.forget_oldest();
        }
        self.tokens.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }

    pub fn clear(&mut self) {
        self.tokens.clear();
        self.counts.clear();
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Lowers the logits of the tokens in the window. `candidates` are in the order of
    /// their ids; tokens that are none of them are ignored.
    pub fn penalize(&self, candidates: &mut [Candidate], params: &SamplerParams) {
        for (&token, &count) in &self.counts {
            if let Some(index) = position(candidates, token) {
                let logit = &mut candidates[index].logit;
                *logit = penalized(*logit, count, params);
            }
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.tokens.pop_front() else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&oldest) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
    }
}

/// As a rule the candidates are all ids from 0 on.
fn position(candidates: &[Candidate], token: i32) -> Option<usize> {
    let index = usize::try_from(token).ok()?;
    match candidates.get(index) {
        Some(candidate) if candidate.id == token => Some(index),
        _ => candidates.binary_search_by_key(&token, |one| one.id).ok(),
    }
}

fn penalized(logit: f32, count: u32, params: &SamplerParams) -> f32 {
    let factor = params.repetition_factor();
    let scaled = if logit < 0.0 {
        logit * factor
    } else {
        logit / factor
    };
    scaled - params.frequency_penalty * count as f32 - params.presence_penalty
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(logits: &[f32]) -> Vec<Candidate> {
        let numbered = (0..).zip(logits);
        numbered
            .map(|(id, &logit)| Candidate::new(id, logit))
            .collect()
    }

    fn penalize(logits: &[f32], accepted: &[i32], params: SamplerParams) -> Vec<f32> {
        let mut history = History::new(params.repetition_window as usize);
        accepted.iter().for_each(|&token| history.push(token));
        let mut candidates = candidates(logits);
        history.penalize(&mut candidates, &params);
        candidates.iter().map(|candidate| candidate.logit).collect()
    }

    #[test]
    fn repetition_penalty_divides_positive_and_multiplies_negative_logits_once() {
        let params = SamplerParams {
            repetition_penalty: 2.0,
            repetition_window: 8,
            ..Default::default()
        };
        let logits = penalize(&[3.0, -3.0, 3.0, 0.0], &[0, 0, 1, 3], params);
        assert_eq!(logits, [1.5, -6.0, 3.0, 0.0]);
    }

    #[test]
    fn frequency_counts_and_presence_does_not() {
        let params = SamplerParams {
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            repetition_window: 8,
            ..Default::default()
        };
        let logits = penalize(&[1.0, 1.0, 1.0], &[0, 0, 0, 1], params);
        assert_eq!(logits, [1.0 - 1.5 - 0.25, 1.0 - 0.5 - 0.25, 1.0]);
    }

    #[test]
    fn tokens_leave_the_window() {
        let params = SamplerParams {
            presence_penalty: 1.0,
            repetition_window: 2,
            ..Default::default()
        };
        let logits = penalize(&[0.0; 4], &[0, 1, 1, 2], params);
        assert_eq!(logits, [0.0, -1.0, -1.0, 0.0]);
    }

    #[test]
    fn ids_outside_the_vocabulary_are_ignored() {
        let params = SamplerParams {
            presence_penalty: 1.0,
            repetition_window: 4,
            ..Default::default()
        };
        assert_eq!(
            penalize(&[0.0, 0.0], &[-1, 2, i32::MAX, 1], params),
            [0.0, -1.0]
        );
    }

    #[test]
    fn tokens_are_found_among_some_candidates() {
        let params = SamplerParams {
            presence_penalty: 1.0,
            repetition_window: 4,
            ..Default::default()
        };
        let mut history = History::new(4);
        [2, 7, 9].into_iter().for_each(|token| history.push(token));
        let mut some = [1, 2, 5, 9].map(|id| Candidate::new(id, 0.0));
        history.penalize(&mut some, &params);
        assert_eq!(some.map(|one| one.logit), [0.0, -1.0, 0.0, -1.0]);
    }

    #[test]
    fn history_stays_within_its_window() {
        let mut history = History::new(3);
        (0..1000).for_each(|token| history.push(token));
        assert_eq!(history.len(), 3);
        assert_eq!(history.counts.len(), 3);
        history.clear();
        assert!(history.is_empty() && history.counts.is_empty());
    }
}
