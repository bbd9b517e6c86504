//! Matrices that publishers have in one and mlx-lm apart.

use super::plan::{Output, Part, is_matrix, whole};
use crate::checkpoint::TensorInfo;
use crate::decoder::DecoderSpec;
use crate::mlx::LatentShape;

pub struct Apart {
    latent: Option<LatentShape>,
    network: Option<(&'static str, [&'static str; 2])>,
}

/// Families of latent attention whose keys and values are apart by head.
const LATENT_TYPES: [&str; 5] = [
    "deepseek_v3",
    "kimi_k2",
    "kimi_k25",
    "glm4_moe_lite",
    "mistral4",
];

const KEYS_AND_VALUES: &str = "self_attn.kv_b_proj";

impl Apart {
    pub fn of(spec: &DecoderSpec) -> Apart {
        let is_apart = LATENT_TYPES.contains(&spec.model_type.as_str());
        let latent = spec.latent.filter(|_| is_apart);
        Apart {
            latent: latent.map(|latent| latent.shape),
            network: spec.network_apart(),
        }
    }

    pub fn outputs(&self, name: &str, tensor: &TensorInfo) -> Option<Vec<Output>> {
        let module = name.strip_suffix(".weight").filter(|_| is_matrix(tensor))?;
        if let Some((both, names)) = self.network {
            let before = module.strip_suffix(both)?;
            return halves(names.map(|name| format!("{before}{name}.weight")), tensor);
        }
        let before = module.strip_suffix(KEYS_AND_VALUES)?;
        heads(before, tensor, self.latent.as_ref()?)
    }
}

/// The first rows and as many behind them.
fn halves(names: [String; 2], tensor: &TensorInfo) -> Option<Vec<Output>> {
    let [n_rows, columns] = tensor.shape[..] else {
        return None;
    };
    if !n_rows.is_multiple_of(2) {
        return None;
    }
    let half = n_rows / 2;
    let half = |(index, name): (usize, String)| Output {
        shape: vec![half, columns],
        parts: vec![Part::rows(tensor, index * half, half, columns)],
        ..whole(name, tensor)
    };
    Some(names.into_iter().enumerate().map(half).collect())
}

/// Of each head the matrix of its keys, by output, and that of its values.
fn heads(before: &str, tensor: &TensorInfo, shape: &LatentShape) -> Option<Vec<Output>> {
    let LatentShape {
        n_heads,
        plain_dim,
        value_dim,
        rank,
        ..
    } = *shape;
    let rows = plain_dim + value_dim;
    if tensor.shape != [n_heads * rows, rank] {
        return None;
    }
    let keys = |head: usize| Part {
        n_rows: rank,
        row_step: 1,
        column_step: rank,
        ..Part::rows(tensor, head * rows, plain_dim, rank)
    };
    let values = |head: usize| Part::rows(tensor, head * rows + plain_dim, value_dim, rank);
    Some(vec![
        Output {
            shape: vec![n_heads, rank, plain_dim],
            parts: (0..n_heads).map(keys).collect(),
            ..whole(format!("{before}self_attn.embed_q.weight"), tensor)
        },
        Output {
            shape: vec![n_heads, value_dim, rank],
            parts: (0..n_heads).map(values).collect(),
            ..whole(format!("{before}self_attn.unembed_out.weight"), tensor)
        },
    ])
}
