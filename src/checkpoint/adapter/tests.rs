use super::*;
use crate::error::Status;

fn scaling(config: &str, format: AdapterFormat) -> Result<Scaling> {
    let config = Config::parse(config.as_bytes(), CONFIG).expect("JSON");
    Scaling::from_config(&config, format)
}

#[test]
fn factors_follow_ranks_alphas_and_their_patterns() {
    let config = r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_rslora": false,
        "rank_pattern": {"q_proj": 4, "^model.layers.1.mlp.up_proj": 2},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 12, "q_proj": 20}}"#;
    let scaling_of = scaling(config, AdapterFormat::Peft).unwrap();
    for (module, rank, factor) in [
        ("model.layers.0.self_attn.k_proj", 8, 2.0),
        ("model.layers.0.self_attn.q_proj", 4, 3.0),
        ("model.layers.1.self_attn.q_proj", 4, 5.0),
        ("model.layers.1.mlp.up_proj", 2, 8.0),
        ("model.layers.0.self_attn.eq_proj", 8, 2.0),
    ] {
        assert_eq!(scaling_of.rank(module).unwrap(), Some(rank), "{module}");
        assert_eq!(scaling_of.factor(module, rank).unwrap(), factor, "{module}");
    }
    let by_root = config.replace("false", "true");
    let by_root = scaling(&by_root, AdapterFormat::Peft).unwrap();
    assert_eq!(
        by_root.factor("model.layers.0.mlp.up_proj", 16).unwrap(),
        4.0
    );
}

#[test]
fn what_is_no_plain_lora_is_named() {
    for (extra, part) in [
        (r#""bias": "all""#, "bias"),
        (r#""modules_to_save": ["lm_head"]"#, "modules_to_save"),
        (r#""target_parameters": ["experts.down_proj"]"#, "experts"),
    ] {
        let config = format!(r#"{{"peft_type": "LORA", "r": 8, "lora_alpha": 16, {extra}}}"#);
        let error = scaling(&config, AdapterFormat::Peft).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported, "{error}");
        assert!(error.message().contains(part), "{error}");
    }
    let config = r#"{"fine_tune_type": "full", "lora_parameters": {"rank": 8, "scale": 2}}"#;
    let error = scaling(config, AdapterFormat::MlxLm).unwrap_err();
    assert!(error.message().contains("full"), "{error}");
    let config = r#"{"peft_type": "IA3"}"#;
    assert!(scaling(config, AdapterFormat::Peft).is_err());
}

#[test]
fn patterns_that_are_more_than_names_are_refused() {
    let config = r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16,
        "alpha_pattern": {"layers\\.[01]\\.q_proj": 12}}"#;
    let scaling = scaling(config, AdapterFormat::Peft).unwrap();
    let error = scaling.factor("model.layers.0.q_proj", 8).unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
}
