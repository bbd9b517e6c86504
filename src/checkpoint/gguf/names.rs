//! Names of tensors: ggml's, and those that transformers gives the same ones.

use super::architecture::Pairs;

const WHOLE: Pairs = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

const IN_LAYERS: Pairs = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
];

/// A name that is neither in the tables nor among `modules`, which an architecture
/// calls otherwise, stays as it is.
pub fn in_checkpoints(name: &str, modules: Pairs) -> String {
    translated(name, modules).unwrap_or_else(|| name.to_owned())
}

fn translated(name: &str, modules: Pairs) -> Option<String> {
    let found = |table: Pairs, module: &str| {
        let entry = table.iter().find(|(ggml, _)| *ggml == module);
        entry.map(|(_, name)| *name)
    };
    let (module, part) = name.rsplit_once('.')?;
    match module.strip_prefix("blk.") {
        None => Some(format!("{}.{part}", found(WHOLE, module)?)),
        Some(module) => {
            let (layer, module) = module.split_once('.')?;
            let module = found(modules, module).or_else(|| found(IN_LAYERS, module))?;
            Some(format!("model.layers.{layer}.{module}.{part}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_the_names_of_checkpoints() {
        for (ggml, expected) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
            (
                "blk.12.ffn_norm.weight",
                "model.layers.12.post_attention_layernorm.weight",
            ),
            (
                "blk.0.ffn_up_exps.weight",
                "model.layers.0.mlp.switch_mlp.up_proj.weight",
            ),
            ("blk.0.ssm_in.weight", "blk.0.ssm_in.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
            ("blk.", "blk."),
        ] {
            assert_eq!(in_checkpoints(ggml, &[]), expected);
        }
    }

    #[test]
    fn an_architectures_own_names_come_first() {
        let modules: Pairs = &[("ffn_norm", "pre_feedforward_layernorm")];
        assert_eq!(
            in_checkpoints("blk.3.ffn_norm.weight", modules),
            "model.layers.3.pre_feedforward_layernorm.weight"
        );
        assert_eq!(
            in_checkpoints("blk.3.ffn_up.weight", modules),
            "model.layers.3.mlp.up_proj.weight"
        );
    }
}
