//! Contexts: what they compute, and what they leave as it was.

#[path = "../common/mod.rs"]
mod common;

mod batches;
mod cancelling;
mod failures;
mod forks;
mod growth;
mod kv_types;
mod limits;
mod misaligned;
mod prefixes;
mod saving;
mod scheduling;
mod shifts;
mod threads;
