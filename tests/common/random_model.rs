//! Checkpoints of any shape, filled with random numbers.

use std::path::Path;

use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;
use umrt::checkpoint::{Dtype, NewTensor, write_safetensors};

use super::Random;

/// A Llama of this shape.
#[derive(Clone, Copy, Debug)]
pub struct RandomModel {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub dtype: Dtype,
}

impl RandomModel {
    /// Heads that all kinds of caches can hold.
    pub const WIDE_HEADS: RandomModel = RandomModel {
        hidden_size: 64,
        intermediate_size: 128,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        vocab_size: 96,
        dtype: Dtype::F32,
    };
}

impl Default for RandomModel {
    fn default() -> Self {
        Self {
            hidden_size: 64,
            intermediate_size: 128,
            n_layers: 3,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            vocab_size: 96,
            dtype: Dtype::F32,
        }
    }
}

/// Random numbers repeat after so many; a prime, so that no rows are equal.
const PERIOD: usize = 65_521;

impl RandomModel {
    pub fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        self.write_to(directory.path());
        directory
    }

    fn write_to(&self, directory: &Path) {
        write_random(directory, &self.config(), &self.shapes(), self.dtype);
    }

    pub fn config(&self) -> Value {
        json!({
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
        })
    }

    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.hidden_size;
        let queries = self.n_heads * self.head_dim;
        let keys = self.n_kv_heads * self.head_dim;
        let per_layer = [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![queries, hidden]),
            ("self_attn.k_proj", vec![keys, hidden]),
            ("self_attn.v_proj", vec![keys, hidden]),
            ("self_attn.o_proj", vec![hidden, queries]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![self.intermediate_size, hidden]),
            ("mlp.up_proj", vec![self.intermediate_size, hidden]),
            ("mlp.down_proj", vec![hidden, self.intermediate_size]),
        ];
        let layers = (0..self.n_layers).flat_map(|layer| {
            per_layer.iter().map(move |(module, shape)| {
                let name = format!("model.layers.{layer}.{module}.weight");
                (name, shape.clone())
            })
        });
        let table = vec![self.vocab_size, hidden];
        let outer = [
            ("model.embed_tokens.weight".to_owned(), table.clone()),
            ("model.norm.weight".to_owned(), vec![hidden]),
            ("lm_head.weight".to_owned(), table),
        ];
        outer.into_iter().chain(layers).collect()
    }
}

/// Adds entries to an object.
pub fn set(config: &mut Value, entries: Value) {
    let entries = entries.as_object().expect("an object").clone();
    let config = config.as_object_mut().expect("an object");
    config.extend(entries);
}

/// A checkpoint of tensors of these names and shapes.
pub fn write_random(
    directory: &Path,
    config: &Value,
    shapes: &[(String, Vec<usize>)],
    dtype: Dtype,
) {
    let path = directory.join("config.json");
    std::fs::write(path, config.to_string()).expect("config.json");
    let elements = |shape: &[usize]| shape.iter().product::<usize>();
    let is_vector = |shape: &[usize]| shape.len() == 1;
    // All tensors are parts of two pools, so that memory for the largest tensor is
    // enough to write a checkpoint of any length.
    let pool = |of_vectors: bool, center, spread| {
        let lengths = shapes.iter().map(|(_, shape)| shape);
        let lengths = lengths.filter(|shape| is_vector(shape) == of_vectors);
        let largest = lengths.map(|shape| elements(shape)).max().unwrap_or(0);
        random_bytes(dtype, largest + shapes.len(), center, spread)
    };
    let (matrices, vectors) = (pool(false, 0.0, 0.1), pool(true, 1.0, 0.5));
    let tensors: Vec<_> = shapes
        .iter()
        .enumerate()
        .map(|(index, (name, shape))| {
            let pool = match is_vector(shape) {
                true => &vectors,
                false => &matrices,
            };
            let end = index + elements(shape);
            NewTensor {
                name,
                dtype,
                shape,
                bytes: &pool[index * dtype.size()..end * dtype.size()],
            }
        })
        .collect();
    let path = directory.join("model.safetensors");
    write_safetensors(&path, &tensors, &[("format", "mlx")]).expect("weights");
}

/// Evenly distributed within `spread` around `center`.
fn random_bytes(dtype: Dtype, elements: usize, center: f32, spread: f32) -> Vec<u8> {
    let mut random = Random(7);
    let values = (0..PERIOD.min(elements)).map(|_| center + spread * random.next_f32());
    let period: Vec<u8> = match dtype {
        Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
        Dtype::F16 => values
            .flat_map(|v| f16::from_f32(v).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .flat_map(|v| bf16::from_f32(v).to_le_bytes())
            .collect(),
        other => panic!("no random numbers of type {other}"),
    };
    let mut bytes = period.repeat(elements.div_ceil(PERIOD));
    bytes.truncate(elements * dtype.size());
    bytes
}
