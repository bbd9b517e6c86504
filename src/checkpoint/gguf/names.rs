//! Names of tensors: ggml's, and those that transformers gives the same ones.

use super::architecture::{Names, Pairs};

const OUTSIDE: Pairs = &[
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

/// A name that is in no table stays as it is.
pub fn in_checkpoints(name: &str, names: &Names) -> String {
    translated(name, names).unwrap_or_else(|| name.to_owned())
}

/// Which dimension of a tensor files leave out, as its length is 1.
pub fn left_out(name: &str, names: &Names) -> Option<usize> {
    let (module, _) = in_layer(name)?.1.rsplit_once('.')?;
    let entry = names.widened.iter().find(|(widened, _)| *widened == module);
    entry.map(|(_, place)| *place)
}

/// The number of its layer, and the rest of a name.
fn in_layer(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("blk.")?.split_once('.')
}

fn translated(name: &str, names: &Names) -> Option<String> {
    let Some((layer, tensor)) = in_layer(name) else {
        let (module, part) = name.rsplit_once('.')?;
        let module = found(names.outside, module).or_else(|| found(OUTSIDE, module))?;
        return Some(format!("{module}.{part}"));
    };
    let layers = names.layers;
    if let Some(bare) = found(names.modules, tensor) {
        return Some(format!("{layers}.{layer}.{bare}"));
    }
    let (module, part) = tensor.rsplit_once('.')?;
    let by_name = found(names.modules, module).or_else(|| found(IN_LAYERS, module));
    let translated = match by_name {
        Some(name) => name.to_owned(),
        None => {
            let (stem, expert) = module.rsplit_once('.')?;
            found(names.modules, &format!("{stem}.*"))?.replace('*', expert)
        }
    };
    Some(format!("{layers}.{layer}.{translated}.{part}"))
}

fn found(table: Pairs, name: &str) -> Option<&'static str> {
    let entry = table.iter().find(|(ggml, _)| *ggml == name);
    entry.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Names = Names {
        outside: &[],
        layers: "model.layers",
        modules: &[],
        widened: &[],
    };

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
            ("blk.0.ffn_up.3.weight", "blk.0.ffn_up.3.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
            ("blk.", "blk."),
        ] {
            assert_eq!(in_checkpoints(ggml, &PLAIN), expected);
        }
    }

    #[test]
    fn an_architectures_own_names_come_first() {
        let names = Names {
            outside: &[("token_embd", "transformer.wte")],
            layers: "transformer.h",
            modules: &[
                ("ffn_norm", "ln_2"),
                ("attn_sinks.weight", "sinks"),
                ("ffn_up.*", "experts.*.w3"),
                ("ffn_gate_inp_shexp", "gate"),
            ],
            widened: &[("ffn_gate_inp_shexp", 0)],
        };
        for (ggml, expected) in [
            ("token_embd.weight", "transformer.wte.weight"),
            ("output_norm.bias", "model.norm.bias"),
            ("blk.3.ffn_norm.weight", "transformer.h.3.ln_2.weight"),
            ("blk.3.ffn_up.weight", "transformer.h.3.mlp.up_proj.weight"),
            ("blk.3.attn_sinks.weight", "transformer.h.3.sinks"),
            (
                "blk.3.ffn_up.11.weight",
                "transformer.h.3.experts.11.w3.weight",
            ),
        ] {
            assert_eq!(in_checkpoints(ggml, &names), expected);
        }
        let gate = "blk.3.ffn_gate_inp_shexp.weight";
        assert_eq!(left_out(gate, &names), Some(0));
        assert_eq!(left_out("blk.3.ffn_norm.weight", &names), None);
    }
}
