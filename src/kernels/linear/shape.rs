//! What products are of, as far as scratch memory depends on it.

use super::arithmetic::Activations;
use crate::kernels::float::Float;
use crate::kernels::quantized::Format;

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
    pub float: Float,
    pub activations: Activations,
    pub weights: Stored,
}
