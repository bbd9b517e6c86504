//! Random models whose heads have memories.

use serde_json::{Value, json};

use super::random_model::RandomModel;

type Shapes = Vec<(String, Vec<usize>)>;

/// Which memories, and beside what.
#[derive(Clone, Copy, Debug)]
pub enum Memories {
    /// Those of Qwen3.5, and attention through gates in each second layer.
    Delta,
    /// Those of Mamba 2, and attention in each second layer.
    Scan,
    /// Those of Mamba 2 beside attention, with factors.
    Beside,
}

const N_TAPS: usize = 4;
const N_GROUPS: usize = 2;
const STATE_DIM: usize = 64;

impl Memories {
    pub fn configure(self, shape: &RandomModel, config: &mut Value) {
        let set = |config: &mut Value, values: Value| {
            let values = values.as_object().expect("an object").clone();
            config.as_object_mut().expect("an object").extend(values);
        };
        let kinds: Vec<_> = (0..shape.n_layers).map(|layer| self.kind(layer)).collect();
        let scan = json!({
            "mamba_n_heads": shape.n_heads,
            "mamba_d_head": head_dim(shape),
            "mamba_n_groups": N_GROUPS,
            "mamba_d_state": STATE_DIM,
            "mamba_d_conv": N_TAPS,
        });
        match self {
            Memories::Delta => set(
                config,
                json!({
                    "model_type": "qwen3_5_text",
                    "layer_types": kinds,
                    "linear_num_key_heads": shape.n_kv_heads,
                    "linear_num_value_heads": shape.n_heads,
                    "linear_key_head_dim": shape.head_dim,
                    "linear_value_head_dim": shape.head_dim,
                    "linear_conv_kernel_dim": N_TAPS,
                }),
            ),
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
        }
    }

    fn kind(self, layer: usize) -> &'static str {
        match layer % 2 {
            0 => "linear_attention",
            _ => "full_attention",
        }
    }

    pub fn change(self, shape: &RandomModel, shapes: &mut Shapes) {
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
            if attends && matches!(self, Memories::Delta) {
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
                Memories::Scan | Memories::Beside => scan(shape),
            };
            shapes.extend(
                own.into_iter()
                    .map(|(name, own)| (format!("{prefix}{name}"), own)),
            );
        }
    }
}

/// Of heads that make up twice the width.
fn head_dim(shape: &RandomModel) -> usize {
    2 * shape.hidden_size / shape.n_heads
}

fn delta(shape: &RandomModel) -> Vec<(&'static str, Vec<usize>)> {
    let (hidden, heads) = (shape.hidden_size, shape.n_heads);
    let values = heads * shape.head_dim;
    let mixed = values + 2 * shape.n_kv_heads * shape.head_dim;
    vec![
        ("linear_attn.in_proj_qkv.weight", vec![mixed, hidden]),
        ("linear_attn.in_proj_z.weight", vec![values, hidden]),
        ("linear_attn.in_proj_b.weight", vec![heads, hidden]),
        ("linear_attn.in_proj_a.weight", vec![heads, hidden]),
        ("linear_attn.conv1d.weight", vec![mixed, 1, N_TAPS]),
        ("linear_attn.A_log", vec![heads]),
        ("linear_attn.dt_bias", vec![heads]),
        ("linear_attn.norm.weight", vec![shape.head_dim]),
        ("linear_attn.out_proj.weight", vec![hidden, values]),
    ]
}

fn scan(shape: &RandomModel) -> Vec<(&'static str, Vec<usize>)> {
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
