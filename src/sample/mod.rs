//! Choosing the next token from one row of logits.
//!
//! A [`Sampler`] holds everything that makes a choice repeatable: validated
//! parameters, a seeded generator and the tokens that it was told about. It
//! reads the logits where they are, in `f32`, `f16` or `bf16`.
//!
//! The stages run in the order of Hugging Face transformers, because the values
//! in a checkpoint's `generation_config.json` are made for that order:
//!
//! 1. penalties: repetition, then frequency and presence ([`history`])
//! 2. the mask of a constraint ([`crate::grammar`]): other tokens are no candidates
//! 3. temperature; 0 means greedy, and the stages below are skipped
//! 4. top-k, top-p, min-p ([`candidates`])
//! 5. one draw from what is left; where a token was proposed, its acceptance or a draw
//!    from what the proposal left out ([`speculative`])
//!
//! The arithmetic uses nothing but IEEE 754 basic operations, so a seed gives
//! the same tokens for the same logits on every platform.

pub mod candidates;
pub mod history;
pub mod params;
pub mod rng;
pub mod sampler;
pub mod speculative;

pub use params::SamplerParams;
pub(crate) use sampler::nothing_to_choose;
pub use sampler::{Logits, Sampler, Units};
pub use speculative::Proposal;
