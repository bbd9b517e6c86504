//! What a step takes between its tokens and its logits, and gives back.
//!
//! MLX allocates a node's output when it schedules the node, which is long before
//! the nodes in front of it have run, so that all outputs of what is scheduled
//! together exist at once. `tests/scratch.rs` compares this with what is measured.

use crate::decoder::DecoderSpec;
use crate::kernels::{AttentionShape, Float, ProductShape, Stored};
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
    intermediate: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    dtype: Dtype,
    weights: Stored,
    device: Device,
    kernels: bool,
    n_threads: usize,
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
        Self {
            n_layers: spec.n_layers,
            hidden: spec.hidden_size,
            intermediate: spec.intermediate_size,
            n_heads: spec.n_heads,
            n_kv_heads: spec.n_kv_heads,
            head_dim: spec.head_dim,
            dtype,
            weights,
            device: placement.device,
            kernels: is_cpu && placement.cpu_ops == CpuOps::Kernels,
            n_threads: placement.n_threads,
        }
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
        let n_layers = match layerwise {
            true => 1,
            false => self.n_layers.min(LAYERS_AHEAD),
        };
        let row = self.hidden + n_layers * self.layer_columns(step.n_sequences);
        let wanted = step.n_wanted.min(step.n_tokens);
        let element = self.dtype.bytes();
        product([step.n_tokens, row, element])
            .saturating_add(product([step.n_tokens, size_of::<i32>()]))
            .saturating_add(product([wanted, self.hidden * element + size_of::<i32>()]))
            .saturating_add(product([n_layers, self.score_bytes(step)]))
    }

    /// What a layer makes of each token.
    fn layer_columns(&self, n_sequences: usize) -> usize {
        let queries = self.n_heads * self.head_dim;
        let projected = queries + 2 * self.n_kv_heads * self.head_dim;
        if self.kernels {
            return projected + queries + self.hidden + self.intermediate + self.hidden;
        }
        // Each sequence's part by itself, and then all of them next to each other.
        let attended = if n_sequences > 1 { 2 } else { 1 } * queries;
        // Norms, rotations, biases, the gate's factors and sums are nodes too.
        4 * projected + 3 * attended + 6 * self.hidden + 6 * self.intermediate
    }

    /// MLX's attention on the CPU makes all scores before it weighs them, and a mask.
    fn score_bytes(&self, step: &StepSize) -> usize {
        let per_position = self.n_heads * self.dtype.bytes() + 1;
        match self.device == Device::Cpu && !self.kernels {
            true => product([step.n_tokens, step.n_positions, per_position]),
            false => 0,
        }
    }

    fn kernel_bytes(&self, step: &StepSize) -> usize {
        // No step is larger than its chunk, and no chunk that large is admitted.
        let n_tokens = step.n_tokens.min(1 << 30);
        let float = float_of(self.dtype);
        let widest = [self.hidden, self.intermediate, self.n_heads * self.head_dim]
            .into_iter()
            .max()
            .unwrap_or(0);
        let product_shape = ProductShape {
            n_rows: n_tokens,
            columns: widest,
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
        let rotations = product([n_tokens, self.head_dim, size_of::<f32>()]);
        product_shape
            .scratch_bytes()
            .saturating_add(attention.scratch_bytes())
            .saturating_add(rotations)
            .saturating_add(product([self.n_threads, product_shape.thread_bytes()]))
    }
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
