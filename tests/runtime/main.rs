//! Contexts: what they compute, and what they leave as it was.

#[path = "../common/mod.rs"]
mod common;

mod ahead;
mod batches;
mod cancelling;
mod constraints;
mod embedding;
mod failures;
mod forks;
mod growth;
mod guessing_requests;
mod kv_types;
mod latent;
mod limits;
mod misaligned;
mod operations;
mod prefixes;
mod recurrent;
mod saving;
mod scheduling;
mod scoring;
mod shared_layers;
mod shifts;
mod speculation;
mod threads;
