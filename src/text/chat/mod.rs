//! Conversations to prompts, through the checkpoint's own Jinja template.
//!
//! A template sees what transformers gives it: the same variables, Python's way
//! of writing values, and the functions that published templates call.
//!
//! It is a program from the checkpoint's author. Its steps, its recursion, its output, its
//! time and, with the library's allocator, what it keeps in variables are limited.

mod clock;
mod continuation;
mod generation;
mod python;
mod request;
mod thread;

use std::io;
use std::sync::{Arc, OnceLock};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Map;

use self::request::Request;
use self::thread::Excess;
use super::config::NamedTemplate;
use crate::error::{Error, Result};

pub use self::clock::CivilTime;

/// Instructions of the template engine. Published templates take about 100 for
/// a message; those that look back at all messages for each one, as Gemma 4's
/// does, take 4 million for a thousand of them.
const MAX_OWN_STEPS: u64 = 2_000_000;
const MAX_STEPS_PER_REQUEST_BYTE: u64 = 1_000;
/// Blocks, loops and macros inside of each other.
const MAX_RECURSION: usize = 200;
const MAX_OWN_BYTES: usize = 4 << 20;
const MAX_BYTES_PER_REQUEST_BYTE: usize = 4;

/// The name of the template for requests with tools, where there is one.
const TOOL_USE: &str = "tool_use";

/// A checkpoint's chat templates.
#[derive(Debug)]
pub struct ChatTemplate {
    compiled: Arc<Compiled>,
    /// A template that exceeds its memory keeps it for good, and one that exceeds its time
    /// may go on for long, so it gets no second chance.
    stopped: OnceLock<Excess>,
}

#[derive(Debug)]
struct Compiled {
    env: Environment<'static>,
    templates: Vec<NamedTemplate>,
    /// `("bos_token", "<s>")` and so on: variables of every rendering.
    special_tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// # Errors
    /// `Format` if there is no template, or one has a syntax error; the message
    /// names the template and the line.
    pub fn new(templates: &[NamedTemplate], special_tokens: &[(&str, &str)]) -> Result<Self> {
        if templates.is_empty() {
            return Err(Error::format("this checkpoint has no chat template"));
        }
        let source_bytes = templates.iter().map(|template| template.source.len()).sum();
        let owned = templates.to_vec();
        let env = thread::run(source_bytes, move || compile(&owned))?.map_err(|excess| {
            let more = match excess {
                Excess::Bytes(bytes) => format!("{bytes} bytes in memory"),
                Excess::Time(time) => format!("{} seconds to compile", time.as_secs()),
            };
            Error::format(format!(
                "the chat templates of this checkpoint take more than {more}; give prompts as \
                 text or tokens"
            ))
        })?;
        let owned = |&(key, content): &(&str, &str)| (key.to_owned(), content.to_owned());
        Ok(Self {
            compiled: Arc::new(Compiled {
                env,
                templates: templates.to_vec(),
                special_tokens: special_tokens.iter().map(owned).collect(),
            }),
            stopped: OnceLock::new(),
        })
    }

    /// Renders a request at the local time of now.
    ///
    /// The request is a JSON object:
    /// - `messages`: a list of at least one message, an object each. As in
    ///   transformers, keys that are null count as absent, and a reasoning text
    ///   is found under all its names.
    /// - `tools`, `documents`: lists of objects; absent is the same as null.
    /// - `add_generation_prompt`: whether the template opens the turn of the
    ///   assistant. True, unless `continue_final_message` is set.
    /// - `continue_final_message`: true, or the name of a field, to end the
    ///   prompt inside of the last message, so that the model continues it.
    /// - `chat_template`: the name of one of the checkpoint's templates. Without
    ///   it, `tool_use` is taken for a request with tools, if there is one, and
    ///   `default` otherwise.
    /// - Everything else becomes a variable of the template.
    ///
    /// # Errors
    /// `InvalidArgument` for a request that breaks these rules or that the
    /// template itself refuses, with its words; `Format` if the template fails
    /// or exceeds its limits, with its name and line.
    pub fn render(&self, request_json: &str) -> Result<String> {
        self.render_at(request_json, CivilTime::now())
    }

    /// As [`render`](Self::render), at a time of the caller's choice.
    ///
    /// # Errors
    /// As for [`render`](Self::render).
    pub fn render_at(&self, request_json: &str, now: CivilTime) -> Result<String> {
        if let Some(excess) = self.stopped.get() {
            return Err(stopped(*excess));
        }
        let (compiled, request) = (self.compiled.clone(), request_json.to_owned());
        let rendered = thread::run(request.len(), move || compiled.render(&request, now))?;
        rendered.map_err(|excess| stopped(*self.stopped.get_or_init(|| excess)))
    }
}

fn stopped(excess: Excess) -> Error {
    let what = match excess {
        Excess::Bytes(bytes) => format!("keeps more than {bytes} bytes in variables"),
        Excess::Time(time) => format!("takes more than {} seconds", time.as_secs()),
    };
    Error::format(format!(
        "a chat template of this checkpoint {what}; give prompts as text or tokens"
    ))
}

impl Compiled {
    fn render(&self, request_json: &str, now: CivilTime) -> Result<String> {
        let request = Request::from_json(request_json)?;
        let template = self.select(&request)?;
        if let Some(continuation) = &request.continuation {
            continuation.check_template(&template.source)?;
        }
        let rendered = self.run(template, request.variables, now, request_json.len())?;
        match request.continuation {
            Some(continuation) => continuation.cut(rendered),
            None => Ok(rendered),
        }
    }

    fn run(
        &self,
        template: &NamedTemplate,
        mut variables: Map<String, serde_json::Value>,
        now: CivilTime,
        request_bytes: usize,
    ) -> Result<String> {
        let max_bytes = MAX_OWN_BYTES + MAX_BYTES_PER_REQUEST_BYTE * request_bytes;
        let max_steps = MAX_OWN_STEPS + MAX_STEPS_PER_REQUEST_BYTE * request_bytes as u64;
        let mut output = LimitedOutput::new(max_bytes);
        let mut env = self.env.clone();
        env.set_fuel(Some(max_steps));
        env.add_function("strftime_now", move |format: &str| now.format(format));
        for (key, content) in &self.special_tokens {
            let variable = variables.entry(key.as_str());
            variable.or_insert_with(|| content.as_str().into());
        }
        let rendered = env.get_template(&template.name).and_then(|compiled| {
            let variables = minijinja::Value::from(Serde(&variables));
            compiled
                .render_captured_to(variables, &mut output)
                .map(drop)
        });
        match rendered {
            Ok(()) => Ok(output.into_text()),
            Err(_) if output.is_exceeded => Err(output.error(&template.name)),
            Err(error) => Err(failure(&template.name, &error)),
        }
    }

    fn select(&self, request: &Request) -> Result<&NamedTemplate> {
        let named = |name: &str| self.templates.iter().find(|template| template.name == name);
        if let Some(name) = &request.template_name {
            return named(name).ok_or_else(|| {
                Error::invalid(format!(
                    "chat_template is {name:?}, but the templates of this checkpoint are {}",
                    self.names()
                ))
            });
        }
        let for_tools = if request.has_tools {
            named(TOOL_USE)
        } else {
            None
        };
        for_tools
            .or_else(|| named(NamedTemplate::DEFAULT))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "this checkpoint has no default chat template; name one of {} in chat_template",
                    self.names()
                ))
            })
    }

    fn names(&self) -> String {
        let names = self
            .templates
            .iter()
            .map(|template| format!("{:?}", template.name));
        names.collect::<Vec<_>>().join(", ")
    }
}

fn compile(templates: &[NamedTemplate]) -> Result<Environment<'static>> {
    let mut env = python_like_environment();
    for NamedTemplate { name, source } in templates {
        let source = generation::as_plain_blocks(source);
        env.add_template_owned(name.clone(), source)
            .map_err(|error| failure(name, &error))?;
    }
    Ok(env)
}

/// Jinja as transformers sets it up.
fn python_like_environment() -> Environment<'static> {
    let mut env = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    env.set_syntax(syntax.build().expect("the default delimiters are valid"));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_debug(false);
    env.set_recursion_limit(MAX_RECURSION);
    env.set_unknown_method_callback(unknown_method_callback);
    env.set_formatter(|out, _, value| python::write_value(out, value));
    env.add_filter("tojson", python::tojson);
    env.add_filter("string", python::to_string);
    env.add_filter("length", python::length);
    env.add_filter("count", python::length);
    env.add_test("iterable", python::is_iterable);
    env.add_test("sequence", python::is_iterable);
    env.add_function("raise_exception", raise_exception);
    env
}

/// What a template says when it refuses a request.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn raise_exception(message: String) -> std::result::Result<String, minijinja::Error> {
    let error = minijinja::Error::new(ErrorKind::InvalidOperation, "refused by the template");
    Err(error.with_source(Refusal(message)))
}

/// The refusal in a chain of errors, or where and why the template failed.
fn failure(template: &str, error: &minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut innermost = error;
    while let Some(current) = cause {
        if let Some(Refusal(message)) = current.downcast_ref::<Refusal>() {
            return Error::invalid(format!("chat template {template:?} refuses: {message}"));
        }
        innermost = current.downcast_ref().unwrap_or(innermost);
        cause = current.source();
    }
    let line = innermost
        .line()
        .map_or_else(String::new, |line| format!(", line {line}"));
    let detail = innermost
        .detail()
        .map_or_else(String::new, |detail| format!(": {detail}"));
    let kind = innermost.kind();
    Error::format(format!("chat template {template:?}{line}: {kind}{detail}"))
}

/// Collects what a template writes, up to a limit.
struct LimitedOutput {
    bytes: Vec<u8>,
    max_bytes: usize,
    is_exceeded: bool,
}

impl LimitedOutput {
    fn new(max_bytes: usize) -> Self {
        Self {
            bytes: Vec::new(),
            max_bytes,
            is_exceeded: false,
        }
    }

    fn error(&self, template: &str) -> Error {
        Error::format(format!(
            "chat template {template:?} writes more than {} bytes for this request",
            self.max_bytes
        ))
    }

    fn into_text(self) -> String {
        // The engine writes whole strings.
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl io::Write for &mut LimitedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.max_bytes {
            self.is_exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
