//! Random models of Gemma 3n's and 4's forms.

use serde_json::{Value, json};

use super::random_model::{RandomModel, set};

type Shapes = Vec<(String, Vec<usize>)>;

/// The last layers see the keys and values of those in front of them; all have inputs of
/// their own.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    pub n_shared: usize,
    /// Of a layer's inputs.
    pub columns: usize,
    /// Of layers without windows.
    pub long_head_dim: usize,
}

/// Tokens have several states, layers learned residuals, and the first one a sparse gate.
#[derive(Clone, Copy, Debug)]
pub struct Alternating {
    pub n_states: usize,
    /// Of the learned residual.
    pub rank: usize,
    /// Of a layer's inputs.
    pub columns: usize,
}

/// A mixture of experts beside each dense network.
#[derive(Clone, Copy, Debug)]
pub struct ExpertsBeside {
    pub n_experts: usize,
    pub n_chosen: usize,
    pub intermediate_size: usize,
}

impl Shared {
    pub fn configure(&self, shape: &RandomModel, config: &mut Value) {
        let types: Vec<_> = (0..shape.n_layers)
            .map(|layer| layer_type(self.slides(shape, layer)))
            .collect();
        set(
            config,
            json!({
                "model_type": "gemma4_text",
                "layer_types": types,
                "sliding_window": 64,
                "num_kv_shared_layers": self.n_shared,
                "hidden_size_per_layer_input": self.columns,
                "vocab_size_per_layer_input": shape.vocab_size,
                "global_head_dim": self.long_head_dim,
                "use_double_wide_mlp": true,
            }),
        );
    }

    pub fn change(&self, shape: &RandomModel, shapes: &mut Shapes) {
        keep_outer(shapes);
        add_layer_inputs(shape, self.columns, shapes);
        for layer in 0..shape.n_layers {
            let head_dim = match self.slides(shape, layer) {
                true => shape.head_dim,
                false => self.long_head_dim,
            };
            let is_shared = layer + self.n_shared >= shape.n_layers;
            let own = RandomModel {
                head_dim,
                intermediate_size: shape.intermediate_size * if is_shared { 2 } else { 1 },
                ..*shape
            };
            let mut tensors = block(&own, !is_shared);
            tensors.extend(input_gate(shape, self.columns));
            add(shapes, layer, tensors);
            shapes.push((format!("model.layers.{layer}.layer_scalar"), vec![1]));
        }
    }

    /// Every other layer has a window, if there are two that have own keys; the last one
    /// has none.
    fn slides(&self, shape: &RandomModel, layer: usize) -> bool {
        shape.n_layers - self.n_shared > 1 && (shape.n_layers - layer).is_multiple_of(2)
    }
}

impl Alternating {
    pub fn configure(&self, shape: &RandomModel, config: &mut Value) {
        let types: Vec<_> = (0..shape.n_layers)
            .map(|layer| layer_type(layer + 1 < shape.n_layers))
            .collect();
        let sparsity: Vec<_> = (0..shape.n_layers)
            .map(|layer| if layer == 0 { 0.9 } else { 0.0 })
            .collect();
        set(
            config,
            json!({
                "model_type": "gemma3n_text",
                "layer_types": types,
                "sliding_window": 64,
                "num_kv_shared_layers": 0,
                "hidden_size_per_layer_input": self.columns,
                "vocab_size_per_layer_input": shape.vocab_size,
                "altup_num_inputs": self.n_states,
                "laurel_rank": self.rank,
                "activation_sparsity_pattern": sparsity,
            }),
        );
    }

    pub fn change(&self, shape: &RandomModel, shapes: &mut Shapes) {
        let (hidden, n, rank) = (shape.hidden_size, self.n_states, self.rank);
        keep_outer(shapes);
        add_layer_inputs(shape, self.columns, shapes);
        for index in 0..n - 1 {
            for module in ["altup_projections", "altup_unembed_projections"] {
                let name = format!("model.{module}.{index}.weight");
                shapes.push((name, vec![hidden, hidden]));
            }
        }
        for layer in 0..shape.n_layers {
            let mut tensors = block(shape, true);
            tensors.extend(input_gate(shape, self.columns));
            tensors.extend([
                ("altup.prediction_coefs", vec![n * n, n]),
                ("altup.correction_coefs", vec![n, n]),
                ("altup.modality_router", vec![n, hidden]),
                ("altup.router_norm", vec![hidden]),
                ("laurel.linear_left", vec![rank, hidden]),
                ("laurel.linear_right", vec![hidden, rank]),
                ("laurel.post_laurel_norm", vec![hidden]),
            ]);
            add(shapes, layer, tensors);
            let name = format!("model.layers.{layer}.altup.correct_output_scale");
            shapes.push((name, vec![hidden]));
        }
    }
}

impl ExpertsBeside {
    pub fn configure(&self, shape: &RandomModel, config: &mut Value) {
        set(
            config,
            json!({
                "model_type": "gemma4_text",
                "layer_types": vec![layer_type(false); shape.n_layers],
                "num_kv_shared_layers": 0,
                "hidden_size_per_layer_input": 0,
                "global_head_dim": shape.head_dim,
                "enable_moe_block": true,
                "num_experts": self.n_experts,
                "top_k_experts": self.n_chosen,
                "moe_intermediate_size": self.intermediate_size,
            }),
        );
    }

    pub fn change(&self, shape: &RandomModel, shapes: &mut Shapes) {
        let (hidden, n, inner) = (shape.hidden_size, self.n_experts, self.intermediate_size);
        keep_outer(shapes);
        for layer in 0..shape.n_layers {
            let mut tensors = block(shape, true);
            tensors.extend([
                ("post_feedforward_layernorm_1", vec![hidden]),
                ("pre_feedforward_layernorm_2", vec![hidden]),
                ("post_feedforward_layernorm_2", vec![hidden]),
                ("router.proj", vec![n, hidden]),
            ]);
            add(shapes, layer, tensors);
            let bare = [
                ("router.scale", vec![hidden]),
                ("router.per_expert_scale", vec![n]),
                ("experts.gate_up_proj", vec![n, 2 * inner, hidden]),
                ("experts.down_proj", vec![n, hidden, inner]),
                ("layer_scalar", vec![1]),
            ];
            let named = |(name, shape)| (format!("model.layers.{layer}.{name}"), shape);
            shapes.extend(bare.into_iter().map(named));
        }
    }
}

/// A tensor's module below its layer, and its shape.
type Tensor = (&'static str, Vec<usize>);

/// Attention and a feed-forward network, each between two norms.
fn block(shape: &RandomModel, has_own_keys: bool) -> Vec<Tensor> {
    let (hidden, head_dim) = (shape.hidden_size, shape.head_dim);
    let (queries, keys) = (shape.n_heads * head_dim, shape.n_kv_heads * head_dim);
    let inner = shape.intermediate_size;
    let mut tensors = vec![
        ("input_layernorm", vec![hidden]),
        ("post_attention_layernorm", vec![hidden]),
        ("pre_feedforward_layernorm", vec![hidden]),
        ("post_feedforward_layernorm", vec![hidden]),
        ("self_attn.q_proj", vec![queries, hidden]),
        ("self_attn.q_norm", vec![head_dim]),
        ("self_attn.o_proj", vec![hidden, queries]),
        ("mlp.gate_proj", vec![inner, hidden]),
        ("mlp.up_proj", vec![inner, hidden]),
        ("mlp.down_proj", vec![hidden, inner]),
    ];
    if has_own_keys {
        tensors.extend([
            ("self_attn.k_proj", vec![keys, hidden]),
            ("self_attn.v_proj", vec![keys, hidden]),
            ("self_attn.k_norm", vec![head_dim]),
        ]);
    }
    tensors
}

/// What lets a layer's inputs in.
fn input_gate(shape: &RandomModel, columns: usize) -> [Tensor; 3] {
    let hidden = shape.hidden_size;
    [
        ("per_layer_input_gate", vec![columns, hidden]),
        ("per_layer_projection", vec![hidden, columns]),
        ("post_per_layer_input_norm", vec![hidden]),
    ]
}

/// What makes the inputs of all layers.
fn add_layer_inputs(shape: &RandomModel, columns: usize, shapes: &mut Shapes) {
    let width = shape.n_layers * columns;
    let tensors = [
        ("embed_tokens_per_layer", vec![shape.vocab_size, width]),
        ("per_layer_model_projection", vec![width, shape.hidden_size]),
        ("per_layer_projection_norm", vec![columns]),
    ];
    let named = |(module, shape)| (format!("model.{module}.weight"), shape);
    shapes.extend(tensors.into_iter().map(named));
}

fn add(shapes: &mut Shapes, layer: usize, tensors: Vec<Tensor>) {
    let named = |(module, shape)| (format!("model.layers.{layer}.{module}.weight"), shape);
    shapes.extend(tensors.into_iter().map(named));
}

/// Drops what is of layers, and the head, which is the table.
fn keep_outer(shapes: &mut Shapes) {
    shapes.retain(|(name, _)| !name.contains(".layers.") && !name.contains("lm_head"));
}

fn layer_type(slides: bool) -> &'static str {
    match slides {
        true => "sliding_attention",
        false => "full_attention",
    }
}
