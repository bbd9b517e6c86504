use super::*;
use crate::error::Status;

fn parse(text: &str) -> Result<Quantization> {
    Quantization::from_config(&Config::parse(text.as_bytes(), "config.json").unwrap())
}

fn affine(bits: usize, group_size: usize) -> Option<QuantSpec> {
    let mode = Mode::Affine;
    Some(QuantSpec {
        group_size,
        bits,
        mode,
    })
}

#[test]
fn a_plain_checkpoint_has_no_quantization() {
    let plain = parse("{}").unwrap();
    assert_eq!(plain, Quantization::default());
    assert_eq!(plain.spec_for("lm_head", true), None);
}

#[test]
fn modules_without_scales_are_plain() {
    let quantization = parse(r#"{"quantization": {"group_size": 64, "bits": 4}}"#).unwrap();
    assert_eq!(quantization.spec_for("lm_head", true), affine(4, 64));
    assert_eq!(quantization.spec_for("lm_head", false), None);
}

#[test]
fn entries_of_modules_override_the_default_as_in_mlx_lm() {
    let quantization = parse(
        r#"{"quantization": {"group_size": 32, "bits": 4, "mode": "affine",
            "lm_head": {"group_size": 128, "bits": 8}, "a": true, "b": false, "c": {},
            "d": {"bits": 8}}}"#,
    )
    .unwrap();
    let spec = |path| quantization.spec_for(path, true);
    assert_eq!(spec("lm_head"), affine(8, 128));
    assert_eq!(spec("a"), affine(4, 32));
    assert_eq!(spec("b"), None);
    assert_eq!(spec("c"), None);
    assert_eq!(
        spec("d"),
        affine(8, 64),
        "an entry doesn't inherit the group size"
    );
    assert_eq!(spec("other"), affine(4, 32));
    assert_eq!(quantization.spec_for("lm_head", false), None);
}

#[test]
fn the_hub_copy_of_the_section_is_read_too() {
    let text = r#"{"quantization_config": {"group_size": 64, "bits": 8}}"#;
    assert_eq!(parse(text).unwrap().default, affine(8, 64));
    let both = r#"{"quantization": {"group_size": 64, "bits": 4},
                   "quantization_config": {"quant_method": "fp8"}}"#;
    assert_eq!(parse(both).unwrap().default, affine(4, 64));
}

#[test]
fn experts_in_blocks_leave_all_modules_as_they_are() {
    let text = r#"{"quantization_config": {"quant_method": "mxfp4",
                   "modules_to_not_convert": ["lm_head"]}}"#;
    assert_eq!(parse(text).unwrap(), Quantization::default());
}

#[test]
fn other_methods_are_unsupported_by_name() {
    for method in ["gptq", "awq", "fp8", "bitsandbytes", "compressed-tensors"] {
        let text = format!(r#"{{"quantization_config": {{"quant_method": "{method}"}}}}"#);
        let error = parse(&text).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
        assert!(
            error.message().contains(&format!("with {method:?}")),
            "{error}"
        );
    }
}

#[test]
fn all_formats_of_mlx_are_read() {
    for (section, text) in [
        (
            r#"{"group_size": 32, "bits": 2}"#,
            "2-bit affine in groups of 32",
        ),
        (
            r#"{"group_size": 64, "bits": 3}"#,
            "3-bit affine in groups of 64",
        ),
        (
            r#"{"group_size": 128, "bits": 5}"#,
            "5-bit affine in groups of 128",
        ),
        (
            r#"{"group_size": 64, "bits": 6, "mode": "affine"}"#,
            "6-bit affine in groups of 64",
        ),
        (
            r#"{"group_size": 32, "bits": 4, "mode": "mxfp4"}"#,
            "4-bit mxfp4 in groups of 32",
        ),
        (
            r#"{"group_size": 32, "bits": 8, "mode": "mxfp8"}"#,
            "8-bit mxfp8 in groups of 32",
        ),
        (
            r#"{"group_size": 16, "bits": 4, "mode": "nvfp4"}"#,
            "4-bit nvfp4 in groups of 16",
        ),
    ] {
        let quantization = parse(&format!(r#"{{"quantization": {section}}}"#)).unwrap();
        assert_eq!(quantization.default.unwrap().to_string(), text);
    }
}

#[test]
fn scales_of_whole_tensors_are_unsupported() {
    let section = |global_scale: bool| {
        parse(&format!(
            r#"{{"quantization": {{"group_size": 16, "bits": 4, "mode": "nvfp4",
                "a": {{"group_size": 16, "bits": 4, "mode": "nvfp4", "global_scale": {global_scale}}}}}}}"#
        ))
    };
    section(false).unwrap();
    let error = section(true).unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
    assert!(
        error.message().contains("quantization.a.global_scale"),
        "{error}"
    );
}

#[test]
fn impossible_parameters_are_refused() {
    for (section, message) in [
        (
            r#"{"group_size": 64, "bits": 7}"#,
            r#"config.json: "quantization.bits" is 7; expected one of 4, 2, 3, 5, 6, 8"#,
        ),
        (
            r#"{"group_size": "x", "bits": 4}"#,
            r#"config.json: "quantization.group_size" is "x"; expected one of 64, 32, 128"#,
        ),
        (
            r#"{"group_size": 64, "bits": 4, "a.b": {"mode": "mxfp4", "bits": 8}}"#,
            r#"config.json: "quantization.a.b.bits" is 8; expected one of 4"#,
        ),
        (
            r#"{"bits": 4}"#,
            r#"config.json: "quantization" is {"bits":4}; expected an object with "group_size" and "bits""#,
        ),
        (
            "4",
            r#"config.json: "quantization" is 4; expected an object"#,
        ),
    ] {
        let error = parse(&format!(r#"{{"quantization": {section}}}"#)).unwrap_err();
        assert_eq!(error.status(), Status::Format);
        assert_eq!(error.message(), message);
    }
    let error = parse(r#"{"quantization": {"group_size": 64, "bits": 4, "mode": "int4"}}"#);
    assert_eq!(error.unwrap_err().status(), Status::Unsupported);
}
