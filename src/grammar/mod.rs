//! What a text may be: JSON Schemas, regular expressions and context-free grammars,
//! compiled for a vocabulary by the llguidance crate.
//!
//! - [`vocabulary`]: the bytes of a model's tokens, as a tree
//! - [`compile`]: from a text to a [`Constraint`], within limits
//! - [`matcher`]: how far a generation is, and what it may go on with
//! - `multiples`: `multipleOf`, as far as it can be followed
//! - `quiet`: llguidance's panics, as errors that nobody prints
//!
//! A [`Vocabulary`] and a [`Constraint`] never change and may be shared between threads;
//! a [`Matcher`] belongs to one text.

pub mod compile;
pub mod matcher;
pub mod vocabulary;

mod multiples;
mod quiet;

pub use compile::{Constraint, ConstraintKind};
pub use matcher::{Allowed, Matcher};
pub use vocabulary::Vocabulary;

#[cfg(test)]
mod tests;
