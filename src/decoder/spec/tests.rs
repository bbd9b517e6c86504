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
fn an_embedding_with_a_bias_is_no_output_projection() {
    let phi = |tied: bool| {
        spec(&[
            ("model_type", "phi".into()),
            ("tie_word_embeddings", tied.into()),
        ])
    };
    assert!(phi(false).expect("valid").head_bias);
    let error = phi(true).expect_err("its bias would be ignored");
    assert_eq!(error.status(), Status::Unsupported);
    assert!(error.message().contains("tie_word_embeddings"), "{error}");
}

#[test]
fn absent_keys_have_the_defaults_of_the_family() {
    let llama = spec(&[]).expect("valid");
    assert_eq!((llama.head_dim, llama.n_kv_heads), (16, 4));
    assert!(!llama.qkv_bias && !llama.tied_embeddings);
    let qwen3 = spec(&[("model_type", "qwen3".into())]).expect("valid");
    assert_eq!(qwen3.head_dim, 128);
    let mistral = spec(&[("model_type", "mistral".into())]).expect("valid");
    assert_eq!(mistral.reaches, [Reach::Window(4096); 3]);
}

#[test]
fn windows_follow_the_keys_of_each_family() {
    let null = serde_json::Value::Null;
    let mistral = spec(&[("model_type", "mistral".into()), ("sliding_window", null)]);
    assert_eq!(mistral.expect("valid").reaches, [Reach::All; 3]);
    let qwen = |uses: bool| {
        spec(&[
            ("model_type", "qwen2".into()),
            ("sliding_window", 8.into()),
            ("use_sliding_window", uses.into()),
            ("max_window_layers", 2.into()),
        ])
    };
    assert_eq!(qwen(false).expect("valid").reaches, [Reach::All; 3]);
    assert_eq!(
        qwen(true).expect("valid").reaches,
        [Reach::All, Reach::All, Reach::Window(8)]
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
    assert_eq!(
        gemma2.reaches,
        [Reach::Window(4096), Reach::All, Reach::Window(4096)]
    );
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

fn llama4(changes: &[(&str, serde_json::Value)]) -> Result<DecoderSpec> {
    let base = [
        ("model_type", "llama4_text".into()),
        ("intermediate_size_mlp", 160.into()),
        ("num_local_experts", 4.into()),
        ("num_experts_per_tok", 1.into()),
        ("head_dim", 16.into()),
        ("num_key_value_heads", 4.into()),
        ("num_hidden_layers", 4.into()),
    ];
    let all: Vec<_> = base.into_iter().chain(changes.iter().cloned()).collect();
    spec(&all)
}

#[test]
fn layers_with_positions_see_chunks_and_the_others_all() {
    let null = serde_json::Value::Null;
    let chunk = |n| Reach::Chunk(n);
    let usual = llama4(&[]).expect("valid");
    assert_eq!(usual.reaches[2..], [chunk(8192), Reach::All]);
    let own = [
        ("attention_chunk_size", 8.into()),
        ("no_rope_layers", [0, 1, 1, 1].to_vec().into()),
    ];
    let own = llama4(&own).expect("valid");
    assert_eq!(own.reaches, [Reach::All, chunk(8), chunk(8), chunk(8)]);
    let unbounded = llama4(&[("attention_chunk_size", null)]).expect("valid");
    assert_eq!(unbounded.reaches, [Reach::All; 4]);
    let types = [
        "full_attention",
        "chunked_attention",
        "full_attention",
        "full_attention",
    ];
    let typed = llama4(&[("layer_types", types.to_vec().into())]).expect("valid");
    assert_eq!(
        typed.reaches,
        [Reach::All, chunk(8192), Reach::All, Reach::All]
    );
    let empty = llama4(&[("no_rope_layers", serde_json::json!([]))]).expect("valid");
    assert_eq!(empty.layer_ropes, [Some(0), Some(0), Some(0), None]);
}

#[test]
fn layers_without_positions_scale_queries_by_them() {
    let scale = PositionScale {
        beta: 0.1,
        length: 8192.0,
        offset: 1,
    };
    let unrotated_only = [None, None, None, Some(scale)];
    for on in [true.into(), 4.into()] {
        let spec = llama4(&[("attn_temperature_tuning", on)]).expect("valid");
        assert_eq!(spec.position_scales, unrotated_only);
    }
    for off in [false.into(), 0.into()] {
        let spec = llama4(&[("attn_temperature_tuning", off)]).expect("valid");
        assert_eq!(spec.position_scales, [None; 4]);
    }
}

#[test]
fn norms_behind_a_rotation_that_lengthens_are_unsupported() {
    let yarn = serde_json::json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
    });
    let error = llama4(&[("rope_scaling", yarn.clone())]).expect_err("unsupported");
    assert_eq!(error.status(), Status::Unsupported);
    llama4(&[("rope_scaling", yarn), ("use_qk_norm", false.into())]).expect("valid");
}

#[test]
fn llama4_has_experts_where_it_says() {
    let sparse = |changes: &[(&str, serde_json::Value)]| -> Vec<bool> {
        let spec = llama4(changes).expect("valid");
        spec.mlps
            .iter()
            .map(|mlp| mlp.experts().is_some())
            .collect()
    };
    assert_eq!(sparse(&[]), [true; 4]);
    let step = ("interleave_moe_layer_step", 2.into());
    assert_eq!(
        sparse(std::slice::from_ref(&step)),
        [false, true, false, true]
    );
    let listed = ("moe_layers", serde_json::json!([0]));
    assert_eq!(sparse(&[step, listed]), [true, false, false, false]);
    assert_eq!(llama4(&[]).expect("valid").mlps[0].intermediate_size(), 96);
    // A dense model says so in these keys.
    let dense = [
        ("num_local_experts", 0.into()),
        ("num_experts_per_tok", 0.into()),
        ("interleave_moe_layer_step", 0.into()),
        ("moe_layers", serde_json::json!([])),
    ];
    assert_eq!(sparse(&dense), [false; 4]);
    assert_eq!(llama4(&dense).expect("valid").intermediate_size, 160);
}

#[test]
fn what_a_family_lacks_is_unsupported_by_its_key() {
    let cases: [(&str, &str, serde_json::Value); 9] = [
        ("stablelm", "qk_layernorm", true.into()),
        ("cohere", "use_qk_norm", true.into()),
        ("opt", "word_embed_proj_dim", 32.into()),
        ("opt", "do_layer_norm_before", false.into()),
        ("afmoe", "score_func", "softmax".into()),
        ("hunyuan_v1_dense", "use_cla", true.into()),
        ("ernie4_5_moe", "use_bias", true.into()),
        ("falcon", "alibi", true.into()),
        ("falcon", "new_decoder_architecture", true.into()),
    ];
    for (family, key, value) in cases {
        let error = spec(&[("model_type", family.into()), (key, value)]);
        let error = error.expect_err("unsupported");
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains(key), "{error}");
    }
}

#[test]
fn text_models_inside_of_others_may_leave_out_sizes() {
    let nested = |text: serde_json::Value| {
        let config = serde_json::json!({"model_type": "llava", "text_config": text});
        let bytes = config.to_string();
        DecoderSpec::from_config(&Config::parse(bytes.as_bytes(), "config.json")?)
    };
    let llama = nested(serde_json::json!({"model_type": "llama"})).expect("LLaVA 1.5");
    assert_eq!((llama.n_layers, llama.hidden_size), (32, 4096));
    let untyped = nested(serde_json::json!({"num_hidden_layers": 2})).expect("of Llama's type");
    assert_eq!((untyped.n_layers, untyped.vocab_size), (2, 32_000));
    let mistral = serde_json::json!({"model_type": "mistral", "sliding_window": null});
    assert_eq!(nested(mistral).expect("valid").n_kv_heads, 8);
    let null = || serde_json::Value::Null;
    let error = spec(&[("hidden_size", null())]).expect_err("a text model alone");
    assert!(error.message().contains("hidden_size"), "{error}");
}

#[test]
fn windows_follow_letters_and_kinds_of_layers() {
    let windows = |changes: &[(&str, serde_json::Value)]| {
        let spec = spec(changes).expect("valid");
        let is_bounded = spec.reaches.iter().map(|reach| *reach != Reach::All);
        is_bounded.collect::<Vec<_>>()
    };
    let exaone = |pattern: &str| {
        windows(&[
            ("model_type", "exaone4".into()),
            ("num_hidden_layers", 4.into()),
            ("sliding_window_pattern", pattern.into()),
        ])
    };
    assert_eq!(exaone("LLG"), [true, true, false, false]);
    assert_eq!(exaone("GL"), [false, true, false, false]);
    let types = serde_json::json!([[["global", "local"], 1], [["local"], 1]]);
    let neo = [
        ("model_type", "gpt_neo".into()),
        ("attention_types", types),
        ("window_size", 5.into()),
    ];
    assert_eq!(windows(&neo), [false, true, true]);
    let cwm = [("model_type", "cwm".into()), ("sliding_window", 8.into())];
    let error = spec(&cwm).expect_err("layers of unknown kinds");
    assert!(error.message().contains("layer_types"), "{error}");
}

#[test]
fn every_model_type_is_of_one_family() {
    let mut names: Vec<_> = model_types().collect();
    let n_names = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), n_names);
}
