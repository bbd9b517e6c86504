//! config.json with how the weights are quantized, and the files beside it.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::plan::Plan;
use super::recipe::Choice;
use crate::checkpoint::{Checkpoint, NewDirectory, QuantSpec};
use crate::error::{Error, Result};

/// What belongs to a model beside weights and config.json.
const BESIDE: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// Code of tokenizers and models, and tiktoken's vocabularies.
const BESIDE_BY_EXTENSION: [&str; 2] = ["py", "tiktoken"];

pub fn write(
    directory: &NewDirectory,
    checkpoint: &Checkpoint,
    choice: &Choice,
    plan: &Plan,
) -> Result<()> {
    let source = checkpoint.directory();
    let path = source.config();
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
    let quantization = quantization(choice, plan);
    directory.write(
        "config.json",
        with_quantization(&text, &quantization)?.as_bytes(),
    )?;
    let root = source.root();
    let entries = std::fs::read_dir(root).map_err(|error| Error::io("list", root, &error))?;
    for entry in entries {
        let path = entry
            .map_err(|error| Error::io("list", root, &error))?
            .path();
        if is_beside(&path) && path.is_file() {
            directory.copy(&path)?;
        }
    }
    Ok(())
}

fn is_beside(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let extension = path.extension().and_then(|extension| extension.to_str());
    name.is_some_and(|name| BESIDE.contains(&name))
        || extension.is_some_and(|extension| BESIDE_BY_EXTENSION.contains(&extension))
}

fn quantization(choice: &Choice, plan: &Plan) -> Value {
    let mut section = entry(choice.default);
    for output in &plan.outputs {
        if let Some(spec) = output.quantized().filter(|spec| choice.is_listed(*spec)) {
            section.insert(output.module().to_owned(), entry(spec).into());
        }
    }
    section.into()
}

fn entry(spec: QuantSpec) -> Map<String, Value> {
    let entry = json!({
        "group_size": spec.group_size,
        "bits": spec.bits,
        "mode": spec.mode.name(),
    });
    match entry {
        Value::Object(entry) => entry,
        _ => unreachable!("an object was made"),
    }
}

/// The text stays as it is: it may have what JSON has not, such as `Infinity`.
fn with_quantization(config: &str, quantization: &Value) -> Result<String> {
    let end = config.rfind('}');
    let end = end.ok_or_else(|| Error::format("config.json is not a JSON object"))?;
    let section = String::from_utf8(pretty(quantization)?)
        .map_err(|_| Error::internal("JSON that is not UTF-8"))?
        .replace('\n', "\n  ");
    let before = config[..end].trim_end();
    Ok(format!(
        "{before},\n  \"quantization\": {section},\n  \"quantization_config\": {section}\n}}\n"
    ))
}

pub fn pretty(value: &Value) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"  ");
    value
        .serialize(&mut serde_json::Serializer::with_formatter(
            &mut text, formatter,
        ))
        .map_err(|error| Error::internal(format!("cannot write JSON: {error}")))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_configuration_stays_as_it_is() {
        let config = "{\n  \"limits\": [0, Infinity],\n  \"rope\": {\"a\": 1}\n}\n\n";
        let written = with_quantization(config, &json!({"bits": 4})).unwrap();
        let kept =
            "{\n  \"limits\": [0, Infinity],\n  \"rope\": {\"a\": 1},\n  \"quantization\": {";
        assert!(written.starts_with(kept), "{written}");
        let json = written.replace("Infinity", "1");
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["quantization"]["bits"], 4);
        assert_eq!(json["quantization_config"]["bits"], 4);
    }
}
