//! What a step takes between its tokens and its logits, and gives back.
//!
//! MLX allocates a node's output when it schedules the node, which is long before
//! the nodes in front of it have run, so that all outputs of what is scheduled
//! together exist at once. `tests/scratch.rs` compares this with what is measured.

use crate::decoder::{AdaptedColumns, DecoderSpec, DenseForm, ExpertsSpec, MlpSpec, QkNorm};
use crate::kernels::{Activation, AttentionShape, Float, Gate, MixtureShape, ProductShape, Stored};
use crate::mlx::{CpuOps, Device, Dtype};

/// On the CPU, steps of more tokens than this are evaluated layer by layer:
/// it bounds scratch memory and the time until a cancellation is noticed.
pub(super) const LAYERWISE_FROM: usize = 16;

/// Layers of our kernels that are evaluated together at most. MLX schedules about
/// 50 nodes ahead; beyond, its thread and the scheduling one wake each other for
/// every few nodes. MLX's own operations have more nodes per layer.
pub(super) const LAYERS_AHEAD: usize = 8;

/// A decoder's step, as far as memory depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepShape {
    n_layers: usize,
    hidden: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    n_ropes: usize,
    /// Queries and keys are normalized as whole rows, by a node of their own.
    normalizes_rows: bool,
    /// Arrays of the hidden size that adding attention to the residual stream makes.
    n_sums: usize,
    /// What the feed-forward networks make of each token: that of one layer, and
    /// those of all layers that are evaluated together.
    mlp_bytes: usize,
    mlps_bytes: usize,
    /// Of any matrix that is multiplied with.
    widest: usize,
    /// The experts of the layers that have some.
    experts: Option<ExpertsSpec>,
    /// Copies of the wanted logits that scaling and bounding them makes.
    logit_copies_bytes: usize,
    has_score_cap: bool,
    dtype: Dtype,
    weights: Stored,
    device: Device,
    kernels: bool,
    n_threads: usize,
    adapted: AdaptedColumns,
}

/// Where a step is computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub device: Device,
    pub cpu_ops: CpuOps,
    pub n_threads: usize,
}

/// The tokens of one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepSize {
    pub n_tokens: usize,
    pub n_sequences: usize,
    /// Positions that the longest sequence has behind it.
    pub n_positions: usize,
    /// Rows of logits that are wanted.
    pub n_wanted: usize,
}

impl StepShape {
    pub fn new(spec: &DecoderSpec, dtype: Dtype, weights: Stored, placement: Placement) -> Self {
        let is_cpu = placement.device == Device::Cpu;
        let kernels = is_cpu && placement.cpu_ops == CpuOps::Kernels;
        let mlp_bytes: Vec<usize> = spec
            .mlps
            .iter()
            .map(|mlp| match kernels {
                true => kernel_mlp_bytes(spec, mlp, dtype.bytes()),
                false => stock_mlp_bytes(spec, mlp, dtype.bytes()),
            })
            .collect();
        let n_logit_copies =
            usize::from(spec.logit_scale != 1.0) + usize::from(spec.logit_cap.is_some());
        Self {
            n_layers: spec.n_layers,
            hidden: spec.hidden_size,
            n_heads: spec.n_heads,
            n_kv_heads: spec.n_kv_heads,
            head_dim: spec.head_dim,
            n_ropes: spec.ropes.len(),
            normalizes_rows: spec.qk_norm == QkNorm::Rows,
            n_sums: n_sums(spec, spec.has_norm_after_attention()),
            mlp_bytes: largest_group(&mlp_bytes, 1),
            mlps_bytes: largest_group(&mlp_bytes, LAYERS_AHEAD),
            widest: widest(spec),
            experts: spec.mlps.iter().find_map(MlpSpec::experts).copied(),
            logit_copies_bytes: n_logit_copies * spec.vocab_size * size_of::<f32>(),
            has_score_cap: spec.score_cap.is_some(),
            dtype,
            weights,
            device: placement.device,
            kernels,
            n_threads: placement.n_threads,
            adapted: AdaptedColumns::default(),
        }
    }

    /// The same step with adapters.
    pub fn with_adapters(self, adapted: AdaptedColumns) -> Self {
        Self { adapted, ..self }
    }

    /// Intermediate results and the kernels' buffers; not the logits.
    pub fn bytes(&self, step: &StepSize) -> usize {
        let kernels = match self.kernels {
            true => self.kernel_bytes(step),
            false => 0,
        };
        self.array_bytes(step).saturating_add(kernels)
    }

    /// Those of MLX's arrays.
    pub fn array_bytes(&self, step: &StepSize) -> usize {
        let layerwise = self.device == Device::Cpu && step.n_tokens >= LAYERWISE_FROM;
        let (n_layers, mlp_bytes) = match layerwise {
            true => (1, self.mlp_bytes),
            false => (self.n_layers.min(LAYERS_AHEAD), self.mlps_bytes),
        };
        let element = self.dtype.bytes();
        let of_layer = self.attention_columns(step.n_sequences) + self.adapted.layer;
        let columns = self.hidden + n_layers * of_layer;
        let wanted = step.n_wanted.min(step.n_tokens);
        let wanted_bytes = self.hidden * element + size_of::<i32>() + self.logit_copies_bytes;
        product([step.n_tokens, columns * element + mlp_bytes])
            .saturating_add(product([step.n_tokens, size_of::<i32>()]))
            .saturating_add(product([wanted, wanted_bytes]))
            .saturating_add(product([n_layers, self.score_bytes(step)]))
            .saturating_add(product([wanted, self.adapted.head, size_of::<f32>()]))
    }

    /// What a layer's attention makes of each token.
    fn attention_columns(&self, n_sequences: usize) -> usize {
        let queries = self.n_heads * self.head_dim;
        let projected = queries + 2 * self.n_kv_heads * self.head_dim;
        if self.kernels {
            let n_projected = if self.normalizes_rows { 2 } else { 1 };
            return n_projected * projected + queries + self.n_sums * self.hidden;
        }
        // Each sequence's part by itself, and then all of them next to each other.
        let attended = if n_sequences > 1 { 2 } else { 1 } * queries;
        // Norms, rotations, biases and sums are nodes too.
        4 * projected + 3 * attended + 4 * self.n_sums * self.hidden
    }

    /// MLX's attention on the CPU makes all scores before it weighs them, and a
    /// mask; bounded ones, their mask, keys and values in float32.
    fn score_bytes(&self, step: &StepSize) -> usize {
        if self.device != Device::Cpu || self.kernels {
            return 0;
        }
        let wide = size_of::<f32>();
        let (per_position, cached) = match self.has_score_cap {
            true => (
                (self.n_heads + 1) * wide + 1,
                2 * self.n_kv_heads * self.head_dim * wide,
            ),
            false => (self.n_heads * self.dtype.bytes() + 1, 0),
        };
        product([step.n_tokens, step.n_positions, per_position])
            .saturating_add(product([step.n_positions, cached]))
    }

    fn kernel_bytes(&self, step: &StepSize) -> usize {
        // No step is larger than its chunk, and no chunk that large is admitted.
        let n_tokens = step.n_tokens.min(1 << 30);
        let float = float_of(self.dtype);
        let product_shape = ProductShape {
            n_rows: n_tokens,
            columns: self.widest,
            activations: float,
            weights: self.weights,
        };
        let attention = AttentionShape {
            n_tokens,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            float,
        };
        let mixture = self.experts.map(|experts| MixtureShape {
            n_rows: n_tokens,
            columns: self.hidden,
            intermediate: experts.widest(),
            n_experts: experts.n_experts + 1,
            n_chosen: experts.n_per_token(),
            float,
        });
        let rotations = product([self.n_ropes, n_tokens, self.head_dim, size_of::<f32>()]);
        product_shape
            .scratch_bytes()
            .saturating_add(attention.scratch_bytes())
            .saturating_add(mixture.map_or(0, |mixture| mixture.scratch_bytes()))
            .saturating_add(rotations)
            .saturating_add(product([self.n_threads, product_shape.thread_bytes()]))
    }
}

/// Arrays that adding a block's output to the residual stream makes: the product
/// adds by itself unless there is something in between.
fn n_sums(spec: &DecoderSpec, has_norm_after: bool) -> usize {
    match has_norm_after || spec.residual_scale != 1.0 {
        true => 2,
        false => 1,
    }
}

/// What a feed-forward network makes of each token with our kernels.
fn kernel_mlp_bytes(spec: &DecoderSpec, mlp: &MlpSpec, element: usize) -> usize {
    let sums = n_sums(spec, spec.has_norm_after_mlp()) * spec.hidden_size * element;
    let inner = match mlp {
        MlpSpec::Dense(dense) => match dense.form {
            DenseForm::Gated(_) => dense.intermediate_size * element,
            DenseForm::Plain(_) => 2 * dense.intermediate_size * element,
        },
        MlpSpec::Experts(experts) => {
            let n_normalized = usize::from(spec.has_mlp_norm());
            n_normalized * spec.hidden_size * element + experts.router_outputs() * size_of::<f32>()
        }
    };
    sums + inner
}

/// The same with MLX's operations, of which many are nodes. Elementwise ones write
/// over their inputs where nobody else needs them.
fn stock_mlp_bytes(spec: &DecoderSpec, mlp: &MlpSpec, element: usize) -> usize {
    let hidden = spec.hidden_size;
    let sums = 2 * n_sums(spec, spec.has_norm_after_mlp()) * hidden * element;
    match mlp {
        MlpSpec::Dense(dense) => {
            let gate = match dense.form {
                DenseForm::Gated(gate) => gate,
                DenseForm::Plain(activation) => Gate::Times(activation),
            };
            sums + dense.intermediate_size * stock_gate_bytes(gate, element)
        }
        MlpSpec::Experts(experts) => {
            let inner =
                |intermediate: usize| intermediate * stock_gate_bytes(experts.gate, element);
            // Rows of each expert, its results, and those times their shares.
            let wide = size_of::<f32>();
            let around = hidden * (2 * element + 2 * wide);
            let chosen = inner(experts.intermediate_size) + around;
            let shared = experts
                .shared
                .map_or(0, |shared| inner(shared.intermediate_size) + around);
            let routes = 4 * experts.router_outputs() * wide;
            sums + experts.routing.n_chosen * chosen + shared + routes
        }
    }
}

/// What an element of a gated network takes at once at most: gates and what goes
/// through them, and what becomes of them, which all but one activation computes in
/// float32.
fn stock_gate_bytes(gate: Gate, element: usize) -> usize {
    let n_wide = match gate {
        Gate::Times(Activation::Silu) => return 4 * element,
        Gate::Times(_) => 3,
        Gate::ClampedSwiglu { .. } => 4,
    };
    2 * element + n_wide * size_of::<f32>()
}

/// Rows of the widest matrix that a layer's activations are multiplied with.
fn widest(spec: &DecoderSpec) -> usize {
    let inner = spec.mlps.iter().map(MlpSpec::widest);
    let outer = spec.hidden_size.max(spec.n_heads * spec.head_dim);
    inner.max().unwrap_or(0).max(outer)
}

/// The largest sum of `n` layers that are evaluated together.
fn largest_group(by_layer: &[usize], n: usize) -> usize {
    let groups = by_layer.chunks(n).map(|group| group.iter().sum());
    groups.max().unwrap_or(0)
}

/// Saturates.
pub(super) fn product<const N: usize>(factors: [usize; N]) -> usize {
    factors.into_iter().fold(1, usize::saturating_mul)
}

pub(super) fn float_of(dtype: Dtype) -> Float {
    match dtype {
        Dtype::F16 => Float::F16,
        Dtype::Bf16 => Float::Bf16,
        _ => Float::F32,
    }
}
