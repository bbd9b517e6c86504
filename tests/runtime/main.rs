//! Contexts: what they compute, and what they leave as it was.

#[path = "../common/mod.rs"]
mod common;

mod batches;
mod cancelling;
mod failures;
mod growth;
mod limits;
mod misaligned;
mod threads;
