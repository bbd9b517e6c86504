//! The gated delta rule as a node of the graph, see `kernels/recurrent/delta`. What MLX's
//! operations do instead is in `stock_memories`.

use std::sync::Arc;

use super::array::Array;
use super::head_parts::{GateLayer, GroupNormInput};
use super::inputs::{Inputs, float_of};
use super::ops::Ops;
use super::primitive::kernel;
use super::recurrent::StepStates;
use crate::error::Result;
use crate::kernels::{self, DeltaShape, DeltaStep, FloatsMut, GatedNorm, HeadParts, PartPlace};

/// A layer of heads that correct what they recall.
pub struct DeltaLayer<'a> {
    pub shape: DeltaShape,
    /// In what was projected, by key head.
    pub alphas: PartPlace,
    pub betas: PartPlace,
    /// `[n_value_heads]`
    pub rates: &'a Array,
    /// `[n_value_heads]`
    pub biases: &'a Array,
    /// Of what value heads say; its parts are those of value heads.
    pub gate: GateLayer<'a>,
}

impl Ops {
    /// What heads say of the rows of all sequences, `[rows, n_value_heads * value_dim]`;
    /// the layer's second states go on to behind the rows. `mixed` are queries, keys and
    /// values, `rows` has everything else.
    ///
    /// # Panics
    /// Without kernels.
    pub fn recall_in_states(
        &self,
        (mixed, rows): (&Array, &Array),
        delta: &DeltaLayer<'_>,
        layer: usize,
        states: &Arc<StepStates>,
    ) -> Result<Array> {
        let pool = self.pool().expect("our kernels are in use").clone();
        let states = states.clone();
        let mut inputs = Inputs::default();
        let (mixed_input, rows_input) = (inputs.floats(mixed)?, inputs.floats(rows)?);
        let (rates, biases) = (inputs.floats(delta.rates)?, inputs.floats(delta.biases)?);
        let norm = delta.gate.norm.as_ref();
        let norm = norm.map(|norm| GroupNormInput::new(&mut inputs, norm));
        let (norm, gate) = (norm.transpose()?, delta.gate.gate);
        let (shape, alphas, betas) = (delta.shape, delta.alphas, delta.betas);
        let gates = delta.gate.place;
        let (dtype, float) = (rows.dtype()?, float_of(rows)?);
        let made = [rows.dim(0), shape.columns() as i32];
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let [queries, keys, values] = shape
                .mixed_places()
                .map(|place| HeadParts::new(mixed_input.of(inputs), place));
            let [gates, alphas, betas] =
                [gates, alphas, betas].map(|place| HeadParts::new(rows_input.of(inputs), place));
            let step = DeltaStep {
                shape,
                state: states.first(layer, 1),
                queries,
                keys,
                values,
                gates,
                alphas,
                betas,
                rates: rates.of(inputs),
                biases: biases.of(inputs),
                norm: GatedNorm {
                    gate,
                    norm: norm.map(|norm| norm.of(inputs)),
                },
            };
            let out = FloatsMut::new(float, out);
            // SAFETY: as for the convolutions of `recurrent`.
            unsafe { kernels::gated_delta(&pool, &step, states.segments(), out) };
        };
        kernel(self.stream(), inputs.as_slice(), &made, dtype, body)
    }
}
