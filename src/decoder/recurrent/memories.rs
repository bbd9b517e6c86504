//! [`MemoriesShape`]: heads with memories behind a convolution, as far as states and scratch
//! memory depend on them.

#[derive(Clone, Copy, Debug)]
pub struct MemoriesShape {
    /// Tokens that the convolution looks at.
    pub n_taps: usize,
    /// What it takes and gives of a token.
    pub mixed_columns: usize,
    pub n_heads: usize,
    /// Of one head's memory.
    pub rows: usize,
    pub columns: usize,
}

impl MemoriesShape {
    /// What the convolution has seen, and the memories.
    pub fn state_shapes(&self) -> Vec<Vec<usize>> {
        vec![
            vec![self.n_taps - 1, self.mixed_columns],
            vec![self.n_heads, self.rows, self.columns],
        ]
    }

    /// Of a token: the convolution's inputs with those before them, what is weighted by
    /// tap, activations, and the parts of heads; or these, what the heads said, its norm
    /// and its gates.
    pub fn stock_floats(&self) -> usize {
        let said = self.n_heads * self.columns;
        let convolving = (6 + self.n_taps) * self.mixed_columns;
        convolving.max(self.mixed_columns + 8 * said)
    }

    /// Of the memories of all heads.
    pub fn floats(&self) -> usize {
        self.n_heads * self.rows * self.columns
    }
}
