//! Constraints: what a generated text may be.

use std::ffi::c_char;

use super::arguments;
use super::guard::{guard, guard_free, umrt_status};
use super::handle;
use super::model::umrt_model;
use crate::error::{Error, Result};
use crate::grammar::{Constraint, ConstraintKind};

/// A JSON Schema: the text is JSON that it describes. docs/constraints.md lists the
/// keywords.
pub const UMRT_CONSTRAINT_JSON_SCHEMA: u32 = 1;
/// A regular expression in the syntax of Rust's regex crate, without anchors and
/// look-around: it matches the whole text.
pub const UMRT_CONSTRAINT_REGEX: u32 = 2;
/// A context-free grammar in a variant of Lark's syntax, whose rule `start` is the text.
pub const UMRT_CONSTRAINT_GRAMMAR: u32 = 3;
/// Any JSON object; `text` is empty.
pub const UMRT_CONSTRAINT_JSON: u32 = 4;

/// What a text may be, compiled for a model's tokens. Immutable: any number of
/// generations of the model use it, at the same time, too.
pub struct umrt_constraint(pub(super) Constraint);

/// Compiles a constraint for a model. The first one of a model takes its vocabulary
/// apart, which is kept as long as the model or one of its constraints.
///
/// - `kind`: `UMRT_CONSTRAINT_*`
/// - `text`: `length` bytes of UTF-8; NULL if there are none.
/// - `constraint`: receives the handle. Free it with `umrt_constraint_free`.
///
/// While a text is generated, only tokens are chosen with which it can become one that
/// the constraint describes; of tokens that are no text, only those that end it, where it
/// may end. A generation ends with `UMRT_STOP_END` where the model ends the text or
/// nothing can be added to it. If it ends earlier (`max_tokens`, a stop string, a full
/// context), the text is a beginning.
///
/// Returns INVALID_ARGUMENT (no such kind; the text is no JSON, no expression or no
/// grammar, or exceeds a limit: the message says where and why), UNSUPPORTED (keywords of
/// JSON Schema that it does not implement; a tokenizer whose tokens have no text of their
/// own; more memory than compiling may use), NOT_FOUND (no tokenizer), FORMAT (it is
/// broken), OUT_OF_MEMORY. Any thread.
///
/// # Safety
/// `model` is NULL or a live handle; `text` is NULL or readable for `length` bytes;
/// `constraint` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_constraint_new(
    model: *const umrt_model,
    kind: u32,
    text: *const c_char,
    length: usize,
    constraint: *mut *mut umrt_constraint,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            handle::give(constraint, || {
                let model = handle::borrow(model, "model")?;
                let text = arguments::text(text, length, "text")?;
                let compiled = model.0.text().constraint(kind_of(kind)?, text)?;
                Ok(umrt_constraint(compiled))
            })
        }
    })
}

/// Frees the constraint; generations that use it go on. NULL is ignored. Any thread.
///
/// # Safety
/// `constraint` is NULL or a live handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_constraint_free(constraint: *mut umrt_constraint) {
    // SAFETY: the caller's contract.
    guard_free(|| unsafe { handle::free(constraint) });
}

fn kind_of(kind: u32) -> Result<ConstraintKind> {
    match kind {
        UMRT_CONSTRAINT_JSON_SCHEMA => Ok(ConstraintKind::JsonSchema),
        UMRT_CONSTRAINT_REGEX => Ok(ConstraintKind::Regex),
        UMRT_CONSTRAINT_GRAMMAR => Ok(ConstraintKind::Grammar),
        UMRT_CONSTRAINT_JSON => Ok(ConstraintKind::Json),
        other => Err(Error::invalid(format!(
            "kind {other} is none of UMRT_CONSTRAINT_*"
        ))),
    }
}
