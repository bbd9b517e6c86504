//! Checkpoints of families whose layers are built otherwise than Llama's.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::random_gemma::{Alternating, ExpertsBeside};
use super::random_memories::Memories;
use super::random_model::{RandomModel, write_random};

pub use super::random_gemma::Shared;

/// How the layers differ.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Llama,
    /// Norms behind blocks too, bounded scores and logits.
    Gemma2,
    /// Attention beside a feed-forward network without a gate.
    Phi,
    /// Rows of queries and keys are normalized.
    Olmo2,
    /// Queries, keys and values are bounded, and norms have no weights.
    Clipped,
    /// What heads see goes through gates of their own.
    Gated,
    /// Many small feed-forward networks behind a first layer with one, and one that
    /// every token goes through.
    Mixture(Mixture),
    /// Attention in chunks, experts whose inputs have shares, stored by input.
    Chunked(Chunked),
    /// Attention over latent vectors.
    Latent(Latent),
    /// Short convolutions, and attention in each so-many-th layer.
    ShortConv(usize),
    Shared(Shared),
    Alternating(Alternating),
    ExpertsBeside(ExpertsBeside),
    /// Heads with memories.
    Memories(Memories),
}

#[derive(Clone, Copy, Debug)]
pub struct Latent {
    pub query_rank: Option<usize>,
    pub rank: usize,
    pub plain_dim: usize,
    pub rotated_dim: usize,
    pub value_dim: usize,
}

impl Latent {
    /// With queries that are compressed, too.
    pub const SMALL: Latent = Latent {
        query_rank: Some(48),
        rank: 96,
        plain_dim: 24,
        rotated_dim: 32,
        value_dim: 20,
    };
}

#[derive(Clone, Copy, Debug)]
pub struct Mixture {
    pub n_experts: usize,
    pub n_chosen: usize,
    pub intermediate_size: usize,
    pub shared_size: usize,
}

/// Experts, and the one that every token goes through, are equally wide.
#[derive(Clone, Copy, Debug)]
pub struct Chunked {
    pub chunk: usize,
    pub n_experts: usize,
    pub n_chosen: usize,
    pub intermediate_size: usize,
}

/// A model of this shape and form.
#[derive(Clone, Copy, Debug)]
pub struct RandomFamily {
    pub shape: RandomModel,
    pub form: Form,
}

type Shapes = Vec<(String, Vec<usize>)>;

impl RandomFamily {
    pub fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        let (config, shapes) = (self.config(), self.shapes());
        write_random(directory.path(), &config, &shapes, self.shape.dtype);
        directory
    }

    fn config(&self) -> Value {
        let mut config = self.shape.config();
        match self.form {
            Form::Llama => {}
            Form::Gemma2 => {
                config["model_type"] = json!("gemma2");
                config["query_pre_attn_scalar"] = json!(self.shape.head_dim);
                config["attn_logit_softcapping"] = json!(50.0);
                config["final_logit_softcapping"] = json!(30.0);
                config["sliding_window"] = json!(256);
            }
            Form::Phi => config["model_type"] = json!("phi"),
            Form::Olmo2 => config["model_type"] = json!("olmo2"),
            Form::Clipped => {
                config["model_type"] = json!("olmo");
                config["clip_qkv"] = json!(0.5);
            }
            // All layers are dense.
            Form::Gated => {
                config["model_type"] = json!("afmoe");
                config["num_dense_layers"] = json!(self.shape.n_layers);
                config["num_experts"] = json!(2);
                config["num_experts_per_tok"] = json!(1);
                config["moe_intermediate_size"] = json!(32);
            }
            Form::Mixture(mixture) => {
                config["model_type"] = json!("qwen2_moe");
                config["num_experts"] = json!(mixture.n_experts);
                config["num_experts_per_tok"] = json!(mixture.n_chosen);
                config["moe_intermediate_size"] = json!(mixture.intermediate_size);
                config["shared_expert_intermediate_size"] = json!(mixture.shared_size);
                config["mlp_only_layers"] = json!([0]);
            }
            Form::Chunked(chunked) => {
                config["model_type"] = json!("llama4_text");
                config["attention_chunk_size"] = json!(chunked.chunk);
                config["num_local_experts"] = json!(chunked.n_experts);
                config["num_experts_per_tok"] = json!(chunked.n_chosen);
                config["intermediate_size"] = json!(chunked.intermediate_size);
            }
            Form::Latent(latent) => {
                config["model_type"] = json!("minicpm3");
                config["tie_word_embeddings"] = json!(false);
                config["q_lora_rank"] = json!(latent.query_rank);
                config["kv_lora_rank"] = json!(latent.rank);
                config["qk_nope_head_dim"] = json!(latent.plain_dim);
                config["qk_rope_head_dim"] = json!(latent.rotated_dim);
                config["v_head_dim"] = json!(latent.value_dim);
            }
            Form::Memories(memories) => memories.configure(&self.shape, &mut config),
            Form::ShortConv(each) => {
                let kind = |layer| match attends(layer, each) {
                    true => "full_attention",
                    false => "conv",
                };
                config["model_type"] = json!("lfm2");
                config["block_auto_adjust_ff_dim"] = json!(false);
                config["layer_types"] = (0..self.shape.n_layers).map(kind).collect();
            }
            Form::Shared(shared) => shared.configure(&self.shape, &mut config),
            Form::Alternating(form) => form.configure(&self.shape, &mut config),
            Form::ExpertsBeside(form) => form.configure(&self.shape, &mut config),
        }
        config
    }

    fn shapes(&self) -> Shapes {
        let mut shapes = self.shape.shapes();
        match self.form {
            Form::Llama => {}
            Form::Gemma2 => self.add_to_layers(&mut shapes, |hidden| {
                vec![
                    named("pre_feedforward_layernorm.weight", [hidden]),
                    named("post_feedforward_layernorm.weight", [hidden]),
                ]
            }),
            Form::Phi => self.make_phi(&mut shapes),
            Form::Olmo2 => self.make_olmo2(&mut shapes),
            Form::Clipped => shapes.retain(|(name, _)| !name.ends_with("norm.weight")),
            Form::Gated => self.make_gated(&mut shapes),
            Form::Mixture(mixture) => self.make_mixture(&mut shapes, &mixture),
            Form::Chunked(chunked) => self.make_chunked(&mut shapes, &chunked),
            Form::Latent(latent) => self.make_latent(&mut shapes, &latent),
            Form::ShortConv(each) => self.make_short_conv(&mut shapes, each),
            Form::Shared(shared) => shared.change(&self.shape, &mut shapes),
            Form::Alternating(form) => form.change(&self.shape, &mut shapes),
            Form::ExpertsBeside(form) => form.change(&self.shape, &mut shapes),
            Form::Memories(memories) => memories.change(&self.shape, &mut shapes),
        }
        shapes
    }

    fn add_to_layers(
        &self,
        shapes: &mut Shapes,
        tensors: impl Fn(usize) -> Vec<(String, Vec<usize>)>,
    ) {
        for layer in 0..self.shape.n_layers {
            let tensors = tensors(self.shape.hidden_size).into_iter();
            shapes.extend(
                tensors.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)),
            );
        }
    }

    fn make_olmo2(&self, shapes: &mut Shapes) {
        let RandomModel {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = self.shape;
        shapes.retain(|(name, _)| !name.ends_with("input_layernorm.weight"));
        self.add_to_layers(shapes, |hidden| {
            vec![
                named("post_feedforward_layernorm.weight", [hidden]),
                named("self_attn.q_norm.weight", [n_heads * head_dim]),
                named("self_attn.k_norm.weight", [n_kv_heads * head_dim]),
            ]
        });
    }

    fn make_gated(&self, shapes: &mut Shapes) {
        let RandomModel {
            n_heads, head_dim, ..
        } = self.shape;
        self.add_to_layers(shapes, |hidden| {
            vec![
                named("pre_mlp_layernorm.weight", [hidden]),
                named("post_mlp_layernorm.weight", [hidden]),
                named("self_attn.q_norm.weight", [head_dim]),
                named("self_attn.k_norm.weight", [head_dim]),
                named("self_attn.gate_proj.weight", [n_heads * head_dim, hidden]),
            ]
        });
    }

    fn make_chunked(&self, shapes: &mut Shapes, chunked: &Chunked) {
        let (n, inner) = (chunked.n_experts, chunked.intermediate_size);
        shapes.retain(|(name, _)| !name.contains(".mlp."));
        self.add_to_layers(shapes, |hidden| {
            let tensors = [
                ("router.weight", vec![n, hidden]),
                ("experts.gate_up_proj", vec![n, hidden, 2 * inner]),
                ("experts.down_proj", vec![n, inner, hidden]),
                ("shared_expert.gate_proj.weight", vec![inner, hidden]),
                ("shared_expert.up_proj.weight", vec![inner, hidden]),
                ("shared_expert.down_proj.weight", vec![hidden, inner]),
            ];
            let named = |(name, shape)| (format!("feed_forward.{name}"), shape);
            tensors.map(named).into()
        });
    }

    fn make_latent(&self, shapes: &mut Shapes, latent: &Latent) {
        let n_heads = self.shape.n_heads;
        shapes.retain(|(name, _)| !name.contains(".self_attn."));
        let queries = n_heads * (latent.plain_dim + latent.rotated_dim);
        let values = n_heads * latent.value_dim;
        let heads = n_heads * (latent.plain_dim + latent.value_dim);
        self.add_to_layers(shapes, |hidden| {
            let mut tensors = vec![
                (
                    "kv_a_proj_with_mqa",
                    vec![latent.rank + latent.rotated_dim, hidden],
                ),
                ("kv_a_layernorm", vec![latent.rank]),
                ("kv_b_proj", vec![heads, latent.rank]),
                ("o_proj", vec![hidden, values]),
            ];
            match latent.query_rank {
                Some(rank) => tensors.extend([
                    ("q_a_proj", vec![rank, hidden]),
                    ("q_a_layernorm", vec![rank]),
                    ("q_b_proj", vec![queries, rank]),
                ]),
                None => tensors.push(("q_proj", vec![queries, hidden])),
            }
            let named = |(module, shape)| (format!("self_attn.{module}.weight"), shape);
            tensors.into_iter().map(named).collect()
        });
    }

    fn make_short_conv(&self, shapes: &mut Shapes, each: usize) {
        const NAMES: [(&str, &str); 7] = [
            ("model.norm", "model.embedding_norm"),
            ("input_layernorm", "operator_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.o_proj", "self_attn.out_proj"),
            ("mlp.gate_proj", "feed_forward.w1"),
            ("mlp.up_proj", "feed_forward.w3"),
            ("mlp.down_proj", "feed_forward.w2"),
        ];
        for (name, _) in shapes.iter_mut() {
            for (from, to) in NAMES {
                *name = name.replace(from, to);
            }
        }
        let RandomModel {
            hidden_size,
            head_dim,
            n_layers,
            ..
        } = self.shape;
        for layer in 0..n_layers {
            let prefix = format!("model.layers.{layer}");
            let mut add = |name: &str, shape| shapes.push((format!("{prefix}.{name}"), shape));
            if attends(layer, each) {
                add("self_attn.q_layernorm.weight", vec![head_dim]);
                add("self_attn.k_layernorm.weight", vec![head_dim]);
                continue;
            }
            add("conv.in_proj.weight", vec![3 * hidden_size, hidden_size]);
            add("conv.out_proj.weight", vec![hidden_size, hidden_size]);
            add("conv.conv.weight", vec![hidden_size, 1, 3]);
            let attention = format!("{prefix}.self_attn");
            shapes.retain(|(name, _)| !name.starts_with(&attention));
        }
    }

    /// Everything has a bias.
    fn make_phi(&self, shapes: &mut Shapes) {
        shapes.retain(|(name, _)| {
            !name.ends_with("post_attention_layernorm.weight") && !name.contains("gate_proj")
        });
        for (name, _) in shapes.iter_mut() {
            *name = name
                .replace("model.norm", "model.final_layernorm")
                .replace("o_proj", "dense")
                .replace("up_proj", "fc1")
                .replace("down_proj", "fc2");
        }
        let biases: Shapes = shapes
            .iter()
            .filter(|(name, _)| !name.contains("embed_tokens"))
            .map(|(name, shape)| (name.replace(".weight", ".bias"), vec![shape[0]]))
            .collect();
        shapes.extend(biases);
    }

    fn make_mixture(&self, shapes: &mut Shapes, mixture: &Mixture) {
        let RandomModel {
            n_heads,
            n_kv_heads,
            head_dim,
            n_layers,
            hidden_size,
            ..
        } = self.shape;
        let is_dense = |name: &str| name.starts_with("model.layers.0.");
        shapes.retain(|(name, _)| is_dense(name) || !name.contains(".mlp."));
        self.add_to_layers(shapes, |_| {
            vec![
                named("self_attn.q_proj.bias", [n_heads * head_dim]),
                named("self_attn.k_proj.bias", [n_kv_heads * head_dim]),
                named("self_attn.v_proj.bias", [n_kv_heads * head_dim]),
            ]
        });
        for layer in 1..n_layers {
            let mlp = format!("model.layers.{layer}.mlp");
            let mut network = |module: String, inner: usize| {
                for linear in ["gate_proj", "up_proj"] {
                    shapes.push(named(
                        &format!("{module}.{linear}.weight"),
                        [inner, hidden_size],
                    ));
                }
                shapes.push(named(
                    &format!("{module}.down_proj.weight"),
                    [hidden_size, inner],
                ));
            };
            for expert in 0..mixture.n_experts {
                network(format!("{mlp}.experts.{expert}"), mixture.intermediate_size);
            }
            network(format!("{mlp}.shared_expert"), mixture.shared_size);
            let router = [mixture.n_experts, hidden_size];
            shapes.push(named(&format!("{mlp}.gate.weight"), router));
            let share = format!("{mlp}.shared_expert_gate.weight");
            shapes.push(named(&share, [1, hidden_size]));
        }
    }
}

fn attends(layer: usize, each: usize) -> bool {
    (layer + 1).is_multiple_of(each)
}

fn named<const N: usize>(name: &str, shape: [usize; N]) -> (String, Vec<usize>) {
    (name.to_owned(), shape.to_vec())
}
