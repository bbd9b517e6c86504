//! Where a checkpoint keeps its chat templates.

use std::path::Path;

use serde_json::Value;

use super::directory::ModelDirectory;
use super::file::read_bounded;
use super::json;
use crate::error::{Error, Result, ResultExt};

const LIMIT_BYTES: u64 = 64 << 20;

/// A Jinja template; the one to use by default is named `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    pub name: String,
    pub source: String,
}

/// The templates of a checkpoint, in the order in which they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatTemplates(Vec<ChatTemplate>);

impl ChatTemplates {
    pub fn default_source(&self) -> Option<&str> {
        self.named("default")
    }

    pub fn named(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|template| template.name == name)?;
        Some(&found.source)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, ChatTemplate> {
        self.0.iter()
    }

    pub(super) fn single(source: String) -> ChatTemplates {
        ChatTemplates(vec![ChatTemplate {
            name: "default".to_owned(),
            source,
        }])
    }
}

impl ModelDirectory {
    /// From `chat_template.jinja`, else `tokenizer_config.json`, else
    /// `chat_template.json`. Empty for a model that isn't meant for chat.
    pub fn chat_templates(&self) -> Result<ChatTemplates> {
        if let Some(path) = self.chat_template_jinja() {
            let bytes = read_bounded(&path, LIMIT_BYTES)?;
            let source = String::from_utf8(bytes)
                .map_err(|error| Error::format(format!("is not UTF-8: {error}")))
                .at("chat_template.jinja")?;
            return Ok(ChatTemplates::single(source));
        }
        for path in [self.tokenizer_config(), self.chat_template_json()] {
            let templates = path.map(|path| from_json(&path)).transpose()?;
            if let Some(templates) = templates.filter(|templates| !templates.is_empty()) {
                return Ok(templates);
            }
        }
        Ok(ChatTemplates::default())
    }
}

fn from_json(path: &Path) -> Result<ChatTemplates> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = read_bounded(path, LIMIT_BYTES)?;
    match json::parse(&bytes).at(&file)?.get_mut("chat_template") {
        None | Some(Value::Null) => Ok(ChatTemplates::default()),
        Some(Value::String(source)) => Ok(ChatTemplates::single(std::mem::take(source))),
        Some(Value::Array(entries)) => entries.iter().map(named_template).collect(),
        Some(_) => Err(malformed()),
    }
    .at(&file)
}

fn named_template(entry: &Value) -> Result<ChatTemplate> {
    let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    match (text("name"), text("template")) {
        (Some(name), Some(source)) => Ok(ChatTemplate { name, source }),
        _ => Err(malformed()),
    }
}

fn malformed() -> Error {
    Error::format(
        "\"chat_template\" is neither a string nor a list of objects with \"name\" and \"template\"",
    )
}

impl FromIterator<ChatTemplate> for ChatTemplates {
    fn from_iter<I: IntoIterator<Item = ChatTemplate>>(templates: I) -> Self {
        ChatTemplates(templates.into_iter().collect())
    }
}
