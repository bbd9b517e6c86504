//! [`Constraint`]: a schema, an expression or a grammar, compiled for a vocabulary.
//!
//! Its text comes from a caller who may have it from anybody: how long and how deep it
//! is, how much is made of it, and in how many bytes, is limited.

use std::fmt;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::regex_to_lark;
use serde_json::{Value, json};

use super::matcher::Matcher;
use super::multiples;
use super::quiet::quietly;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result, Status};
use crate::memory::{Bounded, Bounds, run_bounded};

const LIMIT_SCHEMA_BYTES: usize = 256 << 10;
const LIMIT_GRAMMAR_BYTES: usize = 64 << 10;
/// What is read by recursion: of a grammar its definitions, brackets and negations, of a
/// schema its objects, which may refer to each other.
const LIMIT_NESTABLE: usize = 4000;
/// Alternatives are compared with each other: squares of their numbers, all together.
const LIMIT_COMPARISONS: usize = 1 << 20;
/// Of compiling.
const BOUNDS: Bounds = Bounds {
    bytes: 256 << 20,
    time: Duration::from_secs(10),
};
const STACK_BYTES: usize = 16 << 20;
/// For each of these, should they all be inside of each other. Measured: 4 KiB.
const STACK_BYTES_EACH: usize = if cfg!(debug_assertions) {
    48 << 10
} else {
    8 << 10
};
/// Of llguidance's message.
const LIMIT_MESSAGE_BYTES: usize = 2000;
/// Between the parts of a JSON text. Without an end to it, a model that would rather say
/// something else writes spaces until its tokens are used up.
const WHITESPACE: &str = r" |\n{1,2}[ \t]{0,20}";

/// What kind of text a constraint is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstraintKind {
    JsonSchema,
    /// In the syntax of Rust's `regex` crate; it matches the whole text.
    Regex,
    /// In llguidance's variant of Lark's syntax.
    Grammar,
    /// Any JSON object; its text is empty.
    Json,
}

/// What a text may be. Immutable.
pub struct Constraint {
    vocabulary: Arc<Vocabulary>,
    /// In front of the first token.
    beginning: llguidance::Matcher,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

impl Constraint {
    /// # Errors
    /// `InvalidArgument` if the text is no JSON, no expression or no grammar, or exceeds a
    /// limit; `Unsupported` if a schema asks for what cannot be made sure of.
    pub fn new(
        vocabulary: &Arc<Vocabulary>,
        kind: ConstraintKind,
        text: &str,
    ) -> Result<Constraint> {
        let (grammar, n_nestable) = grammar_of(kind, text)?;
        let made_for = vocabulary.clone();
        let thread = Builder::new().name("umrt-grammar".into());
        let thread = thread.stack_size(STACK_BYTES + n_nestable * STACK_BYTES_EACH);
        let outcome = run_bounded(thread, BOUNDS, move || compile(&made_for, grammar));
        let outcome = outcome.map_err(|error| {
            Error::out_of_memory(format!("cannot start a thread for the {kind}: {error}"))
        })?;
        let beginning = match outcome {
            Bounded::Done(compiled) => compiled.map_err(|message| refusal(kind, &message))?,
            Bounded::TooLarge => {
                return Err(Error::unsupported(format!(
                    "the {kind} takes more than {} bytes to compile; make it smaller",
                    BOUNDS.bytes
                )));
            }
            Bounded::TooLong => {
                return Err(Error::unsupported(format!(
                    "the {kind} takes more than {} seconds to compile; make it smaller",
                    BOUNDS.time.as_secs()
                )));
            }
            Bounded::Panicked(panic) => {
                return Err(Error::internal(format!(
                    "llguidance panicked on the {kind}: {panic}"
                )));
            }
        };
        Ok(Constraint {
            vocabulary: vocabulary.clone(),
            beginning,
        })
    }

    /// In front of the first token of a text.
    pub fn begin(&self) -> Matcher {
        Matcher::new(&self.vocabulary, self.beginning.deep_clone())
    }

    /// Whether it was made for these tokens.
    pub fn is_for(&self, vocabulary: &Arc<Vocabulary>) -> bool {
        Arc::ptr_eq(&self.vocabulary, vocabulary)
    }
}

impl fmt::Display for ConstraintKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConstraintKind::JsonSchema | ConstraintKind::Json => "JSON Schema",
            ConstraintKind::Regex => "regular expression",
            ConstraintKind::Grammar => "grammar",
        })
    }
}

/// With how much of it may be nested.
fn grammar_of(kind: ConstraintKind, text: &str) -> Result<(TopLevelGrammar, usize)> {
    ensure_short(kind, text)?;
    let (grammar, n_nestable) = match kind {
        ConstraintKind::JsonSchema => {
            let schema = schema_of(text)?;
            let n_nestable = nestable_of_schema(&schema);
            (TopLevelGrammar::from_json_schema(schema), n_nestable)
        }
        ConstraintKind::Json => {
            let schema = bounded_whitespace(json!({"type": "object"}));
            (TopLevelGrammar::from_json_schema(schema), 0)
        }
        ConstraintKind::Regex => {
            let expression = regex_to_lark(text, "");
            let grammar = format!("start: /{expression}/");
            (TopLevelGrammar::from_lark(grammar), 0)
        }
        ConstraintKind::Grammar => {
            let n_nestable = nestable_of_grammar(text);
            (TopLevelGrammar::from_lark(text.to_owned()), n_nestable)
        }
    };
    ensure_few_nestable(kind, n_nestable)?;
    Ok((grammar, n_nestable))
}

fn ensure_short(kind: ConstraintKind, text: &str) -> Result<()> {
    let most = match kind {
        ConstraintKind::JsonSchema => LIMIT_SCHEMA_BYTES,
        ConstraintKind::Regex | ConstraintKind::Grammar => LIMIT_GRAMMAR_BYTES,
        ConstraintKind::Json => 0,
    };
    match text.len() > most {
        true => Err(Error::invalid(format!(
            "the {kind} has {} bytes; the limit is {most}",
            text.len()
        ))),
        false => Ok(()),
    }
}

fn schema_of(text: &str) -> Result<Value> {
    let schema: Value = serde_json::from_str(text)
        .map_err(|error| Error::invalid(format!("the JSON Schema is no JSON: {error}")))?;
    let n_comparisons = comparisons(&schema);
    if n_comparisons > LIMIT_COMPARISONS {
        return Err(Error::invalid(format!(
            "the oneOf and patternProperties of the JSON Schema have too many alternatives: the \
             squares of their numbers make {n_comparisons}; the limit is {LIMIT_COMPARISONS}"
        )));
    }
    multiples::ensure_followable(&schema)?;
    Ok(bounded_whitespace(schema))
}

/// Unless the schema says itself what whitespace there may be.
fn bounded_whitespace(mut schema: Value) -> Value {
    if let Some(keywords) = schema.as_object_mut() {
        let options = || json!({"whitespace_pattern": WHITESPACE});
        keywords.entry("x-guidance").or_insert_with(options);
    }
    schema
}

/// An expression costs as much as a thousand plain alternatives.
fn comparisons(schema: &Value) -> usize {
    let square = |n: usize| n.saturating_mul(n);
    match schema {
        Value::Array(items) => items.iter().map(comparisons).fold(0, usize::saturating_add),
        Value::Object(keywords) => {
            let own = keywords.iter().map(|(keyword, value)| match value {
                Value::Array(options) if keyword == "oneOf" => square(options.len()),
                Value::Object(patterns) if keyword == "patternProperties" => {
                    square(patterns.len()).saturating_mul(1000)
                }
                _ => 0,
            });
            let inner = keywords.values().map(comparisons);
            own.chain(inner).fold(0, usize::saturating_add)
        }
        _ => 0,
    }
}

/// Wherever they stand: only llguidance knows what is a literal.
fn nestable_of_grammar(grammar: &str) -> usize {
    let is_one = |byte: &u8| matches!(byte, b':' | b'(' | b'[' | b'{' | b'~');
    grammar.bytes().filter(is_one).count()
}

fn nestable_of_schema(schema: &Value) -> usize {
    match schema {
        Value::Array(items) => items.iter().map(nestable_of_schema).sum(),
        Value::Object(keywords) => 1 + keywords.values().map(nestable_of_schema).sum::<usize>(),
        _ => 0,
    }
}

fn ensure_few_nestable(kind: ConstraintKind, n: usize) -> Result<()> {
    let what = match kind {
        ConstraintKind::Grammar => "definitions, brackets and negations",
        _ => "objects",
    };
    match n > LIMIT_NESTABLE {
        true => Err(Error::invalid(format!(
            "the {kind} has {n} {what}; the limit is {LIMIT_NESTABLE}"
        ))),
        false => Ok(()),
    }
}

/// Those of llguidance, a fifth or so of its defaults: large published schemas take half
/// of that.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 50_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// What llguidance says where it refuses.
fn compile(
    vocabulary: &Vocabulary,
    grammar: TopLevelGrammar,
) -> std::result::Result<llguidance::Matcher, String> {
    quietly(|| {
        let factory = vocabulary.factory();
        let parser = factory.create_parser_from_init_ext(
            GrammarInit::Serialized(grammar),
            llguidance::Logger::new(0, 0),
            llguidance::toktrie::InferenceCapabilities::default(),
            limits(),
        );
        let matcher = llguidance::Matcher::new(parser);
        matcher.get_error().map_or(Ok(matcher), Err)
    })
}

/// What llguidance's messages begin with, or have in them, where a schema is right but
/// cannot be made sure of.
const UNSUPPORTED: [&str; 7] = [
    "Unimplemented keys",
    "only supported",
    "Unknown format",
    "not supported",
    "without 'referencing'",
    "are disjoint",
    "not disjoint",
];

fn refusal(kind: ConstraintKind, message: &str) -> Error {
    let end = message.floor_char_boundary(LIMIT_MESSAGE_BYTES);
    // It panics on some texts that it cannot read, which is caught.
    let message = message[..end].trim_start_matches("panic: ").trim_end();
    let is_schema = kind == ConstraintKind::JsonSchema;
    let status = match is_schema && UNSUPPORTED.iter().any(|part| message.contains(part)) {
        true => Status::Unsupported,
        false => Status::InvalidArgument,
    };
    Error::new(status, format!("the {kind} cannot be used: {message}"))
}
