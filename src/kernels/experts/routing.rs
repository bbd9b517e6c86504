//! [`Routing`]: which experts a row goes through, and how much each counts.

/// How a router's logits become choices (Shazeer et al., 2017): the largest
/// `n_chosen`, by their scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    pub scores: Scores,
    pub n_chosen: usize,
    pub groups: Option<Groups>,
    /// The shares of the chosen are divided by their sum.
    pub normalized: bool,
    pub shares: Shares,
    /// Of all shares.
    pub scale: f32,
}

/// What a chosen expert's share is a factor of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shares {
    OfResults,
    /// Of what goes into an expert without biases (Llama 4).
    OfInputs,
}

impl Shares {
    /// The factors of inputs and of results.
    pub fn factors(self, share: f32) -> (f32, f32) {
        match self {
            Shares::OfResults => (1.0, share),
            Shares::OfInputs => (share, 1.0),
        }
    }
}

/// What a logit is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scores {
    /// Over all experts.
    Softmax,
    Sigmoid,
    /// Phi-3.5-MoE's (Liu et al., 2024): one expert after the other, each with its share
    /// of a softmax over those left that are within `2 * jitter` of it, relatively.
    Nearest {
        jitter: f32,
    },
}

/// Experts in groups of equal size, of which only the best are considered
/// (DeepSeek-AI, 2024).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    pub n: usize,
    pub n_chosen: usize,
    /// A group is worth the sum of so many of its best experts' scores: 1 or 2.
    pub n_best: usize,
}

/// An expert of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub expert: usize,
    pub share: f32,
}

impl Routing {
    /// The `n_chosen` largest of a softmax.
    pub fn softmax(n_chosen: usize, normalized: bool) -> Routing {
        Routing {
            scores: Scores::Softmax,
            n_chosen,
            groups: None,
            normalized,
            shares: Shares::OfResults,
            scale: 1.0,
        }
    }

    /// The choices for one row's logits, the largest first; of equal ones the
    /// first expert. `corrections` of scores count for being chosen only.
    ///
    /// # Panics
    /// If there are fewer experts than are chosen.
    pub fn choose(&self, logits: &[f32], corrections: Option<&[f32]>) -> Vec<Choice> {
        let scores = match self.scores {
            Scores::Softmax => softmax(logits),
            Scores::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Scores::Nearest { jitter } => return self.choose_nearest(logits, jitter),
        };
        let mut ranks = scores.clone();
        for (rank, correction) in ranks.iter_mut().zip(corrections.unwrap_or_default()) {
            *rank += correction;
        }
        let mut order = match self.groups {
            Some(groups) => groups.members(&ranks),
            None => (0..logits.len()).collect(),
        };
        // What is too small for a score has its order nevertheless.
        let rank = |expert: usize| (ranks[expert], logits[expert]);
        let larger = |a: &usize, b: &usize| {
            let (a_rank, b_rank) = (rank(*a), rank(*b));
            let by_score = b_rank.0.total_cmp(&a_rank.0);
            by_score.then(b_rank.1.total_cmp(&a_rank.1)).then(a.cmp(b))
        };
        order.select_nth_unstable_by(self.n_chosen - 1, larger);
        order.truncate(self.n_chosen);
        order.sort_unstable_by(larger);
        let total: f32 = match self.normalized {
            true => order.iter().map(|expert| scores[*expert]).sum(),
            false => 1.0,
        };
        let choice = |expert| Choice {
            expert,
            share: self.scale * scores[expert] / total,
        };
        order.into_iter().map(choice).collect()
    }

    fn choose_nearest(&self, logits: &[f32], jitter: f32) -> Vec<Choice> {
        let mut left: Vec<usize> = (0..logits.len()).collect();
        let mut choose = || {
            let larger = |a: &usize, b: &usize| match logits[*b] > logits[*a] {
                true => *b,
                false => *a,
            };
            let expert = left.iter().copied().reduce(|a, b| larger(&a, &b))?;
            let largest = logits[expert];
            let is_near = |logit: f32| (largest - logit) / logit.abs().max(largest) <= 2.0 * jitter;
            let near = left.iter().map(|expert| logits[*expert]);
            let near = near.filter(|logit| is_near(*logit));
            let total: f32 = near.map(|logit| (logit - largest).exp()).sum();
            left.retain(|other| *other != expert);
            Some(Choice {
                expert,
                share: self.scale / total,
            })
        };
        (0..self.n_chosen).map_while(|_| choose()).collect()
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights = logits.iter().map(|logit| (logit - largest).exp());
    let mut weights: Vec<f32> = weights.collect();
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
    weights
}

impl Groups {
    /// The experts of the best groups.
    fn members(&self, ranks: &[f32]) -> Vec<usize> {
        let size = ranks.len() / self.n;
        let worth = |group: usize| {
            let mut ranks = ranks[group * size..(group + 1) * size].to_vec();
            ranks.sort_unstable_by(|a, b| b.total_cmp(a));
            ranks.iter().take(self.n_best).sum::<f32>()
        };
        let worths: Vec<f32> = (0..self.n).map(worth).collect();
        let mut order: Vec<usize> = (0..self.n).collect();
        order.sort_by(|a, b| worths[*b].total_cmp(&worths[*a]));
        order.truncate(self.n_chosen);
        let experts = |group| group * size..(group + 1) * size;
        order.into_iter().flat_map(experts).collect()
    }
}
