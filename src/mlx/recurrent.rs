//! Mixers with states, as nodes of the graph: our kernels. What MLX's operations do
//! instead is in `stock_recurrent`.

use std::sync::Arc;

use super::array::Array;
use super::inputs::{Inputs, float_of};
use super::ops::Ops;
use super::primitive::kernel;
use crate::error::Result;
use crate::kernels::{self, Activation, FloatsMut, ShortConv, StateLayout, StateSegment};

/// The states of a step's sequences, as our kernels see them.
pub struct StepStates {
    layout: Arc<StateLayout>,
    segments: Vec<StateSegment>,
}

impl StepStates {
    /// While a graph with nodes of these is evaluated, what the segments write belongs to
    /// it, and nobody writes what they go on from.
    pub(crate) fn new(layout: Arc<StateLayout>, segments: Vec<StateSegment>) -> StepStates {
        StepStates { layout, segments }
    }

    /// Where a part of a layer's states begins.
    pub(super) fn first(&self, layer: usize, part: usize) -> usize {
        self.layout.layers()[layer][part].first
    }

    pub(super) fn segments(&self) -> &[StateSegment] {
        &self.segments
    }
}

/// A causal convolution of each channel with itself over a few tokens. Inputs are columns
/// of rows that have others too.
#[derive(Clone, Copy)]
pub struct ConvLayer<'a> {
    pub n_channels: usize,
    /// The first column of the inputs.
    pub input: usize,
    /// The first columns of what inputs and outputs are multiplied with.
    pub gates: Option<[usize; 2]>,
    /// `[n_channels, n_taps]`, the token itself last.
    pub weight: &'a Array,
    /// `[n_channels]`
    pub bias: Option<&'a Array>,
    /// Of what was summed up.
    pub activation: Option<Activation>,
}

impl Ops {
    /// Convolves the rows of all sequences, `[rows, columns]` to `[rows, n_channels]`, and
    /// leaves in the layer's first state `[n_taps - 1, n_channels]` of each what comes
    /// next will see.
    ///
    /// # Panics
    /// Without kernels.
    pub fn convolve_in_states(
        &self,
        rows: &Array,
        conv: &ConvLayer<'_>,
        layer: usize,
        states: &Arc<StepStates>,
    ) -> Result<Array> {
        let pool = self.pool().expect("our kernels are in use").clone();
        let states = states.clone();
        let mut inputs = Inputs::default();
        let (x, weight) = (inputs.floats(rows)?, inputs.floats(conv.weight)?);
        let bias = conv.bias.map(|bias| inputs.floats(bias)).transpose()?;
        let &ConvLayer {
            n_channels,
            input,
            gates,
            activation,
            ..
        } = conv;
        let columns = rows.dim(1) as usize;
        let state = states.first(layer, 0);
        let (dtype, float) = (rows.dtype()?, float_of(rows)?);
        let made = [rows.dim(0), n_channels as i32];
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let conv = ShortConv {
                rows: x.of(inputs),
                columns,
                n_channels,
                input,
                gates,
                weight: weight.of(inputs),
                bias: bias.map(|bias| bias.of(inputs)),
                activation,
                state,
            };
            let out = FloatsMut::new(float, out);
            // SAFETY: kernels of a context run one after the other, under the exclusive
            // borrow of the context that has the sequences. What is written there is held
            // by nobody else, and each layer has parts of its own.
            unsafe { kernels::short_conv(&pool, &conv, &states.segments, out) };
        };
        kernel(self.stream(), inputs.as_slice(), &made, dtype, body)
    }
}
