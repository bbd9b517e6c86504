//! What a step takes between its tokens and its logits, and gives back.
//! `tests/scratch.rs` compares it with what is measured.
//!
//! - here: with our kernels, which compute at once: arrays exist for as long as the
//!   forward pass holds them
//! - `stock`: with MLX's operations

mod stock;

use self::stock::StockShape;
use crate::decoder::{
    AdaptedColumns, AltUpSpec, DecoderSpec, DenseForm, ExpertsSpec, HeadsSpec, LatentSpec,
    MixerSpec, MlpSpec, QkNorm, RecurrentSpec,
};
use crate::kernels::{Activations, AttentionShape, Float, MixtureShape, ProductShape, Stored};
use crate::mlx::{CHOICE_BYTES_PER_LOGIT, CpuOps, Device, Dtype};

/// On the CPU, steps of MLX's operations for more tokens than this are evaluated layer
/// by layer: it bounds scratch memory and the time until a cancellation is noticed.
pub(super) const LAYERWISE_FROM: usize = 16;

/// A decoder's step, as far as memory depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepShape {
    hidden: usize,
    /// Of layers with the usual heads, and of the one with the longest.
    heads: [HeadsSpec; 2],
    latent: Option<LatentSpec>,
    recurrent: Option<RecurrentSpec>,
    n_ropes: usize,
    /// Of any matrix that is multiplied with.
    widest: usize,
    /// The experts of the layers that have some.
    experts: Option<ExpertsSpec>,
    /// Copies of the wanted logits that scaling and bounding them makes.
    logit_copies_bytes: usize,
    /// What choosing a token from a row of logits makes where that is done.
    choice_bytes: usize,
    dtype: Dtype,
    weights: Stored,
    ops: OpsShape,
    n_threads: usize,
    adapted: AdaptedColumns,
    activations: Activations,
}

/// By what it is computed.
#[derive(Clone, Copy, Debug)]
enum OpsShape {
    /// The most that is held of each token.
    Kernels {
        row_bytes: usize,
    },
    Stock(StockShape),
}

/// Where and how a step is computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub device: Device,
    pub cpu_ops: CpuOps,
    pub n_threads: usize,
    pub activations: Activations,
}

impl Placement {
    /// Whether our kernels compute.
    pub fn has_kernels(self) -> bool {
        self.cpu_ops.are_kernels(self.device)
    }
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
        let element = dtype.bytes();
        let n_logit_copies =
            usize::from(spec.logit_scale != 1.0) + usize::from(spec.logit_cap.is_some());
        Self {
            hidden: spec.hidden_size,
            heads: kinds_of_heads(spec),
            latent: spec.latent,
            recurrent: spec.recurrent().next().copied(),
            n_ropes: spec.ropes.len(),
            widest: widest(spec),
            experts: match spec.experts_beside {
                Some(experts) => Some(experts),
                None => spec.mlps.iter().find_map(MlpSpec::experts).copied(),
            },
            logit_copies_bytes: n_logit_copies * spec.vocab_size * size_of::<f32>(),
            choice_bytes: match placement.device.is_gpu() {
                true => spec.vocab_size * CHOICE_BYTES_PER_LOGIT,
                false => 0,
            },
            dtype,
            weights,
            ops: match (placement.device, placement.cpu_ops) {
                (Device::Cpu, CpuOps::Kernels) => OpsShape::Kernels {
                    row_bytes: kernel_row_bytes(spec, element),
                },
                (device, _) => OpsShape::Stock(StockShape::new(spec, element, device)),
            },
            n_threads: placement.n_threads,
            adapted: AdaptedColumns::default(),
            activations: placement.activations,
        }
    }

    /// The same step with adapters.
    pub fn with_adapters(self, adapted: AdaptedColumns) -> Self {
        Self { adapted, ..self }
    }

    /// Intermediate results and the kernels' buffers; not the logits.
    pub fn bytes(&self, step: &StepSize) -> usize {
        let kernels = match self.ops {
            OpsShape::Kernels { .. } => self.kernel_bytes(step),
            OpsShape::Stock(_) => 0,
        };
        self.array_bytes(step).saturating_add(kernels)
    }

    /// Those of MLX's arrays.
    pub fn array_bytes(&self, step: &StepSize) -> usize {
        let hidden = self.hidden * self.dtype.bytes();
        let wanted = step.n_wanted.min(step.n_tokens);
        let chosen = product([wanted, hidden + size_of::<i32>() + self.logit_copies_bytes]);
        let tokens = product([step.n_tokens, size_of::<i32>()]);
        let layers = match self.ops {
            OpsShape::Kernels { row_bytes } => {
                let behind_layers = product([step.n_tokens, hidden]).saturating_add(chosen);
                product([step.n_tokens, row_bytes]).max(behind_layers)
            }
            OpsShape::Stock(stock) => stock
                .bytes(step)
                .saturating_add(chosen)
                .saturating_add(self.choice_bytes),
        };
        layers
            .saturating_add(tokens)
            .saturating_add(self.adapter_bytes(step))
    }

    /// What adapters add to the projections of the layers that are there at once.
    fn adapter_bytes(&self, step: &StepSize) -> usize {
        let n_layers = match self.ops {
            OpsShape::Kernels { .. } => 1,
            OpsShape::Stock(stock) => stock.n_layers_at_once(step),
        };
        let wanted = step.n_wanted.min(step.n_tokens);
        let columns = [n_layers, self.adapted.layer, self.dtype.bytes()];
        product([step.n_tokens, product(columns)]).saturating_add(product([
            wanted,
            self.adapted.head,
            size_of::<f32>(),
        ]))
    }

    fn kernel_bytes(&self, step: &StepSize) -> usize {
        // No step is larger than its chunk, and no chunk that large is admitted.
        let n_tokens = step.n_tokens.min(1 << 30);
        let float = float_of(self.dtype);
        let product_shape = ProductShape {
            n_rows: n_tokens,
            columns: self.widest,
            float,
            activations: self.activations,
            weights: self.weights,
        };
        let attentions = self.heads.map(|heads| AttentionShape {
            n_tokens,
            n_sequences: step.n_sequences,
            n_positions: step.n_positions,
            n_heads: heads.n_heads,
            n_kv_heads: heads.n_kv_heads,
            head_dim: heads.head_dim,
        });
        let largest = |bytes: fn(&AttentionShape) -> usize| {
            let all = attentions.iter().map(bytes);
            all.max().unwrap_or(0)
        };
        let head_dim = self.heads[1].head_dim;
        let mixture = self.experts.map(|experts| MixtureShape {
            n_rows: n_tokens,
            columns: self.hidden,
            intermediate: experts.widest(),
            n_experts: experts.n_experts + 1,
            n_chosen: experts.n_per_token(),
            float,
        });
        let latent = self.latent.map_or(0, |l| l.shape.thread_bytes(n_tokens));
        let recurrent = self.recurrent.map_or(0, |r| r.thread_bytes(n_tokens));
        let rotations = product([self.n_ropes, n_tokens, head_dim, size_of::<f32>()]);
        product_shape
            .scratch_bytes()
            .saturating_add(largest(AttentionShape::scratch_bytes))
            .saturating_add(mixture.map_or(0, |mixture| mixture.scratch_bytes()))
            .saturating_add(rotations)
            .saturating_add(product([self.n_threads, product_shape.thread_bytes()]))
            .saturating_add(product([
                self.n_threads,
                largest(AttentionShape::thread_bytes),
            ]))
            .saturating_add(product([self.n_threads, latent]))
            .saturating_add(product([self.n_threads, recurrent]))
    }
}

/// Arrays that adding a block's output to the residual stream makes: the product
/// adds by itself unless there is something in between, such as a factor.
fn n_sums(spec: &DecoderSpec, has_norm_after: bool, scale: f32) -> usize {
    match has_norm_after || spec.residual_scale * scale != 1.0 {
        true => 2,
        false => 1,
    }
}

/// Heads of the first layer, and those of the layer with the longest ones.
fn kinds_of_heads(spec: &DecoderSpec) -> [HeadsSpec; 2] {
    let longest = spec.heads.iter().max_by_key(|heads| heads.head_dim);
    [spec.heads[0], *longest.unwrap_or(&spec.heads[0])]
}

/// The most that the forward pass holds of each token: in any layer, beside the inputs of
/// all of them, or when these are made of two more arrays.
fn kernel_row_bytes(spec: &DecoderSpec, element: usize) -> usize {
    let layers = (0..spec.n_layers).map(|layer| layer_row_bytes(spec, layer, element));
    let inputs = inputs_columns(spec) * element;
    let making = match inputs {
        0 => 0,
        _ => spec.hidden_size * element + 2 * inputs,
    };
    let states = spec.altup.map_or(0, |altup| altup.states.width()) * element;
    let moving = match states {
        0 => 0,
        _ => 2 * states + 2 * spec.hidden_size * element,
    };
    inputs + (states + layers.max().unwrap_or(0)).max(moving).max(making)
}

/// Inputs of a token, of all layers together.
fn inputs_columns(spec: &DecoderSpec) -> usize {
    let columns = spec.layer_inputs.map(|inputs| inputs.columns);
    spec.n_layers * columns.unwrap_or(0)
}

/// In the mixer, behind it, or in the feed-forward network, when what the mixer gave is
/// still there.
fn layer_row_bytes(spec: &DecoderSpec, layer: usize, element: usize) -> usize {
    let hidden = spec.hidden_size * element;
    let (in_mixer, mixed) = match &spec.mixers[layer] {
        MixerSpec::None => (0, 0),
        MixerSpec::Recurrent(recurrent) => {
            let mixed = recurrent.mixed_columns() * element;
            (recurrent_bytes(recurrent, element), mixed)
        }
        MixerSpec::Attention | MixerSpec::Both(_) => {
            let mixed = spec.attended_columns(layer) * element;
            (attention_columns(spec, layer) * element, mixed)
        }
    };
    let in_mixer = hidden + in_mixer;
    let scales = &spec.branch_scales;
    let sums = |has_norm_after, scale| n_sums(spec, has_norm_after, scale) * hidden;
    let summing = sums(spec.has_norm_after_attention(layer), scales.mixer);
    // The sum, what was normalized, and the learned residual, which goes over two matrices.
    let learned = |altup: &AltUpSpec| 4 * hidden + altup.rank * element;
    let learned = spec.altup.as_ref().map_or(0, learned);
    let behind_mixer = hidden + mixed + summing.max(learned);
    let behind_mlp = sums(spec.has_norm_after_mlp(layer), scales.mlp);
    let mlp = match &spec.mlps[layer] {
        MlpSpec::None => 0,
        MlpSpec::Dense(dense) => {
            let inner = dense.intermediate_size * element;
            match dense.form {
                // Gates are cut off where what they let through is beside them.
                DenseForm::Gated(_) if dense.cutoff.is_some() => {
                    (3 * inner).max(inner + behind_mlp)
                }
                DenseForm::Gated(_) => inner + behind_mlp,
                DenseForm::Plain(_) => 2 * inner + behind_mlp,
            }
        }
        MlpSpec::Experts(experts) => {
            let normalized = usize::from(spec.has_mlp_norm(layer)) * hidden;
            let routes = experts.router_outputs() * size_of::<f32>();
            let sum = behind_mlp - hidden;
            normalized + hidden + routes.max(sum)
        }
    };
    // The dense network's result and its norm, what goes to router and experts, and what
    // these give.
    let beside = |experts: ExpertsSpec| 5 * hidden + experts.router_outputs() * size_of::<f32>();
    let beside = spec.experts_beside.map(beside);
    let in_front = match &spec.mixers[layer] {
        MixerSpec::None => hidden,
        _ => hidden + mixed + hidden,
    };
    let in_mlp = in_front + mlp.max(beside.unwrap_or(0));
    let with_input = spec.layer_inputs.map(|inputs| {
        let let_in = hidden.max(inputs.columns * element);
        2 * hidden + let_in + inputs.columns * element
    });
    let beside_attention = match &spec.mixers[layer] {
        MixerSpec::Both(recurrent) => {
            let onto = recurrent.mixed_columns() * element + sums(false, scales.beside);
            hidden + mixed + hidden + onto.max(recurrent_bytes(recurrent, element))
        }
        MixerSpec::None | MixerSpec::Attention | MixerSpec::Recurrent(_) => 0,
    };
    in_mixer
        .max(behind_mixer)
        .max(beside_attention)
        .max(in_mlp)
        .max(with_input.unwrap_or(0))
}

/// The most that a recurrent mixer holds of a token beside the hidden state.
fn recurrent_bytes(recurrent: &RecurrentSpec, element: usize) -> usize {
    recurrent.row_columns() * element + recurrent.kernel_bytes(element)
}

/// The most that attention holds of a token beside the hidden state.
fn attention_columns(spec: &DecoderSpec, layer: usize) -> usize {
    let projected = spec.row_columns(layer);
    let attended = spec.attended_columns(layer);
    let Some(latent) = &spec.latent else {
        let is_changed = spec.qk_norm == QkNorm::Rows || spec.qkv_limit.is_some();
        let columns = match is_changed {
            true => projected + projected.max(attended),
            false => projected + attended,
        };
        return match spec.gates_attention {
            // With the rows that have the gates, and what goes through them.
            true => columns + projected + attended,
            false => columns,
        };
    };
    let shape = &latent.shape;
    let (queries, seen) = (shape.query_columns(), shape.n_heads * shape.rank);
    let absorbed = queries + shape.key_dim() + projected;
    let compressed = latent.query_rank.map_or(0, |rank| rank + queries);
    absorbed
        .max(compressed)
        .max(projected + seen)
        .max(seen + attended)
}

/// Rows of the widest matrix that a layer's activations are multiplied with.
fn widest(spec: &DecoderSpec) -> usize {
    let beside = spec.experts_beside.iter().map(ExpertsSpec::widest);
    let inner = spec.mlps.iter().map(MlpSpec::widest).chain(beside);
    let mixed = spec.recurrent().map(RecurrentSpec::mixed_columns);
    let outer = spec.hidden_size.max(spec.widest_attended());
    let outer = outer.max(mixed.max().unwrap_or(0));
    let compressed = spec
        .latent
        .and_then(|latent| latent.query_rank)
        .unwrap_or(0);
    inner.max().unwrap_or(0).max(outer).max(compressed)
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
