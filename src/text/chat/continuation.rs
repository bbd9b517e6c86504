//! Prompts that end inside of the last message, for the model to go on with.
//!
//! As in transformers: the text to continue gets a tag before the rendering,
//! and the prompt is cut where the tag is found afterwards.

use serde_json::{Map, Value};

use super::request::REASONING_FIELDS;
use crate::error::{Error, Result};

/// The space at its end shows whether the template trims the text.
const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

#[derive(Debug)]
pub struct Continuation {
    field: String,
    /// All fields with the tag: reasoning has several names.
    tagged_fields: Vec<String>,
    text: String,
}

impl Continuation {
    /// Tags the text of `field` in the last message.
    pub fn mark(messages: &mut [Map<String, Value>], field: String) -> Result<Self> {
        let nothing = || {
            Error::invalid(format!(
                "continue_final_message is set, but the last message has no {field:?} to continue"
            ))
        };
        let last = messages.last_mut().ok_or_else(nothing)?;
        let content = last.get(&field).ok_or_else(nothing)?.clone();
        let is_alias = |name: &&str| last.get(*name) == Some(&content);
        let tagged_fields: Vec<String> = if REASONING_FIELDS.contains(&field.as_str()) {
            let aliases = REASONING_FIELDS.iter().copied().filter(is_alias);
            aliases.map(str::to_owned).collect()
        } else {
            vec![field.clone()]
        };
        for tagged in &tagged_fields {
            let text = last.get_mut(tagged).and_then(text_to_continue);
            text.ok_or_else(nothing)?.push_str(TAG);
        }
        let mut content = content;
        let text = text_to_continue(&mut content).ok_or_else(nothing)?.clone();
        Ok(Self {
            field,
            tagged_fields,
            text,
        })
    }

    /// A template that never names the field cannot write its text.
    pub fn check_template(&self, source: &str) -> Result<()> {
        if self
            .tagged_fields
            .iter()
            .any(|field| source.contains(field.as_str()))
        {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "continue_final_message is {:?}, but the chat template doesn't know that field",
            self.field
        )))
    }

    /// The prompt up to the end of the text.
    pub fn cut(&self, mut rendered: String) -> Result<String> {
        let tag_start = rendered.rfind(TAG.trim_end());
        let (Some(tag_start), true) = (tag_start, rendered.contains(self.text.trim())) else {
            return Err(Error::invalid(
                "continue_final_message is set, but the chat template changes the text of the \
                 last message, so that it cannot be continued",
            ));
        };
        let keeps_spaces = rendered[tag_start..].starts_with(TAG);
        rendered.truncate(tag_start);
        if !keeps_spaces {
            rendered.truncate(rendered.trim_end().len());
        }
        Ok(rendered)
    }
}

/// A string, or the last text in a list of content parts.
fn text_to_continue(content: &mut Value) -> Option<&mut String> {
    let value = match content {
        Value::Array(parts) => parts
            .iter_mut()
            .rev()
            .find_map(|part| part.get_mut("text"))?,
        other => other,
    };
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}
