use super::*;
use crate::error::Status;

fn spec(changes: &[(&str, serde_json::Value)]) -> Result<DecoderSpec> {
    let mut config = serde_json::json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 128,
        "max_position_embeddings": 256,
    });
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    let bytes = config.to_string();
    DecoderSpec::from_config(&Config::parse(bytes.as_bytes(), "config.json")?)
}

#[test]
fn absent_keys_have_the_defaults_of_the_family() {
    let llama = spec(&[]).expect("valid");
    assert_eq!((llama.head_dim, llama.n_kv_heads), (16, 4));
    assert!(!llama.qkv_bias && !llama.tied_embeddings);
    let qwen3 = spec(&[("model_type", "qwen3".into())]).expect("valid");
    assert_eq!(qwen3.head_dim, 128);
    let mistral = spec(&[("model_type", "mistral".into())]).expect("valid");
    assert_eq!(mistral.windows, vec![Some(4096); 3]);
}

#[test]
fn windows_follow_the_keys_of_each_family() {
    let null = serde_json::Value::Null;
    let mistral = spec(&[("model_type", "mistral".into()), ("sliding_window", null)]);
    assert_eq!(mistral.expect("valid").windows, vec![None; 3]);
    let qwen = |uses: bool| {
        spec(&[
            ("model_type", "qwen2".into()),
            ("sliding_window", 8.into()),
            ("use_sliding_window", uses.into()),
            ("max_window_layers", 2.into()),
        ])
    };
    assert_eq!(qwen(false).expect("valid").windows, vec![None; 3]);
    assert_eq!(
        qwen(true).expect("valid").windows,
        vec![None, None, Some(8)]
    );
}

#[test]
fn what_makes_no_sense_is_named() {
    let cases: &[(&str, serde_json::Value, Status, &str)] = &[
        ("model_type", "rwkv7".into(), Status::Unsupported, "rwkv7"),
        ("hidden_act", "xielu".into(), Status::Unsupported, "xielu"),
        ("num_hidden_layers", (-3).into(), Status::Format, "-3"),
        ("num_key_value_heads", 3.into(), Status::Format, "divisor"),
        (
            "num_attention_heads",
            5.into(),
            Status::Format,
            "hidden_size 64",
        ),
        ("head_dim", 7.into(), Status::Format, "even"),
        ("vocab_size", 1e12.into(), Status::Format, "vocab_size"),
    ];
    for (key, value, status, part) in cases {
        let error = spec(&[(key, value.clone())]).expect_err(key);
        assert_eq!(error.status(), *status, "{error}");
        assert!(error.message().contains(part), "{error}");
    }
}

#[test]
fn families_differ_in_scales_and_bounds() {
    let gemma2 = spec(&[("model_type", "gemma2".into()), ("head_dim", 16.into())]);
    let gemma2 = gemma2.expect("valid");
    assert_eq!(gemma2.embedding_scale, Some(8.0));
    assert_eq!(
        (gemma2.score_cap, gemma2.logit_cap),
        (Some(50.0), Some(30.0))
    );
    assert_eq!(gemma2.attention_scale, 0.0625);
    assert_eq!(gemma2.windows, [Some(4096), None, Some(4096)]);
    let null = serde_json::Value::Null;
    let uncapped = spec(&[
        ("model_type", "gemma2".into()),
        ("attn_logit_softcapping", null),
    ]);
    assert_eq!(uncapped.expect("valid").score_cap, None);
    let granite = spec(&[
        ("model_type", "granite".into()),
        ("logits_scaling", 8.into()),
        ("residual_multiplier", 0.25.into()),
    ]);
    let granite = granite.expect("valid");
    assert_eq!((granite.logit_scale, granite.residual_scale), (0.125, 0.25));
}

#[test]
fn experts_are_in_the_layers_that_the_keys_name() {
    let qwen = spec(&[
        ("model_type", "qwen2_moe".into()),
        ("num_experts", 8.into()),
        ("num_experts_per_tok", 2.into()),
        ("moe_intermediate_size", 32.into()),
        ("shared_expert_intermediate_size", 48.into()),
        ("mlp_only_layers", serde_json::json!([1])),
    ]);
    let qwen = qwen.expect("valid");
    let has_experts = |mlp: &MlpSpec| matches!(mlp, MlpSpec::Experts(_));
    let sparse: Vec<_> = qwen.mlps.iter().map(has_experts).collect();
    assert_eq!(sparse, [true, false, true]);
    assert_eq!(qwen.intermediate_size, 96);
}

#[test]
fn what_a_family_lacks_is_unsupported_by_its_key() {
    for (family, key) in [("stablelm", "qk_layernorm"), ("cohere", "use_qk_norm")] {
        let error = spec(&[("model_type", family.into()), (key, true.into())]);
        let error = error.expect_err("unsupported");
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains(key), "{error}");
    }
}

#[test]
fn every_model_type_is_of_one_family() {
    let mut names: Vec<_> = FAMILIES.iter().flat_map(|f| f.model_types).collect();
    let n_names = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), n_names);
}
