//! [`Context`]: sequences of one model, and their evaluation.
//!
//! - `ahead`: tokens chosen where the logits are, one step ahead
//! - `overflow`: sequences that lose tokens to make room
//! - `prompt_cache`: sequences in files of mlx-lm
//! - `reuse`: texts that begin like others
//! - `saving`: sequences to and from files
//! - `states`: what cannot be done with recurrent layers, and the ways around it
//! - `head`: what becomes of the hidden states behind the layers
//! - `drafts`: tokens that may be wrong
//! - `evaluation`: a batch in steps

mod ahead;
mod drafts;
mod evaluation;
mod head;
mod overflow;
mod prompt_cache;
mod reuse;
mod saving;
mod states;

pub use overflow::Overflow;

use std::sync::Arc;
use std::time::Duration;

pub(super) use head::{Head, States};

use head::LogitsRow;

use super::adapter::{ActiveAdapters, Adapter};
use super::admission::{self, ContextBytes, ContextPlan, ContextReservation};
use super::model::Model;
use super::prefix_cache::{self, PrefixCache};
use super::pressure;
use super::sequences::{Sequences, SharedSequences};
use super::stats::ContextMemory;
use crate::error::{Error, Result};
use crate::kernels::Activations;
use crate::kv::{self, KvType, KvUsage, Mark, Recipe, Sequence};
use crate::memory::{Category, Entry};
use crate::mlx::{Ops, Stream};

pub(super) use ahead::Next;

/// Zero means the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ContextOptions {
    /// Tokens that each sequence may hold. Default: what the model was trained
    /// for, but at most 8192.
    pub n_ctx: usize,
    /// Sequences. Default: 1.
    pub n_sequences: usize,
    /// Tokens that are evaluated together at most. Default: 512.
    pub prefill_chunk: usize,
    /// Threads that compute on the CPU, at most 1024. Default: the physical cores
    /// that the process may use.
    pub n_threads: usize,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// How idle sequences may be stored from memory pressure on until they are empty. With
    /// fewer bits than `kv_type` has it is not lossless. Default: as they are.
    pub pressure_kv_type: Option<KvType>,
    /// As what activations are multiplied with quantized weights.
    pub activations: Activations,
    /// Bytes that the context may take at most; more is refused. Default: what
    /// the budget of the process leaves.
    pub memory_limit: usize,
    /// Keys and values are kept in the model's prefix cache, and prompts begin with
    /// what is found there. Default: neither.
    pub prefix_cache: bool,
    /// What happens when tokens do not fit behind a sequence.
    pub overflow: Overflow,
}

/// Counters since the context was made. A step in which each sequence gets one
/// token, perhaps with drafts behind it, is decoding, any other is prefill.
#[derive(Clone, Copy, Debug, Default)]
pub struct Perf {
    pub n_prefill_tokens: u64,
    pub n_decode_tokens: u64,
    pub n_evals: u64,
    pub prefill_time: Duration,
    pub decode_time: Duration,
    /// How often a text began with what the prefix cache had.
    pub n_prefix_hits: u64,
    /// Tokens that were not evaluated because of it.
    pub n_prefix_tokens: u64,
    /// Tokens that sequences lost to make room, or by `shift`.
    pub n_removed_tokens: u64,
    /// Tokens that were evaluated because they might follow.
    pub n_drafted: u64,
    /// Those of them that did. The others do not count as decoded.
    pub n_accepted: u64,
}

/// Sequences of one model. One call at a time.
pub struct Context {
    model: Arc<Model>,
    ops: Arc<Ops>,
    plan: ContextPlan,
    sequences: SharedSequences,
    adapters: ActiveAdapters,
    recipe: Arc<Recipe>,
    prefix_cache: Option<Arc<PrefixCache>>,
    overflow: Overflow,
    logits: Vec<LogitsRow>,
    perf: Perf,
    /// Where the last evaluation with drafts began in its sequences, if they can be taken
    /// back in no other way.
    before_drafts: Vec<(i32, Mark)>,
    logits_bytes: Entry,
    reservation: ContextReservation,
}

impl Context {
    pub fn new(model: &Arc<Model>, options: &ContextOptions) -> Result<Context> {
        pressure::ensure_accepting("make a context")?;
        model.residence().ensure_unaltered()?;
        let place = (model.device(), model.cpu_ops());
        let dtype = model.decoder().dtype();
        let plan = ContextPlan::new(model.info(), dtype, options, place)?;
        options.overflow.ensure_possible(model, plan.n_ctx())?;
        if options.prefix_cache {
            states::ensure_none(
                model,
                "the prefix cache shares keys and values by their tokens",
            )?;
        }
        let reservation = plan.admit()?;
        let stream = Stream::acquire(model.device())?;
        let ops = Arc::new(Ops::new(stream, model.cpu_ops(), options.n_threads));
        let sequence = |_| Sequence::new(&ops, plan.cache.clone());
        let adapters = ActiveAdapters::default();
        Ok(Context {
            overflow: options.overflow,
            recipe: reuse::recipe(model, &plan, &adapters),
            prefix_cache: options.prefix_cache.then(|| model.prefix_cache().clone()),
            sequences: Sequences::share(
                ops.clone(),
                (0..plan.n_sequences).map(sequence).collect(),
                plan.reduced.clone(),
            ),
            ops,
            plan,
            adapters,
            logits: Vec::new(),
            perf: Perf::default(),
            before_drafts: Vec::new(),
            logits_bytes: Entry::new(Category::Logits, 0),
            model: model.clone(),
            reservation,
        })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens that each sequence may hold.
    pub fn n_ctx(&self) -> usize {
        self.plan.n_ctx()
    }

    pub fn n_sequences(&self) -> usize {
        self.plan.n_sequences
    }

    pub fn prefill_chunk(&self) -> usize {
        self.plan.prefill_chunk
    }

    pub fn activations(&self) -> Activations {
        self.plan.activations
    }

    #[cfg(test)]
    pub(super) fn ops(&self) -> &Arc<Ops> {
        &self.ops
    }

    /// Threads that compute on the CPU, the one that waits for the others
    /// included; 1 where MLX computes everything.
    pub fn n_threads(&self) -> usize {
        self.ops.n_threads()
    }

    pub fn kv_bytes_per_token(&self) -> usize {
        self.plan.cache.bytes_per_token()
    }

    /// What was reserved for the context when it was made.
    pub fn planned_bytes(&self) -> ContextBytes {
        self.plan.bytes()
    }

    pub fn perf(&self) -> Perf {
        self.perf
    }

    pub fn memory(&self) -> ContextMemory {
        let held = Sequences::of(&self.sequences).usage();
        self.memory_of(held, self.logits_bytes.bytes())
    }

    /// The most that keys and values have taken.
    pub fn kv_peak(&self) -> usize {
        Sequences::of(&self.sequences).peak()
    }

    /// One sequence's keys and values, what it shares with others included.
    pub fn sequence_memory(&self, sequence: i32) -> Result<ContextMemory> {
        let index = self.index_of(sequence)?;
        let held = kv::usage(&Sequences::of(&self.sequences)[index..=index]);
        Ok(self.memory_of(held, 0))
    }

    fn memory_of(&self, held: KvUsage, logits: usize) -> ContextMemory {
        let memory = ContextMemory {
            kv_reserved: held.reserved_bytes,
            kv_used: held.used_bytes,
            logits,
            on_gpu: 0,
        };
        ContextMemory {
            on_gpu: match self.model.device().has_own_memory() {
                true => memory.total(),
                false => 0,
            },
            ..memory
        }
    }

    pub fn sequence_length(&self, sequence: i32) -> Result<usize> {
        let index = self.index_of(sequence)?;
        Ok(Sequences::of(&self.sequences)[index].length())
    }

    /// Makes sequence `to` hold the tokens of sequence `from`, in place of its own.
    /// It takes no memory: what both hold is shared until one of them changes it.
    pub fn fork(&mut self, from: i32, to: i32) -> Result<()> {
        let (from, to) = (self.index_of(from)?, self.index_of(to)?);
        let mut sequences = Sequences::of(&self.sequences);
        let fork = sequences[from].fork();
        let is_kept = self.let_go(&sequences[to], 0);
        sequences[to] = fork;
        sequences.account();
        drop(sequences);
        fit_if(is_kept);
        Ok(())
    }

    /// Keeps the first `keep` tokens of a sequence; with 0 its memory is given back.
    pub fn trim(&mut self, sequence: i32, keep: usize) -> Result<()> {
        let index = self.index_of(sequence)?;
        let mut sequences = Sequences::of(&self.sequences);
        let cache = &mut sequences[index];
        if keep > cache.length() {
            return Err(Error::invalid(format!(
                "sequence {sequence} holds {} tokens; cannot keep {keep}",
                cache.length()
            )));
        }
        states::ensure_can_keep(cache, keep)?;
        let is_kept = self.let_go(cache, keep);
        cache.truncate(keep);
        sequences.account();
        drop(sequences);
        fit_if(is_kept);
        Ok(())
    }

    /// From now on evaluates with these adapters, each times its scale, instead of
    /// those before. Keys and values that are there stay as they are.
    pub fn set_adapters(&mut self, adapters: &[(Arc<Adapter>, f32)]) -> Result<()> {
        let adapters = ActiveAdapters::new(&self.model, adapters)?;
        let spec = self.model.decoder().spec();
        let columns =
            adapters
                .adapted()
                .columns(spec, self.model.decoder().dtype(), self.ops.uses_kernels());
        let plan = self.plan.with_adapters(columns);
        self.reservation.admit_adapters(&plan, self.logits.len())?;
        self.recipe = reuse::recipe(&self.model, &plan, &adapters);
        (self.adapters, self.plan) = (adapters, plan);
        Ok(())
    }

    /// Rows of logits that the last successful evaluation left.
    pub fn n_logits_rows(&self) -> usize {
        self.logits.len()
    }

    /// One row of logits, `[vocab_size]`, where MLX computed it.
    pub fn logits(&self, row: usize) -> Result<&[f32]> {
        let wanted = self.logits_row(row)?;
        let vocab_size = self.model.decoder().spec().vocab_size;
        let start = wanted.row * vocab_size;
        Ok(&wanted.step.as_f32()?[start..start + vocab_size])
    }

    fn logits_row(&self, row: usize) -> Result<&LogitsRow> {
        self.logits.get(row).ok_or_else(|| {
            Error::invalid(format!(
                "logits row {row} is not there: the last evaluation left {}",
                self.logits.len()
            ))
        })
    }

    fn account_logits(&mut self) {
        let vocab_size = self.model.decoder().spec().vocab_size;
        self.logits_bytes
            .set(self.logits.len() * vocab_size * size_of::<f32>());
    }

    fn index_of(&self, sequence: i32) -> Result<usize> {
        usize::try_from(sequence)
            .ok()
            .filter(|index| *index < self.n_sequences())
            .ok_or_else(|| {
                Error::invalid(format!(
                    "sequence {sequence} is outside of the context's {}",
                    self.n_sequences()
                ))
            })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let mut sequences = Sequences::of(&self.sequences);
        for sequence in sequences.iter() {
            self.let_go(sequence, 0);
        }
        sequences.clear();
        drop(sequences);
        self.logits.clear();
        self.reservation.end();
        prefix_cache::fit();
        // Freed buffers are kept for the steps of contexts; it is only a hint.
        let _ = admission::limits_after_last();
    }
}

/// When the prefix cache took something.
fn fit_if(is_kept: bool) {
    if is_kept {
        prefix_cache::fit();
    }
}
