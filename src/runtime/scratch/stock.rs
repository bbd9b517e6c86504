//! MLX allocates a node's output when it schedules the node, which is long before the
//! nodes in front of it have run, so that all outputs of what is scheduled together
//! exist at once, but for elementwise ones, which write over inputs that nobody else
//! needs. It is a bound.

use super::{LAYERWISE_FROM, StepSize, inputs_columns, n_sums, product};
use crate::decoder::{DecoderSpec, DenseForm, ExpertsSpec, MlpSpec, RecurrentSpec};
use crate::kernels::{Activation, Gate};
use crate::mlx::Device;

/// Layers that MLX schedules together at most.
const LAYERS_AHEAD: usize = 8;

/// A step of MLX's operations.
#[derive(Clone, Copy, Debug)]
pub(super) struct StockShape {
    n_layers: usize,
    hidden: usize,
    n_heads: usize,
    /// The most that a layer caches of a token: keys, or values.
    key_columns: usize,
    /// Of a token: what attention takes, and what it and what is behind it give.
    row_columns: usize,
    attended_columns: usize,
    /// Of a token in a recurrent layer, besides.
    recurrent_bytes: usize,
    /// Of a sequence in a recurrent layer.
    memory_bytes: usize,
    element: usize,
    device: Device,
    has_score_cap: bool,
    /// Arrays of the hidden size that adding attention to the residual stream makes.
    n_sums: usize,
    /// What the feed-forward networks make of each token: that of one layer, and
    /// those of all layers that are scheduled together.
    mlp_bytes: usize,
    mlps_bytes: usize,
    /// The inputs of all layers, and what they are made of in float32.
    inputs_bytes: usize,
}

impl StockShape {
    pub fn new(spec: &DecoderSpec, element: usize, device: Device) -> Self {
        let mlps = spec.mlps.iter();
        let mlp_bytes: Vec<usize> = mlps.map(|mlp| mlp_bytes(spec, mlp, element)).collect();
        let largest = |of: fn(&RecurrentSpec) -> usize| spec.recurrent().map(of).max().unwrap_or(0);
        let attended = spec.widest_attended();
        let gates = if spec.gates_attention { 2 } else { 0 } * attended;
        let row_columns = spec.widest_rows() + latent_columns(spec) + gates;
        let attended_columns = attended + seen_columns(spec);
        let heads = spec.heads.iter();
        let key_columns = heads.map(|heads| heads.n_kv_heads * heads.head_dim);
        Self {
            n_layers: spec.n_layers,
            hidden: spec.hidden_size,
            n_heads: spec.n_heads,
            key_columns: key_columns.max().unwrap_or(0),
            row_columns: row_columns.max(largest(RecurrentSpec::row_columns)),
            attended_columns: attended_columns.max(largest(RecurrentSpec::mixed_columns)),
            recurrent_bytes: largest(RecurrentSpec::stock_floats) * size_of::<f32>(),
            memory_bytes: largest(RecurrentSpec::stock_memory_bytes),
            element,
            device,
            has_score_cap: spec.score_cap.is_some(),
            n_sums: n_sums(
                spec,
                spec.has_norm_after_attention(),
                spec.branch_scales.mixer,
            ),
            mlp_bytes: largest_group(&mlp_bytes, 1),
            mlps_bytes: largest_group(&mlp_bytes, LAYERS_AHEAD),
            inputs_bytes: inputs_columns(spec) * (4 * element + 3 * size_of::<f32>()),
        }
    }

    pub fn n_layers_at_once(&self, step: &StepSize) -> usize {
        let layerwise = self.device == Device::Cpu && step.n_tokens >= LAYERWISE_FROM;
        if layerwise {
            1
        } else {
            self.n_layers.min(LAYERS_AHEAD)
        }
    }

    /// Of all layers that are there at once.
    pub fn bytes(&self, step: &StepSize) -> usize {
        let n_layers = self.n_layers_at_once(step);
        let mlp_bytes = match n_layers {
            1 => self.mlp_bytes,
            _ => self.mlps_bytes,
        };
        let columns = self.hidden + n_layers * self.attention_columns(step.n_sequences);
        let recurrent_bytes = n_layers * self.recurrent_bytes;
        let bytes = columns * self.element + mlp_bytes + recurrent_bytes + self.inputs_bytes;
        product([step.n_tokens, bytes])
            .saturating_add(product([n_layers, self.score_bytes(step)]))
            .saturating_add(product([n_layers, step.n_sequences, self.memory_bytes]))
    }

    /// What a layer's attention makes of each token.
    fn attention_columns(&self, n_sequences: usize) -> usize {
        // Each sequence's part by itself, and then all of them next to each other.
        let attended = if n_sequences > 1 { 2 } else { 1 } * self.attended_columns;
        // Norms, rotations, biases and sums are nodes too.
        4 * self.row_columns + 3 * attended + 4 * self.n_sums * self.hidden
    }

    /// MLX's attention on the CPU makes all scores before it weighs them, and a
    /// mask; bounded ones, their mask, keys and values in float32.
    fn score_bytes(&self, step: &StepSize) -> usize {
        if self.device != Device::Cpu {
            return 0;
        }
        let wide = size_of::<f32>();
        let (per_position, cached) = match self.has_score_cap {
            true => ((self.n_heads + 1) * wide + 1, 2 * self.key_columns * wide),
            false => (self.n_heads * self.element + 1, 0),
        };
        product([step.n_tokens, step.n_positions, per_position])
            .saturating_add(product([step.n_positions, cached]))
    }
}

/// Projected in front of the rows that attention takes, if these are made of latent
/// vectors.
fn latent_columns(spec: &DecoderSpec) -> usize {
    spec.latent.map_or(0, |latent| {
        let compressed = latent.query_rank.unwrap_or(0);
        compressed + latent.shape.query_columns() + latent.shape.key_dim()
    })
}

/// What heads see of latent vectors.
fn seen_columns(spec: &DecoderSpec) -> usize {
    let shape = spec.latent.map(|latent| latent.shape);
    shape.map_or(0, |shape| shape.n_heads * shape.rank)
}

/// What a feed-forward network makes of each token.
fn mlp_bytes(spec: &DecoderSpec, mlp: &MlpSpec, element: usize) -> usize {
    let hidden = spec.hidden_size;
    let inputs = spec.layer_inputs.map_or(0, |inputs| {
        inputs.columns * (2 * element + 3 * size_of::<f32>()) + 8 * hidden * element
    });
    let sums =
        2 * n_sums(spec, spec.has_norm_after_mlp(), spec.branch_scales.mlp) * hidden * element
            + inputs;
    let states = spec.altup.map_or(0, |altup| altup.states.width());
    let sums = sums + 12 * states * size_of::<f32>();
    let beside = spec.experts_beside;
    let sums = sums
        + beside.map_or(0, |experts| {
            experts_bytes(hidden, &experts, element) + 8 * hidden * size_of::<f32>()
        });
    match mlp {
        MlpSpec::None => 0,
        MlpSpec::Dense(dense) => {
            let gate = match dense.form {
                DenseForm::Gated(gate) => gate,
                DenseForm::Plain(activation) => Gate::Times(activation),
            };
            let cut = dense.cutoff.map_or(0, |_| 5 * size_of::<f32>());
            sums + dense.intermediate_size * (gate_bytes(gate, element) + cut)
        }
        MlpSpec::Experts(experts) => sums + experts_bytes(hidden, experts, element),
    }
}

/// What a mixture of experts makes of each token.
fn experts_bytes(hidden: usize, experts: &ExpertsSpec, element: usize) -> usize {
    let inner = |intermediate: usize| intermediate * gate_bytes(experts.gate, element);
    // Rows of each expert, its results, and those times their shares.
    let wide = size_of::<f32>();
    let around = hidden * (2 * element + 2 * wide);
    let chosen = inner(experts.intermediate_size) + around;
    let shared = experts
        .shared
        .map_or(0, |shared| inner(shared.intermediate_size) + around);
    let routes = 4 * experts.router_outputs() * wide;
    experts.routing.n_chosen * chosen + shared + routes
}

/// What an element of a gated network takes at once at most: gates and what goes
/// through them, and what becomes of them, which all but one activation computes in
/// float32.
fn gate_bytes(gate: Gate, element: usize) -> usize {
    let n_wide = match gate {
        Gate::Times(Activation::Silu) => return 4 * element,
        Gate::Times(_) => 3,
        Gate::ClampedSwiglu { .. } => 4,
    };
    2 * element + n_wide * size_of::<f32>()
}

/// The largest sum of `n` layers that are evaluated together.
fn largest_group(by_layer: &[usize], n: usize) -> usize {
    let groups = by_layer.chunks(n).map(|group| group.iter().sum());
    groups.max().unwrap_or(0)
}
