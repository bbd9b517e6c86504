//! Arbitrary damage, judged by the reference reader.

use proptest::prelude::*;
use safetensors::SafeTensors;
use umrt::error::Status;

use super::{INDEX, Model, entry, raw};

/// A file like those in the wild: metadata, several types, no padding.
fn valid_file() -> Vec<u8> {
    let header = format!(
        r#"{{"__metadata__": {{"format": "mlx"}}, "model.embed.weight": {}, "model.0.scales": {}, "model.0.biases": {}, "scalar": {}, "empty": {}}}"#,
        entry("U32", "[4, 3]", "[0, 48]"),
        entry("BF16", "[4, 2]", "[48, 64]"),
        entry("F16", "[4, 2]", "[64, 80]"),
        entry("F32", "[]", "[80, 84]"),
        entry("U8", "[0, 5]", "[84, 84]"),
    );
    raw(&header, 84)
}

/// Opens `content` as a model; if that succeeds, every tensor lies in the file,
/// apart from the others, and is what the reference reader says it is.
fn check_any_file(content: &[u8]) -> std::result::Result<(), TestCaseError> {
    let model = Model::new().with("model.safetensors", content);
    let reference = SafeTensors::deserialize(content);
    let checkpoint = match model.open() {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            let stricter = error.status() == Status::Unsupported
                || ["comes twice", "limit"]
                    .iter()
                    .any(|part| error.message().contains(part));
            prop_assert!(reference.is_err() || stricter, "{error}");
            return Ok(());
        }
    };
    let mut end = checkpoint.files()[0].header_bytes;
    for tensor in checkpoint.tensors() {
        let range = tensor.range();
        prop_assert!(tensor.bytes == 0 || range.start >= end);
        prop_assert!(range.start <= range.end && range.end <= content.len());
        prop_assert_eq!(checkpoint.tensor_bytes(tensor), &content[range.clone()]);
        prop_assert_eq!(tensor.shape.iter().product::<usize>(), tensor.elements());
        end = end.max(range.end);
        if let Ok(reference) = &reference {
            let view = reference.tensor(&tensor.name).unwrap();
            prop_assert_eq!(view.data(), &content[range]);
            prop_assert_eq!(view.shape(), tensor.shape.as_slice());
            prop_assert_eq!(view.dtype().to_string(), tensor.dtype.to_string());
        }
    }
    if let Ok(reference) = reference {
        prop_assert_eq!(reference.len(), checkpoint.tensors().len());
    }
    Ok(())
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0_u64..40).prop_map(|n| n.to_string()),
        1 => any::<u64>().prop_map(|n| n.to_string()),
        1 => prop::sample::select(vec!["-1", "0.5", "1e3", "18446744073709551616", "null", "\"4\""])
            .prop_map(str::to_owned),
    ]
}

fn any_entry() -> impl Strategy<Value = String> {
    let dtype = prop::sample::select(vec!["U8", "BF16", "F32", "I64", "F4", "X"]);
    let shape = prop::collection::vec(number(), 0..4);
    (0..4_u8, dtype, shape, number(), number()).prop_map(|(name, dtype, shape, begin, end)| {
        let shape = format!("[{}]", shape.join(","));
        format!(
            r#""{name}": {}"#,
            entry(dtype, &shape, &format!("[{begin}, {end}]"))
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn damaged_files_never_give_a_tensor_outside_of_the_file(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        kept in prop_oneof![Just(None), any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let mut content = valid_file();
        for (at, byte) in damage {
            let at = at.index(content.len());
            content[at] = byte;
        }
        if let Some(kept) = kept {
            content.truncate(kept.index(content.len()));
        }
        check_any_file(&content)?;
    }

    #[test]
    fn digits_exchanged_for_others_never_give_a_tensor_outside_of_the_file(
        damage in prop::collection::vec((any::<prop::sample::Index>(), b'0'..=b'9'), 1..4),
    ) {
        let mut content = valid_file();
        let digits: Vec<usize> = (8..content.len() - 84)
            .filter(|at| content[*at].is_ascii_digit())
            .collect();
        for (at, digit) in damage {
            content[digits[at.index(digits.len())]] = digit;
        }
        check_any_file(&content)?;
    }

    #[test]
    fn any_entries_are_judged_as_the_reference_reader_does_or_stricter(
        entries in prop::collection::vec(any_entry(), 0..4),
        data_bytes in 0_usize..100,
    ) {
        check_any_file(&raw(&format!("{{{}}}", entries.join(",")), data_bytes))?;
    }

    #[test]
    fn any_bytes_are_refused_or_read(content in prop::collection::vec(any::<u8>(), 0..200)) {
        check_any_file(&content)?;
    }

    #[test]
    fn damaged_settings_never_panic(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        file in 0_usize..4,
    ) {
        const FILES: [(&str, &str); 4] = [
            ("config.json", r#"{"eos_token_id": [1], "quantization": {"group_size": 64, "bits": 4, "a": {"bits": 8}}, "x": -Infinity}"#),
            ("generation_config.json", r#"{"eos_token_id": 2, "temperature": 0.5, "top_k": 5}"#),
            ("tokenizer_config.json", r#"{"chat_template": [{"name": "default", "template": "x"}]}"#),
            (INDEX, r#"{"weight_map": {"a": "a.safetensors"}}"#),
        ];
        let header = format!("{{\"a\": {}}}", entry("U8", "[3]", "[0, 3]"));
        let mut model = Model::new().with("a.safetensors", raw(&header, 3));
        for (index, (name, content)) in FILES.into_iter().enumerate() {
            let mut content = content.as_bytes().to_vec();
            if index == file {
                let at = at.index(content.len());
                content[at] = byte;
            }
            model = model.with(name, content);
        }
        if let Ok(manifest) = model.inspect() {
            let _ = manifest.directory().chat_templates();
        }
    }
}
