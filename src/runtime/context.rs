//! [`Context`]: sequences of one model, and their evaluation.
//!
//! - `ahead`: greedy decoding one step ahead
//! - `overflow`: sequences that lose tokens to make room
//! - `prompt_cache`: sequences in files of mlx-lm
//! - `reuse`: texts that begin like others
//! - `saving`: sequences to and from files
//! - `head`: what becomes of the hidden states behind the layers
//! - `drafts`: tokens that may be wrong

mod ahead;
mod drafts;
mod head;
mod overflow;
mod prompt_cache;
mod reuse;
mod saving;

pub use overflow::Overflow;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use head::{Head, States};

use head::{LogitsHead, LogitsRow};

use super::adapter::{ActiveAdapters, Adapter};
use super::admission::{self, ContextBytes, ContextPlan, ContextReservation};
use super::batch::{Batch, Share};
use super::cancel::{self, Cancel};
use super::model::Model;
use super::prefix_cache::{self, PrefixCache};
use super::pressure;
use super::scratch::{LAYERWISE_FROM, StepSize};
use super::sequences::{Sequences, SharedSequences};
use super::stats::ContextMemory;
use crate::decoder::Segment;
use crate::error::{Error, Result};
use crate::kv::{self, KvType, KvUsage, Recipe, Sequence};
use crate::memory::{Category, Entry};
use crate::mlx::{Array, Device, Ops, Stream};

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

/// Whether the rows of a step may be computed in ways that suit many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arithmetic {
    Together,
    /// Each as if it was alone, which makes the step one of decoding.
    OneByOne,
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
    logits_bytes: Entry,
    reservation: ContextReservation,
}

/// One step of an evaluation.
struct Step {
    tokens: Vec<i32>,
    /// (sequence, number of tokens), by sequence
    parts: Vec<(usize, usize)>,
    /// Rows of this step of which something is wanted, with their place in the batch.
    wanted: Vec<(i32, usize)>,
}

/// How an evaluation is computed.
struct Way<'a> {
    arithmetic: Arithmetic,
    head: &'a mut dyn Head,
    cancel: Option<&'a Cancel>,
}

impl Context {
    pub fn new(model: &Arc<Model>, options: &ContextOptions) -> Result<Context> {
        pressure::ensure_accepting("make a context")?;
        model.residence().ensure_unaltered()?;
        let place = (model.device(), model.cpu_ops());
        let dtype = model.decoder().dtype();
        let plan = ContextPlan::new(model.info(), dtype, options, place)?;
        options.overflow.ensure_possible(model, plan.n_ctx())?;
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

    #[cfg(test)]
    pub(super) fn ops(&self) -> &Arc<Ops> {
        &self.ops
    }

    /// Whether decoding gains from being one step ahead.
    pub(super) fn gains_from_running_ahead(&self) -> bool {
        self.ops.gains_from_running_ahead()
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
        let wanted = self.logits.get(row).ok_or_else(|| {
            Error::invalid(format!(
                "logits row {row} is not there: the last evaluation left {}",
                self.logits.len()
            ))
        })?;
        let vocab_size = self.model.decoder().spec().vocab_size;
        let start = wanted.row * vocab_size;
        Ok(&wanted.step.as_f32()?[start..start + vocab_size])
    }

    /// Appends the batch to its sequences and keeps the wanted logits, in the
    /// order of their tokens. When it fails or is cancelled, sequences and
    /// logits are as before; only if MLX itself fails in the middle can a
    /// sequence be lost, which the message then says.
    pub fn eval(&mut self, batch: &Batch<'_>, cancel: Option<&Cancel>) -> Result<()> {
        let mut head = LogitsHead::default();
        self.eval_with(batch, Arithmetic::Together, &mut head, cancel)?;
        self.keep_logits(head);
        Ok(())
    }

    /// As `eval`, where `head` gets what it wants of the batch's marked tokens; the
    /// logits of the evaluation before stay.
    pub(super) fn eval_for(
        &mut self,
        batch: &Batch<'_>,
        head: &mut dyn Head,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        self.eval_with(batch, Arithmetic::Together, head, cancel)
    }

    fn eval_with(
        &mut self,
        batch: &Batch<'_>,
        arithmetic: Arithmetic,
        head: &mut dyn Head,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        let vocab_size = self.model.decoder().spec().vocab_size;
        batch.validate(vocab_size)?;
        let shares = batch.shares(self.n_sequences())?;
        // Until the end of the call nobody else gets at them.
        let shared = self.sequences.clone();
        let mut sequences = Sequences::of(&shared);
        self.ensure_room(&sequences, &shares)?;
        let wanted = batch.wanted(&shares);
        let n_logits = head.logits_rows_at_once(wanted.len());
        self.reservation
            .admit_logits(&self.plan, self.logits.len(), n_logits)?;
        let _in_use = self.model.residence().begin()?;
        self.adapters.ensure_unaltered()?;
        self.make_room(&mut sequences, &shares)?;
        let lengths: Vec<usize> = sequences.iter().map(Sequence::length).collect();
        let mut way = Way {
            arithmetic,
            head,
            cancel,
        };
        let result = self.run(&mut sequences, batch, &shares, &wanted, &mut way);
        let result = match result {
            Ok(()) => {
                self.keep_completed(&sequences, &shares, &lengths);
                Ok(())
            }
            Err(error) => Err(roll_back(&mut sequences, &lengths, error)),
        };
        sequences.account();
        result
    }

    fn keep_logits(&mut self, head: LogitsHead) {
        self.logits = head.into_rows();
        self.account_logits();
    }

    fn keep_completed(&self, sequences: &[Sequence], shares: &[Share], lengths: &[usize]) {
        let Some(cache) = &self.prefix_cache else {
            return;
        };
        for &Share { sequence, .. } in shares {
            cache.keep_completed(&self.ops, &sequences[sequence], lengths[sequence]);
        }
    }

    fn run(
        &mut self,
        sequences: &mut [Sequence],
        batch: &Batch<'_>,
        shares: &[Share],
        wanted: &[usize],
        way: &mut Way<'_>,
    ) -> Result<()> {
        for share in shares {
            if !self.ops.uses_kernels() {
                let length = sequences[share.sequence].length();
                self.plan.probe_arrays(length + share.indices.len())?;
            }
            sequences[share.sequence].bring_back()?;
            sequences[share.sequence].reserve(&self.ops, share.indices.len())?;
        }
        for step in steps(batch, shares, wanted, self.plan.prefill_chunk) {
            if let Some(cancel) = way.cancel {
                cancel.check()?;
            }
            let began = Instant::now();
            self.step(sequences, &step, way)?;
            self.count(&step, way.arithmetic, began.elapsed());
        }
        self.perf.n_evals += 1;
        Ok(())
    }

    fn step_size(&self, sequences: &[Sequence], step: &Step, head: &dyn Head) -> StepSize {
        let lengths = step.parts.iter();
        let end = |(sequence, n): &(usize, usize)| sequences[*sequence].length() + n;
        StepSize {
            n_tokens: step.tokens.len(),
            n_sequences: step.parts.len(),
            n_positions: lengths.map(end).max().unwrap_or(0),
            n_wanted: head.logits_rows_at_once(step.wanted.len()),
        }
    }

    /// Builds and evaluates one step.
    fn step(&mut self, sequences: &mut [Sequence], step: &Step, way: &mut Way<'_>) -> Result<()> {
        self.plan
            .probe_step(&self.step_size(sequences, step, way.head))?;
        let Context {
            model,
            ops,
            adapters,
            recipe,
            ..
        } = self;
        let apart = (way.arithmetic == Arithmetic::OneByOne).then(|| ops.with_rows_apart());
        let ways = (apart.as_ref().unwrap_or(ops), adapters.adapted());
        let stop = way.cancel.map(|cancel| Arc::new(cancel.stop()));
        let ensure_not_stopped = || stop.as_deref().map_or(Ok(()), cancel::ensure_not_stopped);
        let decoder = model.decoder();
        let layerwise = ops.stream().device() == Device::Cpu
            && !ops.uses_kernels()
            && (step.tokens.len() >= LAYERWISE_FROM || stop.is_some());
        let mut after_layer = |hidden: &Array| {
            if layerwise {
                ops.stream().eval([hidden])?;
                ensure_not_stopped()?;
            }
            Ok(())
        };
        let mut segments = segments(sequences, &step.parts);
        let tokens = Array::from_i32(&step.tokens, &[step.tokens.len() as i32])?;
        let wants_states = !step.wanted.is_empty();
        let mut compute = || {
            let hidden =
                decoder.forward(ways, &tokens, &mut segments, wants_states, &mut after_layer)?;
            let states = States::new(decoder, ways, hidden);
            let last = match wants_states {
                true => way.head.look(&states, &step.wanted)?,
                false => states.hidden().clone(),
            };
            let caches = segments.iter().flat_map(|segment| segment.cache.arrays());
            ops.stream().eval(caches.chain([&last]))
        };
        // Our kernels look at the flag themselves; MLX's operations do not.
        let computed = ops.stream().until(stop.clone(), &mut compute);
        ensure_not_stopped()?;
        computed?;
        let mut rest = &step.tokens[..];
        for segment in segments {
            let (new, others) = rest.split_at(segment.n_tokens);
            segment.cache.advance(recipe, new);
            rest = others;
        }
        Ok(())
    }

    fn count(&mut self, step: &Step, arithmetic: Arithmetic, elapsed: Duration) {
        let n_tokens = step.tokens.len() as u64;
        let is_drafted = arithmetic == Arithmetic::OneByOne;
        if is_drafted || step.parts.iter().all(|(_, n)| *n == 1) {
            self.perf.n_decode_tokens += n_tokens;
            self.perf.decode_time += elapsed;
        } else {
            self.perf.n_prefill_tokens += n_tokens;
            self.perf.prefill_time += elapsed;
        }
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

fn roll_back(sequences: &mut [Sequence], lengths: &[usize], error: Error) -> Error {
    let mut error = error;
    for (index, (sequence, &length)) in sequences.iter_mut().zip(lengths).enumerate() {
        sequence.truncate(length);
        if !sequence.recover() && length > 0 {
            error = error.context(format!("sequence {index} was lost and is empty now"));
        }
    }
    error
}

/// The caches of a step's parts, in their order.
fn segments<'a>(sequences: &'a mut [Sequence], parts: &[(usize, usize)]) -> Vec<Segment<'a>> {
    let mut parts = parts.iter().peekable();
    sequences
        .iter_mut()
        .enumerate()
        .filter_map(|(index, cache)| {
            let &(_, n_tokens) = parts.next_if(|(sequence, _)| *sequence == index)?;
            Some(Segment { n_tokens, cache })
        })
        .collect()
}

/// Cuts a batch into steps of at most `chunk` tokens; each takes what fits of
/// every sequence that still has tokens.
fn steps<'a>(
    batch: &'a Batch<'_>,
    shares: &'a [Share],
    wanted: &'a [usize],
    chunk: usize,
) -> impl Iterator<Item = Step> + 'a {
    let mut done = vec![0; shares.len()];
    std::iter::from_fn(move || {
        let mut step = Step {
            tokens: Vec::new(),
            parts: Vec::new(),
            wanted: Vec::new(),
        };
        for (share, done) in shares.iter().zip(&mut done) {
            let n = (share.indices.len() - *done).min(chunk - step.tokens.len());
            if n == 0 {
                continue;
            }
            for &index in &share.indices[*done..*done + n] {
                if wanted.binary_search(&index).is_ok() {
                    step.wanted.push((step.tokens.len() as i32, index));
                }
                step.tokens.push(batch.tokens[index]);
            }
            step.parts.push((share.sequence, n));
            *done += n;
        }
        (!step.tokens.is_empty()).then_some(step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Want;

    #[test]
    fn steps_take_what_fits_of_every_sequence() {
        let batch = Batch {
            tokens: &[10, 11, 12, 20, 13, 14],
            sequences: Some(&[0, 0, 0, 1, 0, 0]),
            want: Want::Last,
        };
        let shares = batch.shares(2).expect("valid");
        let wanted = batch.wanted(&shares);
        let steps: Vec<_> = steps(&batch, &shares, &wanted, 4).collect();
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0].tokens, [10, 11, 12, 13]);
        assert_eq!(steps[0].parts, [(0, 4)]);
        assert!(steps[0].wanted.is_empty());
        assert_eq!(steps[1].tokens, [14, 20]);
        assert_eq!(steps[1].parts, [(0, 1), (1, 1)]);
        assert_eq!(steps[1].wanted, [(0, 5), (1, 3)]);
    }
}
