use super::*;
use crate::error::Status;

fn config(text: &str) -> Config {
    Config::parse(text.as_bytes(), "config.json").unwrap()
}

#[track_caller]
fn assert_says<T: std::fmt::Debug>(result: Result<T>, message: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.status(), Status::Format);
    assert_eq!(error.message(), message);
}

#[test]
fn a_wrong_value_is_named_with_what_was_expected() {
    let config = config(
        r#"{"num_hidden_layers": -3, "hidden_act": 4, "rope_theta": "big", "layers": [1, 0.5],
            "tie": "yes", "scaling": [], "names": ["a", 1]}"#,
    );
    assert_says(
        config.u32("num_hidden_layers", 1..=10_000),
        r#"config.json: "num_hidden_layers" is -3; expected a whole number from 1 to 10000"#,
    );
    assert_says(
        config.str("hidden_act"),
        r#"config.json: "hidden_act" is 4; expected a string"#,
    );
    assert_says(
        config.f64("rope_theta", 0.0..=f64::INFINITY),
        r#"config.json: "rope_theta" is "big"; expected a number from 0 to inf"#,
    );
    assert_says(
        config.opt_usizes("layers", 0..=7),
        r#"config.json: "layers" is [1,0.5]; expected a list, each a whole number from 0 to 7"#,
    );
    assert_says(
        config.opt_bool("tie"),
        r#"config.json: "tie" is "yes"; expected true or false"#,
    );
    assert_says(
        config.opt_object("scaling"),
        r#"config.json: "scaling" is []; expected an object"#,
    );
    assert_says(
        config.opt_strs("names"),
        r#"config.json: "names" is ["a",1]; expected a list of strings"#,
    );
}

#[test]
fn a_missing_or_null_key_is_absent() {
    let config = config(r#"{"head_dim": null}"#);
    assert_eq!(config.opt_usize("head_dim", 1..=512).unwrap(), None);
    assert!(!config.has("head_dim"));
    assert_says(
        config.usize("head_dim", 1..=512),
        r#"config.json: "head_dim" is missing; expected a whole number from 1 to 512"#,
    );
    assert_says(
        config.array(["layer_types", "block_types"]),
        r#"config.json: has none of "layer_types", "block_types"; expected a list"#,
    );
}

#[test]
fn the_first_alternative_that_is_present_counts() {
    let config = config(r#"{"n_layer": 12, "num_layers": 13}"#);
    let layers = config.u32(["num_hidden_layers", "num_layers", "n_layer"], 1..=100);
    assert_eq!(layers.unwrap(), 13);
}

#[test]
fn whole_numbers_may_be_written_as_floats_but_not_be_fractions() {
    let config =
        config(r#"{"whole": 32768.0, "half": 0.5, "huge": 1e300, "u64": 18446744073709551615}"#);
    assert_eq!(config.usize("whole", 0..=100_000).unwrap(), 32768);
    assert!(config.usize("half", 0..=1).is_err());
    assert!(config.usize("huge", 0..=usize::MAX).is_err());
    assert_eq!(config.usize("u64", 0..=usize::MAX).unwrap(), usize::MAX);
    assert!(config.i64("u64", i64::MIN..=i64::MAX).is_err());
}

#[test]
fn floats_have_to_be_in_range_and_nan_never_is() {
    let config = config(
        r#"{"inf": Infinity, "nan": NaN, "tenth": 0.1, "wide": 1e300, "list": [1, -Infinity]}"#,
    );
    let everything = f64::NEG_INFINITY..=f64::INFINITY;
    assert_eq!(
        config.f64("inf", everything.clone()).unwrap(),
        f64::INFINITY
    );
    assert!(config.f64("inf", 0.0..=f64::MAX).is_err());
    assert!(config.f64("nan", everything.clone()).is_err());
    assert_eq!(config.f32("tenth", 0.1..=0.1).unwrap(), 0.1);
    assert!(config.f32("wide", 0.0..=f32::MAX).is_err());
    let list = config.opt_f64s("list", everything).unwrap().unwrap();
    assert_eq!(list, [1.0, f64::NEG_INFINITY]);
}

#[test]
fn text_config_comes_first_and_outer_leaves_it_out() {
    let config = config(
        r#"{"model_type": "gemma3", "eos_token_id": 1,
            "text_config": {"model_type": "gemma3_text", "hidden_size": -1}}"#,
    );
    assert_eq!(config.str("model_type").unwrap(), "gemma3_text");
    assert_eq!(config.u32("eos_token_id", 0..=9).unwrap(), 1);
    assert_eq!(config.outer().str("model_type").unwrap(), "gemma3");
    assert!(!config.outer().has("hidden_size"));
    assert_says(
        config.u32("hidden_size", 1..=9),
        r#"config.json: "text_config.hidden_size" is -1; expected a whole number from 1 to 9"#,
    );
    let keys: Vec<_> = config.entries().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), 4);
}

#[test]
fn a_nested_object_names_its_whole_path() {
    let config = config(r#"{"rope_scaling": {"type": 3}}"#);
    let scaling = config.object("rope_scaling").unwrap();
    assert_says(
        scaling.str("type"),
        r#"config.json: "rope_scaling.type" is 3; expected a string"#,
    );
    assert_says(
        scaling.f64("factor", 1.0..=64.0),
        r#"config.json: "rope_scaling.factor" is missing; expected a number from 1 to 64"#,
    );
}

#[test]
fn anything_but_an_object_is_refused() {
    let parse = |text: &str| Config::parse(text.as_bytes(), "config.json");
    assert_says(parse("[1]"), "config.json is not a JSON object");
    assert_says(
        parse(r#"{"text_config": "x"}"#),
        r#"config.json: "text_config" is "x"; expected an object"#,
    );
    let error = parse("{\"a\": ").unwrap_err();
    assert!(
        error
            .message()
            .starts_with("config.json: is not valid JSON: EOF"),
        "{error}"
    );
    let error = Config::parse(b"{\"\xff\": 1}", "config.json").unwrap_err();
    assert!(
        error.message().starts_with("config.json: is not UTF-8"),
        "{error}"
    );
    let nested = format!("{{\"a\": {}}}", "[".repeat(100_000));
    assert!(
        parse(&nested)
            .unwrap_err()
            .message()
            .contains("recursion limit")
    );
}

#[test]
fn a_long_value_is_clipped_in_the_message() {
    let config = config(&format!(r#"{{"name": "{}"}}"#, "x".repeat(100_000)));
    assert!(config.bool("name").unwrap_err().message().len() < 300);
}
