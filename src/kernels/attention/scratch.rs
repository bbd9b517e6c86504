//! How much memory attention takes.

use super::{PADDING, plan, tile};

/// The queries of some sequences' tokens.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Of all sequences.
    pub n_tokens: usize,
    pub n_sequences: usize,
    /// That a token sees at most.
    pub n_positions: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
}

impl AttentionShape {
    /// Partial results of as many pieces as there can be, however the tokens are
    /// distributed among the sequences.
    pub fn scratch_bytes(&self) -> usize {
        let group = self.group();
        let longest = plan::uncut_rows(self.n_kv_heads) / group;
        let (mut of_each, mut of_all) = (0, 0);
        for n_tokens in 1..=longest.min(self.n_tokens) {
            let rows = plan::partial_rows(
                n_tokens * group,
                self.n_kv_heads,
                2 * self.head_dim,
                self.n_positions,
            );
            of_each = of_each.max(rows);
            of_all = of_all.max(rows.saturating_mul(self.n_tokens).div_ceil(n_tokens));
        }
        let rows = of_all.min(of_each.saturating_mul(self.n_sequences));
        rows.saturating_mul(self.partial_bytes())
    }

    /// What a thread keeps for its pieces, and the result of one that is not cut.
    pub fn thread_bytes(&self) -> usize {
        let rows = (self.n_tokens * self.group()).min(plan::TILE_ROWS);
        let columns = self.head_dim.next_multiple_of(PADDING);
        let tile = tile::buffer_floats(rows, columns);
        tile * size_of::<f32>() + rows * self.partial_bytes()
    }

    /// Query heads of a key-value head.
    fn group(&self) -> usize {
        (self.n_heads / self.n_kv_heads.max(1)).max(1)
    }

    /// Of a row.
    fn partial_bytes(&self) -> usize {
        (PADDING + self.head_dim.next_multiple_of(PADDING)) * size_of::<f32>()
    }
}
