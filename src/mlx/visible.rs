//! [`Visible`]: which cached positions tokens see.

use super::array::Array;
use crate::error::Result;
use crate::kernels::Reach;

/// Which cached positions the tokens `start..start + n` of a sequence see.
pub(super) struct Visible {
    start: usize,
    pub n: usize,
    reach: Reach,
    /// The first position that any of them sees.
    pub first: usize,
}

impl Visible {
    pub fn new(start: usize, n: usize, reach: Reach) -> Self {
        Self {
            start,
            n,
            reach,
            first: reach.first(start),
        }
    }

    /// What is added to scores `[n, positions from first]`: nothing where a
    /// position is seen.
    pub fn addends(&self) -> Result<Array> {
        let addend = |is_seen| if is_seen { 0.0 } else { f32::NEG_INFINITY };
        let addends: Vec<f32> = self.seen().map(addend).collect();
        Array::from_f32(&addends, &self.shape())
    }

    /// A mask `[n, positions from first]` where being causal doesn't say it all.
    pub fn mask(&self) -> Result<Option<Array>> {
        if self.reach.first(self.end() - 1) == self.first {
            return Ok(None);
        }
        let mask: Vec<bool> = self.seen().collect();
        Array::from_bool(&mask, &self.shape()).map(Some)
    }

    /// Row by row, whether each position is seen.
    fn seen(&self) -> impl Iterator<Item = bool> {
        let (keys, reach) = (self.first..self.end(), self.reach);
        (self.start..self.end()).flat_map(move |query| {
            let seen = reach.first(query)..=query;
            keys.clone().map(move |key| seen.contains(&key))
        })
    }

    fn shape(&self) -> [i32; 2] {
        [self.n as i32, (self.end() - self.first) as i32]
    }

    fn end(&self) -> usize {
        self.start + self.n
    }
}
