use super::*;
use crate::error::Status;

const FORM: RopeForm = RopeForm {
    pairing: Pairing::Halves,
    theta: 10_000.0,
    share: 1.0,
    is_whole: false,
    is_backward: false,
    dims: None,
    layers: RopeLayers::All,
    local: None,
    proportional: None,
    yarn_is_longrope: false,
    unrotated_scale: false,
};

fn ropes(
    config: serde_json::Value,
    form: RopeForm,
    head_dim: usize,
    reaches: &[Reach],
) -> Result<Ropes> {
    let config = Config::parse(config.to_string().as_bytes(), "config.json")?;
    from_config(&config, &form, &vec![head_dim; reaches.len()], reaches)
}

fn rope(config: serde_json::Value) -> Result<Rope> {
    Ok(ropes(config, FORM, 8, &[Reach::All])?.all.remove(0))
}

#[test]
fn old_and_new_keys_mean_the_same() {
    let old = rope(serde_json::json!({"rope_theta": 500.0,
        "rope_scaling": {"type": "linear", "factor": 2.0}}));
    let new = rope(serde_json::json!({
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}));
    let old = old.expect("valid");
    assert_eq!(old, new.expect("valid"));
    assert_eq!(old.wavelengths[0], 2.0);
    assert!((old.wavelengths[2] - 2.0 * 500f32.sqrt()).abs() < 1e-3);
}

#[test]
fn llama3_keeps_short_wavelengths_and_stretches_long_ones() {
    let rope = rope(serde_json::json!({"rope_theta": 1e6, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}));
    let wavelengths = rope.expect("valid").wavelengths;
    assert_eq!(wavelengths[0], 1.0, "5.1 turns in 32 positions");
    assert!((wavelengths[3] / 1e6f32.powf(0.75) - 8.0).abs() < 1e-5);
}

#[test]
fn an_unknown_type_is_unsupported_by_name() {
    let error = rope(serde_json::json!({"rope_scaling": {"type": "xpos", "factor": 4.0}}))
        .expect_err("unknown");
    assert_eq!(error.status(), Status::Unsupported);
    assert!(error.message().contains("xpos"), "{error}");
}

#[test]
fn exponents_are_float32_as_in_training() {
    let rope = ropes(serde_json::json!({}), FORM, 80, &[Reach::All]).expect("valid");
    let exponent = f64::from(14.0_f32 / 80.0);
    assert_ne!(exponent, 14.0 / 80.0);
    assert_eq!(rope.all[0].wavelengths[7], 10_000_f64.powf(exponent) as f32);
}

#[test]
fn yarn_keeps_what_turns_often_and_stretches_what_does_not() {
    let rope = rope(serde_json::json!({"rope_parameters": {
        "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
        "original_max_position_embeddings": 64, "beta_fast": 4.0}}));
    let rope = rope.expect("valid");
    let stretched = |pair: usize| rope.wavelengths[pair] / 1e4_f32.powf(pair as f32 / 4.0);
    assert_eq!(stretched(0), 1.0);
    assert!((stretched(3) - 4.0).abs() < 1e-5);
    assert!((rope.magnitude - (0.1 * 4_f32.ln() + 1.0)).abs() < 1e-6);
}

#[test]
fn longrope_has_other_factors_for_long_contexts() {
    let section = serde_json::json!({"type": "longrope",
        "short_factor": [1.0, 2.0, 3.0, 4.0], "long_factor": [5.0, 6.0, 7.0, 8.0]});
    let config = serde_json::json!({"rope_scaling": section,
        "original_max_position_embeddings": 4096, "max_position_embeddings": 131_072});
    let rope = rope(config).expect("valid");
    let (short, long) = (rope.in_context_of(4096), rope.in_context_of(4097));
    let first = |rope: &Rope| rope.wavelengths[0];
    assert_eq!((first(&short), first(&long)), (1.0, 5.0));
    assert_eq!([4096, 4097, 131_072].map(|n| rope.kind(n)), [0, 1, 1]);
    let expected = (1.0 + 32_f64.ln() / 4096_f64.ln()).sqrt() as f32;
    assert_eq!((rope.magnitude, long.magnitude), (expected, expected));
    let short = serde_json::json!({"rope_scaling": {"type": "longrope",
        "short_factor": [1.0], "long_factor": [5.0, 6.0, 7.0, 8.0]},
        "max_position_embeddings": 4096});
    let error = self::rope(short).expect_err("too few");
    assert!(error.message().contains("short_factor"), "{error}");
}

#[test]
fn a_dynamic_base_grows_with_contexts_beyond_the_trained_length() {
    let rope = rope(
        serde_json::json!({"max_position_embeddings": 1000, "rope_theta": 1e4,
        "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    );
    let rope = rope.expect("valid");
    let last = |n_ctx| rope.in_context_of(n_ctx).wavelengths[3];
    assert_eq!(last(1), rope.wavelengths[3]);
    assert_eq!(last(1000), rope.wavelengths[3]);
    // Of 8 dimensions; the last pair's exponent is 3/4.
    let grown = 1e3 * 5_f64.powf(8.0 / 6.0 * 0.75);
    assert!((f64::from(last(3000)) / grown - 1.0).abs() < 1e-5);
    assert_eq!(rope.in_context_of(3000).wavelengths[0], 1.0);
    assert_eq!([1000, 1001, 3000].map(|n| rope.kind(n)), [0, 1001, 3000]);
}

#[test]
fn layers_with_windows_rotate_by_their_own_base() {
    let form = RopeForm {
        local: Some(("rope_local_base_freq", 100.0)),
        ..FORM
    };
    let old = serde_json::json!({"rope_theta": 1e6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let new = serde_json::json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}});
    for config in [old, new] {
        let ropes = ropes(config, form, 8, &[Reach::Window(4), Reach::All]).expect("valid");
        assert_eq!(ropes.by_layer, [Some(1), Some(0)]);
        assert_eq!(ropes.all[0].wavelengths[0], 8.0);
        assert!((ropes.all[1].wavelengths[2] - 10.0).abs() < 1e-5);
    }
}

#[test]
fn some_layers_know_no_positions() {
    let rotates = |config, layers, reaches: &[Reach]| {
        let ropes = ropes(config, RopeForm { layers, ..FORM }, 8, reaches);
        ropes.expect("valid").by_layer
    };
    let nothing = serde_json::json!({});
    let by_window = rotates(
        nothing.clone(),
        RopeLayers::Windowed,
        &[Reach::Window(4), Reach::All],
    );
    assert_eq!(by_window, [Some(0), None]);
    let every_fourth = rotates(nothing, RopeLayers::Listed, &[Reach::All; 4]);
    assert_eq!(every_fourth, [Some(0), Some(0), Some(0), None]);
    let listed = serde_json::json!({"no_rope_layers": [0, 1]});
    assert_eq!(
        rotates(listed, RopeLayers::Listed, &[Reach::All; 2]),
        [None, Some(0)]
    );
}
