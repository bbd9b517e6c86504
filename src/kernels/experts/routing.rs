//! [`Routing`]: which experts a row goes through, and how much each counts.

/// How a router's logits become choices (Shazeer et al., 2017): the largest
/// `n_chosen`, by their softmax over all experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    pub n_chosen: usize,
    /// The shares of the chosen are divided by their sum, which is a softmax over
    /// the chosen alone.
    pub normalized: bool,
}

/// An expert of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub expert: usize,
    pub share: f32,
}

impl Routing {
    /// The choices for one row's logits, the largest first; of equal ones the
    /// first expert.
    ///
    /// # Panics
    /// If there are fewer experts than are chosen.
    pub fn choose(&self, logits: &[f32]) -> Vec<Choice> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let larger = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        order.select_nth_unstable_by(self.n_chosen - 1, larger);
        order.truncate(self.n_chosen);
        order.sort_unstable_by(larger);
        let largest = logits[order[0]];
        let weight = |expert: &usize| (logits[*expert] - largest).exp();
        let total: f32 = match self.normalized {
            true => order.iter().map(weight).sum(),
            false => (0..logits.len()).map(|expert| weight(&expert)).sum(),
        };
        order
            .iter()
            .map(|expert| Choice {
                expert: *expert,
                share: weight(expert) / total,
            })
            .collect()
    }
}
