//! Random models whose heads have memories.

use serde_json::{Value, json};

use super::random_model::{RandomModel, set};

type Shapes = Vec<(String, Vec<usize>)>;

/// Which memories, and beside what.
#[derive(Clone, Copy, Debug)]
pub enum Memories {
    /// Those of Qwen3.5, and attention through gates in each second layer.
    Delta,
    /// The same as Qwen3-Next has it, whose projections have what belongs to a head next
    /// to each other.
    DeltaByHead,
    /// Those of Mamba 2, and attention in each second layer.
    Scan,
    /// Those of Mamba 2 beside attention, with factors.
    Beside,
    /// Mamba 2: nothing else in a layer.
    Alone,
    /// In turn with wide networks and attention, each a layer, as Nemotron-H has it.
    Apart,
}

const N_TAPS: usize = 4;
const N_GROUPS: usize = 2;
const STATE_DIM: usize = 64;
/// Networks that are layers of their own take more than mixers.
const WIDENED: usize = 8;

impl Memories {
    pub fn configure(self, shape: &RandomModel, config: &mut Value) {
        let kinds: Vec<_> = (0..shape.n_layers).map(|layer| self.kind(layer)).collect();
        let scan = json!({
            "mamba_n_heads": shape.n_heads,
            "mamba_d_head": head_dim(shape),
            "mamba_n_groups": N_GROUPS,
            "mamba_d_state": STATE_DIM,
            "mamba_d_conv": N_TAPS,
        });
        let delta = json!({
            "layer_types": kinds,
            "linear_num_key_heads": shape.n_kv_heads,
            "linear_num_value_heads": shape.n_heads,
            "linear_key_head_dim": shape.head_dim,
            "linear_value_head_dim": shape.head_dim,
            "linear_conv_kernel_dim": N_TAPS,
        });
        match self {
            Memories::Delta => {
                set(config, delta);
                set(config, json!({ "model_type": "qwen3_5_text" }));
            }
            Memories::DeltaByHead => {
                set(config, delta);
                set(
                    config,
                    json!({
                        "model_type": "qwen3_next",
                        "num_experts": 2,
                        "num_experts_per_tok": 1,
                        "moe_intermediate_size": 16,
                        "shared_expert_intermediate_size": 16,
                        "mlp_only_layers": (0..shape.n_layers).collect::<Vec<_>>(),
                    }),
                );
            }
            Memories::Scan => {
                set(config, scan);
                set(
                    config,
                    json!({
                        "model_type": "granitemoehybrid",
                        "layer_types": kinds,
                        "num_local_experts": 0,
                        "shared_intermediate_size": shape.intermediate_size,
                    }),
                );
            }
            Memories::Beside => {
                set(config, scan);
                set(
                    config,
                    json!({
                        "model_type": "falcon_h1",
                        "mamba_d_ssm": 2 * shape.hidden_size,
                        "mamba_rms_norm": true,
                        "ssm_out_multiplier": 0.5,
                    }),
                );
            }
            Memories::Alone => {
                *config = json!({
                    "model_type": "mamba2",
                    "hidden_size": shape.hidden_size,
                    "num_hidden_layers": shape.n_layers,
                    "vocab_size": shape.vocab_size,
                    "num_heads": shape.n_heads,
                    "head_dim": head_dim(shape),
                    "n_groups": N_GROUPS,
                    "state_size": STATE_DIM,
                    "conv_kernel": N_TAPS,
                    "tie_word_embeddings": false,
                });
            }
            Memories::Apart => {
                let blocks: Vec<_> = (0..shape.n_layers).map(block_type).collect();
                let own = json!({
                    "model_type": "nemotron_h",
                    "layers_block_type": blocks,
                    "intermediate_size": WIDENED * shape.intermediate_size,
                    "mlp_hidden_act": "relu2",
                    "mamba_num_heads": shape.n_heads,
                    "mamba_head_dim": head_dim(shape),
                    "n_groups": N_GROUPS,
                    "ssm_state_size": STATE_DIM,
                    "conv_kernel": N_TAPS,
                });
                set(config, own);
            }
        }
    }

    fn kind(self, layer: usize) -> &'static str {
        match layer % 2 {
            0 => "linear_attention",
            _ => "full_attention",
        }
    }

    pub fn change(self, shape: &RandomModel, shapes: &mut Shapes) {
        match self {
            Memories::Alone => return make_mamba(shape, shapes, |_| "linear_attention"),
            Memories::Apart => return make_mamba(shape, shapes, block_type),
            _ => {}
        }
        if let Memories::Beside = self {
            const NAMES: [(&str, &str); 3] = [
                ("model.norm", "model.final_layernorm"),
                ("post_attention_layernorm", "pre_ff_layernorm"),
                (".mlp.", ".feed_forward."),
            ];
            for (name, _) in shapes.iter_mut() {
                for (from, to) in NAMES {
                    *name = name.replace(from, to);
                }
            }
        }
        for layer in 0..shape.n_layers {
            let prefix = format!("model.layers.{layer}.");
            let attends = self.kind(layer) == "full_attention";
            if attends && matches!(self, Memories::Delta | Memories::DeltaByHead) {
                let queries = format!("{prefix}self_attn.q_proj.weight");
                let doubled = shapes.iter_mut().find(|(name, _)| *name == queries);
                doubled.expect("queries").1[0] *= 2;
                for norm in ["q_norm", "k_norm"] {
                    let name = format!("{prefix}self_attn.{norm}.weight");
                    shapes.push((name, vec![shape.head_dim]));
                }
            }
            if attends && !matches!(self, Memories::Beside) {
                continue;
            }
            if !matches!(self, Memories::Beside) {
                let attention = format!("{prefix}self_attn.");
                shapes.retain(|(name, _)| !name.starts_with(&attention));
            }
            let own = match self {
                Memories::Delta => delta(shape),
                Memories::DeltaByHead => delta_by_head(shape),
                _ => scan(shape),
            };
            shapes.extend(
                own.into_iter()
                    .map(|(name, own)| (format!("{prefix}{name}"), own)),
            );
        }
    }
}

/// Norms and blocks, each of its type, under names of their own.
fn make_mamba(
    shape: &RandomModel,
    shapes: &mut Shapes,
    block_type: impl Fn(usize) -> &'static str,
) {
    const NAMES: [(&str, &str); 2] = [
        ("model.embed_tokens", "backbone.embeddings"),
        ("model.norm", "backbone.norm_f"),
    ];
    shapes.retain(|(name, _)| !name.contains(".layers."));
    for (name, _) in shapes.iter_mut() {
        for (from, to) in NAMES {
            *name = name.replace(from, to);
        }
    }
    for layer in 0..shape.n_layers {
        let prefix = format!("backbone.layers.{layer}");
        let tensors = match block_type(layer) {
            "mlp" => network(shape),
            "full_attention" => attention(shape),
            _ => scan(shape),
        };
        shapes.push((format!("{prefix}.norm.weight"), vec![shape.hidden_size]));
        let own = |(name, own): (&str, _)| {
            let (_, name) = name.split_once('.').expect("a module and a name");
            (format!("{prefix}.mixer.{name}"), own)
        };
        shapes.extend(tensors.into_iter().map(own));
    }
}

fn block_type(layer: usize) -> &'static str {
    ["linear_attention", "mlp", "full_attention"][layer % 3]
}

fn network(shape: &RandomModel) -> Tensors {
    let (hidden, inner) = (shape.hidden_size, WIDENED * shape.intermediate_size);
    vec![
        ("mlp.up_proj.weight", vec![inner, hidden]),
        ("mlp.down_proj.weight", vec![hidden, inner]),
    ]
}

fn attention(shape: &RandomModel) -> Tensors {
    let hidden = shape.hidden_size;
    let queries = shape.n_heads * shape.head_dim;
    let keys = shape.n_kv_heads * shape.head_dim;
    vec![
        ("self_attn.q_proj.weight", vec![queries, hidden]),
        ("self_attn.k_proj.weight", vec![keys, hidden]),
        ("self_attn.v_proj.weight", vec![keys, hidden]),
        ("self_attn.o_proj.weight", vec![hidden, queries]),
    ]
}

/// Of heads that make up twice the width.
fn head_dim(shape: &RandomModel) -> usize {
    2 * shape.hidden_size / shape.n_heads
}

type Tensors = Vec<(&'static str, Vec<usize>)>;

fn delta(shape: &RandomModel) -> Tensors {
    let (hidden, heads) = (shape.hidden_size, shape.n_heads);
    let (mixed, values) = delta_columns(shape);
    let mut tensors = vec![
        ("linear_attn.in_proj_qkv.weight", vec![mixed, hidden]),
        ("linear_attn.in_proj_z.weight", vec![values, hidden]),
        ("linear_attn.in_proj_b.weight", vec![heads, hidden]),
        ("linear_attn.in_proj_a.weight", vec![heads, hidden]),
    ];
    tensors.extend(delta_behind_inputs(shape));
    tensors
}

fn delta_by_head(shape: &RandomModel) -> Tensors {
    let (hidden, heads) = (shape.hidden_size, shape.n_heads);
    let (mixed, values) = delta_columns(shape);
    let mut tensors = vec![
        (
            "linear_attn.in_proj_qkvz.weight",
            vec![mixed + values, hidden],
        ),
        ("linear_attn.in_proj_ba.weight", vec![2 * heads, hidden]),
    ];
    tensors.extend(delta_behind_inputs(shape));
    tensors
}

/// Of queries, keys and values together, and of values.
fn delta_columns(shape: &RandomModel) -> (usize, usize) {
    let values = shape.n_heads * shape.head_dim;
    (values + 2 * shape.n_kv_heads * shape.head_dim, values)
}

fn delta_behind_inputs(shape: &RandomModel) -> Tensors {
    let (mixed, values) = delta_columns(shape);
    vec![
        ("linear_attn.conv1d.weight", vec![mixed, 1, N_TAPS]),
        ("linear_attn.A_log", vec![shape.n_heads]),
        ("linear_attn.dt_bias", vec![shape.n_heads]),
        ("linear_attn.norm.weight", vec![shape.head_dim]),
        (
            "linear_attn.out_proj.weight",
            vec![shape.hidden_size, values],
        ),
    ]
}

fn scan(shape: &RandomModel) -> Tensors {
    let (hidden, heads) = (shape.hidden_size, shape.n_heads);
    let inner = 2 * hidden;
    let mixed = inner + 2 * N_GROUPS * STATE_DIM;
    vec![
        ("mamba.in_proj.weight", vec![inner + mixed + heads, hidden]),
        ("mamba.conv1d.weight", vec![mixed, 1, N_TAPS]),
        ("mamba.conv1d.bias", vec![mixed]),
        ("mamba.A_log", vec![heads]),
        ("mamba.D", vec![heads]),
        ("mamba.dt_bias", vec![heads]),
        ("mamba.norm.weight", vec![inner]),
        ("mamba.out_proj.weight", vec![hidden, inner]),
    ]
}
