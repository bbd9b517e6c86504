//! The request of a rendering, prepared as transformers prepares it.

use serde_json::{Map, Value};

use super::continuation::Continuation;
use crate::error::{Error, Result};

/// The names under which a message's reasoning is passed, the standard one first.
pub const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

#[derive(Debug)]
pub struct Request {
    /// Everything that the template sees, in the order of the request.
    pub variables: Map<String, Value>,
    pub has_tools: bool,
    pub template_name: Option<String>,
    pub continuation: Option<Continuation>,
}

impl Request {
    pub fn from_json(json: &str) -> Result<Self> {
        let mut variables: Map<String, Value> = serde_json::from_str(json).map_err(|error| {
            Error::invalid(format!("the chat request is not a JSON object: {error}"))
        })?;
        let mut messages = take_messages(&mut variables)?;
        let template_name = take_template_name(&mut variables)?;
        let continued_field = take_continued_field(&mut variables)?;
        settle_generation_prompt(&mut variables, continued_field.is_some())?;
        for key in ["tools", "documents"] {
            check_list_of_objects(key, variables.entry(key).or_insert(Value::Null))?;
        }

        messages.iter_mut().for_each(normalize_message);
        let continuation = match continued_field {
            Some(field) => Some(Continuation::mark(&mut messages, field)?),
            None => None,
        };
        let messages = messages.into_iter().map(Value::Object).collect();
        variables.insert("messages".into(), Value::Array(messages));
        Ok(Self {
            has_tools: !variables["tools"].is_null(),
            variables,
            template_name,
            continuation,
        })
    }
}

fn take_messages(variables: &mut Map<String, Value>) -> Result<Vec<Map<String, Value>>> {
    let Some(Value::Array(messages)) = variables.remove("messages") else {
        return Err(Error::invalid(
            "the chat request needs a list called messages",
        ));
    };
    if messages.is_empty() {
        return Err(Error::invalid(
            "messages is empty, so there is nothing to render",
        ));
    }
    let objects = messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| match message {
            Value::Object(message) => Ok(message),
            _ => Err(Error::invalid(format!(
                "messages[{index}] is not an object"
            ))),
        });
    objects.collect()
}

fn take_template_name(variables: &mut Map<String, Value>) -> Result<Option<String>> {
    match variables.remove("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => Ok(Some(name)),
        Some(_) => Err(Error::invalid(
            "chat_template must be the name of a template",
        )),
    }
}

fn take_continued_field(variables: &mut Map<String, Value>) -> Result<Option<String>> {
    match variables.remove("continue_final_message") {
        None | Some(Value::Null | Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some("content".into())),
        Some(Value::String(field)) => Ok(Some(field)),
        Some(_) => Err(Error::invalid(
            "continue_final_message must be true, false or the name of a field",
        )),
    }
}

fn settle_generation_prompt(variables: &mut Map<String, Value>, is_continued: bool) -> Result<()> {
    let wanted = variables
        .entry("add_generation_prompt")
        .or_insert(Value::Bool(!is_continued));
    match wanted {
        Value::Bool(true) if is_continued => Err(Error::invalid(
            "add_generation_prompt begins a new message and continue_final_message goes on with \
             the last one: set one of them",
        )),
        Value::Bool(_) => Ok(()),
        _ => Err(Error::invalid(
            "add_generation_prompt must be true or false",
        )),
    }
}

fn check_list_of_objects(key: &str, value: &Value) -> Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::Array(items) if items.iter().all(Value::is_object) => Ok(()),
        _ => Err(Error::invalid(format!("{key} must be a list of objects"))),
    }
}

/// Drops what is null, since many templates write "None" for it, and gives the
/// reasoning its standard name and the one that gpt-oss reads.
fn normalize_message(message: &mut Map<String, Value>) {
    message.retain(|_, value| !value.is_null());
    let reasoning = REASONING_FIELDS
        .iter()
        .find_map(|&field| message.get(field));
    if let Some(reasoning) = reasoning.cloned() {
        message
            .entry("thinking")
            .or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".into(), reasoning);
    }
}
