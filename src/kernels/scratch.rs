//! How much memory kernels take beside their inputs and outputs.

use super::attention::{attention_scratch_bytes, attention_thread_bytes};
use super::experts::mixture_scratch_bytes;
use super::float::Float;
use super::linear::{MAX_DOT_ROWS, dots_scratch_bytes, panel_bytes, thread_scratch_bytes};
use super::quantized::Format;

/// How a matrix is stored, as far as scratch memory depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Float(Float),
    /// Codes that are whole numbers.
    Codes(Format),
    /// Anything that becomes float32 first.
    Other,
}

/// Rows of activations that are multiplied with weights of some kind.
#[derive(Clone, Copy, Debug)]
pub struct ProductShape {
    pub n_rows: usize,
    pub columns: usize,
    pub activations: Float,
    pub weights: Stored,
}

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
    pub float: Float,
}

/// Rows that go through some of many experts.
#[derive(Clone, Copy, Debug)]
pub struct MixtureShape {
    pub n_rows: usize,
    pub columns: usize,
    /// Of the largest expert.
    pub intermediate: usize,
    pub n_experts: usize,
    /// Of each row.
    pub n_chosen: usize,
    pub float: Float,
}

impl ProductShape {
    /// Of this product: activations as the weights want them. A pool keeps as much
    /// for the next product.
    pub fn scratch_bytes(&self) -> usize {
        match self.n_rows > MAX_DOT_ROWS {
            true => panel_bytes(self),
            false => dots_scratch_bytes(self),
        }
    }

    /// Of each thread, until it ends.
    pub fn thread_bytes(&self) -> usize {
        match self.n_rows > MAX_DOT_ROWS {
            true => thread_scratch_bytes(self),
            false => 4 * self.columns,
        }
    }
}

impl AttentionShape {
    /// Partial results over parts of the positions.
    pub fn scratch_bytes(&self) -> usize {
        attention_scratch_bytes(self)
    }

    /// Of each thread, until it ends.
    pub fn thread_bytes(&self) -> usize {
        attention_thread_bytes(self)
    }
}

impl MixtureShape {
    /// Sums, and what the largest group of rows takes: all of them, if they choose
    /// the same expert.
    pub fn scratch_bytes(&self) -> usize {
        mixture_scratch_bytes(self)
    }
}
