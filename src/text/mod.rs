//! From text to token ids and back, and from a conversation to a prompt.
//!
//! - [`config`]: what `tokenizer_config.json` says about special tokens and templates
//! - [`tokenizer`]: `tokenizer.json`, encoding and decoding
//! - [`detokenizer`]: text out of a growing list of tokens, whole characters only
//! - [`stop`]: finds stop strings in that stream of text
//! - [`chat`]: renders messages through the checkpoint's Jinja template
//!
//! A [`Tokenizer`] and a [`ChatTemplate`] never change and may be shared
//! between threads; a [`Detokenizer`] and a [`StopMatcher`] belong to one stream.

pub mod chat;
pub mod config;
pub mod detokenizer;
pub mod stop;
pub mod tokenizer;

mod growth;
mod pieces;

pub use chat::ChatTemplate;
pub use config::{NamedTemplate, SpecialToken, TokenizerConfig};
pub use detokenizer::Detokenizer;
pub use stop::{StopMatcher, Unstopped};
pub use tokenizer::{EncodeFlags, TokenInfo, Tokenizer, VocabularyDifference};
