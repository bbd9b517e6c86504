//! MLX allocates a node's output when it schedules the node, which is long before the
//! nodes in front of it have run, so that all outputs of what is scheduled together
//! exist at once, but for elementwise ones, which write over inputs that nobody else
//! needs. It is a bound.

use super::{LAYERWISE_FROM, StepSize, inputs_columns, n_sums, product};
use crate::decoder::{
    DecoderSpec, DenseForm, ExpertsSpec, HeadsSpec, MixerSpec, MlpSpec, RecurrentSpec,
};
use crate::kernels::{Activation, Gate};
use crate::mlx::Device;

/// Layers that MLX schedules together at most.
const LAYERS_AHEAD: usize = 8;

/// Memories of heads that a token makes at most: faded, changed, and their products with
/// a key and a query.
const MEMORIES_PER_TOKEN: usize = 4;
/// Those that are scheduled at once at most: MLX goes on until 120 of its tasks are left,
/// of which a token that makes 3 memories takes 18, or one that makes 4 takes 29.
const MEMORIES_AHEAD: usize = 22;

/// A step of MLX's operations.
#[derive(Clone, Copy, Debug)]
pub(super) struct StockShape {
    n_layers: usize,
    hidden: usize,
    element: usize,
    device: Device,
    attention: Option<AttentionNodes>,
    /// All recurrent layers are alike.
    recurrent: Option<RecurrentNodes>,
    /// Layers have both.
    is_beside: bool,
    /// Arrays of the hidden size that adding a mixer to the residual stream makes.
    n_sums: usize,
    /// What the feed-forward networks make of each token: that of one layer, and
    /// those of all layers that are scheduled together.
    mlp_bytes: usize,
    mlps_bytes: usize,
    /// The inputs of all layers, and what they are made of in float32.
    inputs_bytes: usize,
}

/// What attention makes.
#[derive(Clone, Copy, Debug)]
struct AttentionNodes {
    n_heads: usize,
    /// The most that a layer caches of a token: keys, or values.
    key_columns: usize,
    /// Of a token: what attention takes, and what it and what is behind it give.
    row_columns: usize,
    attended_columns: usize,
    has_score_cap: bool,
}

/// What a recurrent mixer makes.
#[derive(Clone, Copy, Debug)]
struct RecurrentNodes {
    /// Of a token: what is projected, and what is mixed.
    row_columns: usize,
    mixed_columns: usize,
    /// In float32, besides.
    wide_bytes: usize,
    /// The memories of a sequence.
    memory_bytes: usize,
}

impl StockShape {
    pub fn new(spec: &DecoderSpec, element: usize, device: Device) -> Self {
        let layers = || 0..spec.n_layers;
        let mlp_bytes = |layer| mlp_bytes(spec, layer, element);
        let mlp_bytes: Vec<usize> = layers().map(mlp_bytes).collect();
        let has_norm_after = layers().any(|layer| spec.has_norm_after_attention(layer));
        let attends = spec.mixers.iter().any(MixerSpec::attends);
        let is_both = |mixer: &MixerSpec| matches!(mixer, MixerSpec::Both(_));
        Self {
            n_layers: spec.n_layers,
            hidden: spec.hidden_size,
            element,
            device,
            attention: attends.then(|| AttentionNodes::new(spec)),
            recurrent: spec.recurrent().next().map(RecurrentNodes::new),
            is_beside: spec.mixers.iter().any(is_both),
            n_sums: n_sums(spec, has_norm_after, spec.branch_scales.mixer),
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
        let columns = self.hidden + n_layers * 4 * self.n_sums * self.hidden;
        let bytes = columns * self.element + mlp_bytes + self.inputs_bytes;
        product([step.n_tokens, bytes])
            .saturating_add(product([n_layers, self.mixer_bytes(step)]))
            .saturating_add(self.memory_bytes(step, n_layers))
    }

    /// Of one layer, but for memories.
    fn mixer_bytes(&self, step: &StepSize) -> usize {
        let attention = self.attention.map_or(0, |nodes| nodes.bytes(step, self));
        let recurrent = self.recurrent.map_or(0, |nodes| nodes.bytes(step, self));
        match self.is_beside {
            true => attention.saturating_add(recurrent),
            false => attention.max(recurrent),
        }
    }

    fn memory_bytes(&self, step: &StepSize, n_layers: usize) -> usize {
        let n_memories = product([step.n_tokens, n_layers, MEMORIES_PER_TOKEN]);
        let bytes = self.recurrent.map_or(0, |nodes| nodes.memory_bytes);
        product([n_memories.min(MEMORIES_AHEAD), bytes])
    }
}

impl AttentionNodes {
    fn new(spec: &DecoderSpec) -> AttentionNodes {
        let attended = spec.widest_attended();
        let gates = if spec.gates_attention { 2 } else { 0 } * attended;
        let key_columns = |heads: &HeadsSpec| heads.n_kv_heads * heads.head_dim;
        AttentionNodes {
            n_heads: spec.n_heads,
            key_columns: spec.heads.iter().map(key_columns).max().unwrap_or(0),
            row_columns: spec.widest_rows() + latent_columns(spec) + gates,
            attended_columns: attended + seen_columns(spec),
            has_score_cap: spec.score_cap.is_some(),
        }
    }

    fn bytes(&self, step: &StepSize, shape: &StockShape) -> usize {
        let columns = mixer_columns(step, self.row_columns, self.attended_columns);
        product([step.n_tokens, columns, shape.element])
            .saturating_add(self.score_bytes(step, shape))
    }

    /// MLX's attention on the CPU makes all scores before it weighs them, and a
    /// mask; bounded ones, their mask, keys and values in float32.
    fn score_bytes(&self, step: &StepSize, shape: &StockShape) -> usize {
        if shape.device != Device::Cpu {
            return 0;
        }
        let wide = size_of::<f32>();
        let (per_position, cached) = match self.has_score_cap {
            true => ((self.n_heads + 1) * wide + 1, 2 * self.key_columns * wide),
            false => (self.n_heads * shape.element + 1, 0),
        };
        product([step.n_tokens, step.n_positions, per_position])
            .saturating_add(product([step.n_positions, cached]))
    }
}

impl RecurrentNodes {
    fn new(recurrent: &RecurrentSpec) -> RecurrentNodes {
        RecurrentNodes {
            row_columns: recurrent.row_columns(),
            mixed_columns: recurrent.mixed_columns(),
            wide_bytes: recurrent.stock_floats() * size_of::<f32>(),
            memory_bytes: recurrent.memory_bytes(),
        }
    }

    fn bytes(&self, step: &StepSize, shape: &StockShape) -> usize {
        let columns = mixer_columns(step, self.row_columns, self.mixed_columns);
        product([step.n_tokens, columns * shape.element + self.wide_bytes])
    }
}

/// What a mixer makes of each token: norms, rotations and biases are nodes too.
fn mixer_columns(step: &StepSize, row_columns: usize, attended_columns: usize) -> usize {
    // Each sequence's part by itself, and then all of them next to each other.
    let attended = if step.n_sequences > 1 { 2 } else { 1 } * attended_columns;
    4 * row_columns + 3 * attended
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
fn mlp_bytes(spec: &DecoderSpec, layer: usize, element: usize) -> usize {
    let hidden = spec.hidden_size;
    let inputs = spec.layer_inputs.map_or(0, |inputs| {
        inputs.columns * (2 * element + 3 * size_of::<f32>()) + 8 * hidden * element
    });
    let sums =
        2 * n_sums(spec, spec.has_norm_after_mlp(layer), spec.branch_scales.mlp) * hidden * element
            + inputs;
    // Predicted, corrected, and with inputs, each by way of float32; in front of the first
    // layer they are normalized.
    let states = spec.altup.map_or(0, |altup| altup.states.width());
    let sums = sums + states * (7 * size_of::<f32>() + 4 * widened_bytes(element));
    let beside = spec.experts_beside;
    let sums = sums
        + beside.map_or(0, |experts| {
            experts_bytes(hidden, &experts, element) + 8 * hidden * size_of::<f32>()
        });
    match &spec.mlps[layer] {
        MlpSpec::None => 0,
        MlpSpec::Dense(dense) => {
            let inner = match dense.form {
                DenseForm::Gated(gate) => gate_bytes(gate, element),
                DenseForm::Plain(activation) => plain_bytes(activation, element),
            };
            // Their squares, for the deviation, and what is above the least one.
            let cut = |_| 2 * size_of::<f32>() + widened_bytes(element);
            let cut = dense.cutoff.map_or(0, cut);
            sums + dense.intermediate_size * (inner + cut)
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
    let wide = size_of::<f32>();
    2 * element
        + match gate {
            Gate::Times(Activation::Silu) => 2 * element,
            Gate::Times(Activation::Gelu | Activation::GeluTanh) => wide + widened_bytes(element),
            Gate::Times(_) | Gate::Absent(_) => 3 * wide,
            Gate::ClampedSwiglu { .. } => 4 * wide,
        }
}

/// The same of a network without gates.
fn plain_bytes(activation: Activation, element: usize) -> usize {
    match activation {
        Activation::ReluSquared => element + size_of::<f32>() + widened_bytes(element),
        other => gate_bytes(Gate::Times(other), element),
    }
}

/// What an element takes as float32, and when it comes back from there.
fn widened_bytes(element: usize) -> usize {
    match element == size_of::<f32>() {
        true => 0,
        false => size_of::<f32>() + element,
    }
}

/// The largest sum of `n` layers that are evaluated together.
fn largest_group(by_layer: &[usize], n: usize) -> usize {
    let groups = by_layer.chunks(n).map(|group| group.iter().sum());
    groups.max().unwrap_or(0)
}
