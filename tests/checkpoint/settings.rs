//! What is beside the weights.

use umrt::error::Status;

use super::{Model, assert_fails};

#[test]
fn the_chat_template_is_found_in_its_three_places() {
    let model = Model::new().with_tensors("model.safetensors", &["a"]);
    let default = |model: &Model| {
        let templates = model
            .inspect()
            .unwrap()
            .directory()
            .chat_templates()
            .unwrap();
        templates.default_source().map(str::to_owned)
    };
    assert_eq!(default(&model), None);
    let model = model.with("chat_template.json", r#"{"chat_template": "json"}"#);
    assert_eq!(default(&model).as_deref(), Some("json"));
    let model = model.with(
        "tokenizer_config.json",
        r#"{"chat_template": null, "x": NaN}"#,
    );
    assert_eq!(default(&model).as_deref(), Some("json"));
    let model = model.with(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
    );
    assert_eq!(default(&model).as_deref(), Some("d"));
    let templates = model
        .inspect()
        .unwrap()
        .directory()
        .chat_templates()
        .unwrap();
    assert_eq!(templates.named("tool_use"), Some("t"));
    assert_eq!(templates.iter().count(), 2);
    let model = model.with("chat_template.jinja", "jinja");
    assert_eq!(default(&model).as_deref(), Some("jinja"));
}

#[test]
fn a_malformed_chat_template_names_its_file() {
    for value in ["3", r#"["x"]"#, r#"[{"name": "default"}]"#] {
        let model = Model::new().with_tensors("model.safetensors", &["a"]).with(
            "tokenizer_config.json",
            format!(r#"{{"chat_template": {value}}}"#),
        );
        let manifest = model.inspect().unwrap();
        let templates = manifest.directory().chat_templates();
        assert_fails(
            templates,
            Status::Format,
            "tokenizer_config.json: \"chat_template\" is",
        );
    }
}

#[test]
fn settings_beside_the_weights_are_read() {
    let model = Model::empty()
        .with(
            "config.json",
            r#"{"eos_token_id": 2, "quantization": {"group_size": 32, "bits": 8}}"#,
        )
        .with(
            "generation_config.json",
            r#"{"eos_token_id": [5, 6], "temperature": 0.5}"#,
        )
        .with("tokenizer.json", "{}")
        .with_tensors("model.safetensors", &["a"]);
    let manifest = model.inspect().unwrap();
    assert_eq!(manifest.generation().eos_token_ids, [5, 6]);
    assert_eq!(manifest.quantization().default.unwrap().bits, 8);
    assert_eq!(
        manifest.directory().tokenizer(),
        Some(model.path().join("tokenizer.json"))
    );
    assert_eq!(manifest.directory().tokenizer_config(), None);

    let model = model.with("generation_config.json", "[]");
    assert_fails(
        model.open(),
        Status::Format,
        "generation_config.json is not a JSON object",
    );
    let model = model.with("config.json", "{");
    assert_fails(
        model.open(),
        Status::Format,
        "config.json: is not valid JSON",
    );
}
