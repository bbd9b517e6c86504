//! [`Arithmetic`]: how exactly rows of activations are multiplied, and whether one
//! depends on how many there are.

/// As what activations are multiplied with codes. Float32 ones always stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// 15 bits; 8 bits where several rows are bfloat16.
    #[default]
    Auto,
    /// 8 bits, but 15 where weights are in groups of 16, which are there for exactness.
    EightBits,
}

/// What products do with rows of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arithmetic {
    pub activations: Activations,
    /// Each row is computed as if it was the only one, to the last bit. Meant for few
    /// rows: for many it is slower.
    pub rows_apart: bool,
}
