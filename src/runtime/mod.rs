//! What the handles of the C API do, in Rust.
//!
//! - `cancel`: [`Cancel`], stops a running call from another thread
//! - `model`: [`Model`], an opened checkpoint, shared by its contexts
//! - `adapter`: [`Adapter`], a LoRA adapter of a model
//! - `batch`: [`Batch`], which tokens of which sequences to evaluate
//! - `context`: [`Context`], sequences and their evaluation
//! - `device`: what devices there are
//! - `admission`: what they reserve before anything is allocated, and refusals
//! - `scratch`: what a step takes and gives back
//! - `estimate`: whether a model fits, from its headers
//! - `quantize`: writes a checkpoint with fewer bits per weight
//! - `generate`: prompt in, streamed text out
//! - `schedule`: [`Scheduler`], many generations over one context
//! - `speculate`: tokens that are guessed and then checked, several at once
//! - `embed`, `score`: vectors of texts, log-probabilities of continuations
//! - `text`: [`ModelText`], tokenizer and chat template of a model
//! - `stats`: what memory is used for
//! - `diagnosis`: what is wrong with it, and what to do
//! - `residency`: whose weights are in memory
//! - `sequences`: those of a context, and the idle ones that go to disk
//! - `prefix_cache`: [`PrefixCache`], keys and values for texts that begin alike
//! - `pressure`: giving memory back, step by step

mod adapter;
mod admission;
mod batch;
mod cancel;
mod context;
mod device;
mod diagnosis;
mod embed;
mod estimate;
#[cfg(test)]
mod failure_tests;
mod generate;
#[cfg(test)]
mod gpu_tests;
mod model;
mod prefix_cache;
mod pressure;
mod quantize;
mod residency;
mod sampling;
mod schedule;
mod score;
mod scratch;
mod sequences;
mod speculate;
mod stats;
mod text;

pub use adapter::Adapter;
pub use admission::{ContextBytes, ModelBytes};
pub use batch::{Batch, Want};
pub use cancel::Cancel;
pub use context::{Context, ContextOptions, Overflow, Perf};
pub use device::{DeviceSummary, device_summary};
pub use diagnosis::{Diagnosis, Finding, diagnose};

pub use embed::{EmbedOptions, Pooling, embed};
pub use estimate::{
    BudgetInfo, MemoryEstimate, TypeBytes, WouldFit, budget_info, estimate, set_budget,
    set_mlx_cache,
};
pub use generate::{Flow, GenerateOptions, Generated, Prompt, Receive, StopReason, generate};
pub use model::{DeviceChoice, Model, ModelInfo, ModelOptions, inspect};
pub use prefix_cache::PrefixCache;
pub use pressure::{PressureReceiver, TrimSteps, Trimmed, listen, notify, trim};
pub use quantize::{QuantizeWatch, quantize};
pub use residency::{Policy, Released, Residence, Residency, ResidencyOptions, make_room};
pub use sampling::{SamplingDevice, sample};
pub use schedule::{
    Finished, Receiver, Request, RequestResult, Requests, Scheduler, SchedulerOptions, StepReport,
};
pub use score::{score, top_logprobs};
pub use sequences::{IdleSequences, set_spill_place};
pub use speculate::{DraftCounts, Lookup, MOST_DRAFTED, Speculation};
pub use stats::{ContextMemory, MemoryStats, ModelMemory, memory_stats};
pub use text::ModelText;
