//! Selective state spaces as a node of the graph, see `kernels/recurrent/scan`. What MLX's
//! operations do instead is in `stock_memories`.

use std::sync::Arc;

use super::array::{Array, Dtype};
use super::inputs::Inputs;
use super::ops::Ops;
use super::primitive::kernel;
use super::recurrent::StepStates;
use crate::error::Result;
use crate::kernels::{self, Float, FloatsMut, HeadParts, PartPlace, ScanShape, ScanStep};

/// A layer of heads whose memories fade.
pub struct ScanLayer<'a> {
    pub shape: ScanShape,
    /// In what was projected: a number for each head.
    pub times: PartPlace,
    pub time_factor: f32,
    /// `[n_heads]`
    pub time_biases: &'a Array,
    pub time_limits: [f32; 2],
    /// `[n_heads]`
    pub rates: &'a Array,
    /// `[n_heads]`
    pub skips: &'a Array,
}

impl Ops {
    /// What heads say of the rows of all sequences, `[rows, n_heads * head_dim]` in
    /// float32; the layer's second states go on to behind the rows. `mixed` are inputs,
    /// keys and queries, `rows` has the times.
    ///
    /// # Panics
    /// Without kernels.
    pub fn scan_in_states(
        &self,
        (mixed, rows): (&Array, &Array),
        scan: &ScanLayer<'_>,
        layer: usize,
        states: &Arc<StepStates>,
    ) -> Result<Array> {
        let pool = self.pool().expect("our kernels are in use").clone();
        let states = states.clone();
        let mut inputs = Inputs::default();
        let (mixed_input, rows_input) = (inputs.floats(mixed)?, inputs.floats(rows)?);
        let biases = inputs.floats(scan.time_biases)?;
        let (rates, skips) = (inputs.floats(scan.rates)?, inputs.floats(scan.skips)?);
        let &ScanLayer {
            shape,
            times,
            time_factor,
            time_limits,
            ..
        } = scan;
        let made = [rows.dim(0), shape.columns() as i32];
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let [x, keys, queries] = shape
                .mixed_places()
                .map(|place| HeadParts::new(mixed_input.of(inputs), place));
            let step = ScanStep {
                shape,
                state: states.first(layer, 1),
                x,
                keys,
                queries,
                times: HeadParts::new(rows_input.of(inputs), times),
                time_factor,
                time_biases: biases.of(inputs),
                time_limits,
                rates: rates.of(inputs),
                skips: skips.of(inputs),
            };
            let out = FloatsMut::new(Float::F32, out);
            // SAFETY: as for the convolutions of `recurrent`.
            unsafe { kernels::selective_scan(&pool, &step, states.segments(), out) };
        };
        kernel(self.stream(), inputs.as_slice(), &made, Dtype::F32, body)
    }
}
