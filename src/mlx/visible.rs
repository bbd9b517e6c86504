//! [`Visible`]: which cached positions tokens see.

use super::array::Array;
use crate::error::Result;

/// Which cached positions the tokens `start..start + n` of a sequence see.
pub(super) struct Visible {
    start: usize,
    pub n: usize,
    window: Option<usize>,
    /// The first position that any of them sees.
    pub first: usize,
}

impl Visible {
    pub fn new(start: usize, n: usize, window: Option<usize>) -> Self {
        Self {
            start,
            n,
            window,
            first: window.map_or(0, |window| (start + 1).saturating_sub(window)),
        }
    }

    /// What is added to scores `[n, positions from first]`: nothing where a
    /// position is seen.
    pub fn addends(&self) -> Result<Array> {
        let end = self.start + self.n;
        let window = self.window.unwrap_or(end);
        let addend = |query: usize, key: usize| match key <= query && query < key + window {
            true => 0.0,
            false => f32::NEG_INFINITY,
        };
        let addends: Vec<f32> = (self.start..end)
            .flat_map(|query| (self.first..end).map(move |key| addend(query, key)))
            .collect();
        Array::from_f32(&addends, &[self.n as i32, (end - self.first) as i32])
    }

    /// A mask `[n, positions from first]` where being causal doesn't say it all.
    pub fn mask(&self) -> Result<Option<Array>> {
        let end = self.start + self.n;
        let Some(window) = self.window.filter(|window| self.n > 1 && end > *window) else {
            return Ok(None);
        };
        let mask: Vec<bool> = (self.start..end)
            .flat_map(|query| {
                (self.first..end).map(move |key| key <= query && query < key + window)
            })
            .collect();
        let shape = [self.n as i32, (end - self.first) as i32];
        Array::from_bool(&mask, &shape).map(Some)
    }
}
