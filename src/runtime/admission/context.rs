//! What a context takes.

use std::fmt;
use std::sync::Arc;

use super::{amount, apply_limits, look_at, probe, within};
use crate::decoder::{AdaptedColumns, DecoderSpec};
use crate::error::{Error, Result};
use crate::host;
use crate::kernels::{Activations, Pool, default_threads};
use crate::kv::{CacheShape, KvType, Sequence};
use crate::memory::{Demand, KV_BLOCK_TOKENS, Reservation, Snapshot, budget, largest};
use crate::mlx::{self, Device, Dtype};
use crate::runtime::context::ContextOptions;
use crate::runtime::model::ModelInfo;
use crate::runtime::prefix_cache;
use crate::runtime::scratch::{Placement, StepShape, StepSize, product};

/// The context length when none is asked for, if the model allows as much.
const DEFAULT_N_CTX: usize = 8192;
const DEFAULT_PREFILL_CHUNK: usize = 512;
/// MLX counts positions in 32 bits.
const MAX_N_CTX: usize = (1 << 30) - 1;
/// A context with all defaults filled in.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct ContextPlan {
    pub cache: CacheShape,
    /// What sequences may become under memory pressure.
    pub reduced: Option<CacheShape>,
    pub n_sequences: usize,
    pub prefill_chunk: usize,
    pub memory_limit: usize,
    pub activations: Activations,
    dtype: Dtype,
    vocab_size: usize,
    step: StepShape,
    device: Device,
}

/// What a context takes, by what it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextBytes {
    pub kv: usize,
    /// Rows for all sequences, of the last evaluation and of the one after it.
    pub logits: usize,
    pub prefill_scratch: usize,
    /// Of that, MLX's arrays.
    pub prefill_arrays: usize,
    pub decode_scratch: usize,
    pub decode_arrays: usize,
    pub tables: usize,
    /// The number of the GPU that has all but the tables in memory of its own.
    pub gpu_index: Option<usize>,
}

impl ContextBytes {
    /// Intermediate results of the largest step.
    pub fn scratch(&self) -> usize {
        self.prefill_scratch.max(self.decode_scratch)
    }

    pub fn demand(&self) -> Demand {
        let arrays = Demand {
            private: self.kv.saturating_add(self.logits),
            scratch: self.scratch(),
            ..Demand::default()
        };
        let arrays = match self.gpu_index {
            Some(index) => arrays.moved_to_gpu(index),
            None => arrays,
        };
        arrays.plus(&Demand {
            private: self.tables,
            ..Demand::default()
        })
    }
}

impl ContextPlan {
    pub fn new(
        info: &ModelInfo,
        dtype: Dtype,
        options: &ContextOptions,
        (device, cpu_ops): (Device, mlx::CpuOps),
    ) -> Result<ContextPlan> {
        let or = |value: usize, default: usize| if value == 0 { default } else { value };
        admit_threads(options.n_threads)?;
        let spec: &DecoderSpec = &info.spec;
        let n_ctx = or(options.n_ctx, spec.max_context.min(DEFAULT_N_CTX));
        if spec.has_learned_positions() && n_ctx > spec.max_context {
            return Err(Error::invalid(format!(
                "the context would have {n_ctx} positions, but the model has learned {} and knows \
                 no others",
                spec.max_context
            )));
        }
        let placement = Placement {
            device,
            cpu_ops,
            n_threads: match options.n_threads {
                0 => default_threads(),
                n => n,
            },
            activations: options.activations,
        };
        ensure_activations(placement)?;
        let states = Arc::new(spec.state_layout());
        let shape = |kv_type| {
            let shape = CacheShape::new(&spec.cache_layers(), dtype, kv_type, n_ctx)?;
            Ok(shape.with_states(&states))
        };
        let cache: CacheShape = shape(options.kv_type)?;
        let reduced = options.pressure_kv_type.map(shape).transpose()?;
        if let Some(reduced) = &reduced {
            ensure_reducible(&cache, reduced, placement)?;
        }
        Ok(ContextPlan {
            cache,
            reduced,
            n_sequences: or(options.n_sequences, 1),
            prefill_chunk: or(options.prefill_chunk, DEFAULT_PREFILL_CHUNK),
            memory_limit: options.memory_limit,
            activations: options.activations,
            dtype,
            vocab_size: spec.vocab_size,
            step: StepShape::new(spec, dtype, info.stored, placement),
            device,
        })
    }

    /// Those that sequences have, the usual one first.
    pub fn shapes(&self) -> impl Iterator<Item = &CacheShape> {
        std::iter::once(&self.cache).chain(&self.reduced)
    }

    pub fn n_ctx(&self) -> usize {
        self.cache.max_tokens
    }

    pub fn with_n_ctx(&self, n_ctx: usize) -> Self {
        let mut plan = self.clone();
        plan.cache.max_tokens = n_ctx;
        plan
    }

    pub fn with_n_sequences(&self, n_sequences: usize) -> Self {
        Self {
            n_sequences,
            ..self.clone()
        }
    }

    pub fn with_adapters(&self, adapted: AdaptedColumns) -> Self {
        Self {
            step: self.step.with_adapters(adapted),
            ..self.clone()
        }
    }

    /// With keys and values of 8 or 4 bits; `None`: the model's heads are no whole groups.
    pub fn with_kv_bits(&self, spec: &DecoderSpec, bits: usize) -> Option<Self> {
        let cache = |group_size| {
            let kv_type = KvType::Quantized { bits, group_size };
            let shape = CacheShape::new(&spec.cache_layers(), self.dtype, kv_type, self.n_ctx());
            Some(shape.ok()?.with_states(self.cache.states()))
        };
        Some(Self {
            cache: cache(64).or_else(|| cache(32))?,
            ..self.clone()
        })
    }

    pub fn bytes(&self) -> ContextBytes {
        let tokens = product([self.n_ctx(), self.n_sequences]);
        let prefill = StepSize {
            n_tokens: self.prefill_chunk.min(tokens),
            n_sequences: self.n_sequences,
            n_positions: self.n_ctx(),
            n_wanted: self.n_sequences,
        };
        let decode = StepSize {
            n_tokens: self.n_sequences.min(self.prefill_chunk),
            ..prefill
        };
        ContextBytes {
            kv: kv_bytes(&self.cache, self.n_ctx())
                .saturating_mul(self.n_sequences)
                .saturating_add(self.states_bytes()),
            logits: self.logits_bytes(self.n_sequences.saturating_mul(2)),
            prefill_scratch: self.step.bytes(&prefill),
            prefill_arrays: self.step.array_bytes(&prefill),
            decode_scratch: self.step.bytes(&decode),
            decode_arrays: self.step.array_bytes(&decode),
            tables: product([
                self.n_sequences,
                size_of::<Sequence>().saturating_add(self.n_ctx().saturating_mul(size_of::<i32>())),
            ]),
            gpu_index: self.device.own_memory(),
        }
    }

    /// Keys and values of one sequence of so many tokens, and its states behind them.
    pub fn kv_bytes(&self, n_tokens: usize) -> usize {
        kv_bytes(&self.cache, n_tokens).saturating_add(self.cache.states().bytes())
    }

    /// States of recurrent layers: in front of and behind the last evaluation of each
    /// sequence, and once more for a place that one is to come back to.
    fn states_bytes(&self) -> usize {
        let n = self.n_sequences.saturating_mul(2).saturating_add(1);
        product([n, self.cache.states().bytes()])
    }

    pub fn logits_bytes(&self, n_rows: usize) -> usize {
        product([n_rows, self.vocab_size, size_of::<f32>()])
    }

    /// Refuses a step for which the system has no memory left, although it was
    /// promised: the host may have taken it.
    pub fn probe_step(&self, step: &StepSize) -> Result<()> {
        if self.device.has_own_memory() {
            // MLX says so itself, and survives it.
            return Ok(());
        }
        let logits = self.logits_bytes(step.n_wanted);
        probe(self.step.bytes(step).saturating_add(logits), || {
            format!("a step of {} tokens", step.n_tokens)
        })
    }

    /// As `probe_step`, for a cache of MLX's arrays that is to hold so many tokens.
    pub fn probe_arrays(&self, n_tokens: usize) -> Result<()> {
        if self.device.has_own_memory() {
            return Ok(());
        }
        probe(self.kv_bytes(n_tokens), || {
            format!("keys and values of {n_tokens} tokens")
        })
    }

    /// Whether it fits in itself and beside `other`.
    pub fn fits(&self, snapshot: &Snapshot, other: &Demand) -> bool {
        let demand = self.bytes().demand();
        self.n_ctx() <= MAX_N_CTX
            && within(self.memory_limit, &demand).is_none()
            && snapshot.shortage(&demand.plus(other)).is_none()
    }

    /// The largest context that would fit with as many sequences; 0: none.
    pub fn max_n_ctx(&self, snapshot: &Snapshot, other: &Demand, most: usize) -> usize {
        largest(KV_BLOCK_TOKENS, most.min(MAX_N_CTX), |n_ctx| {
            self.with_n_ctx(n_ctx).fits(snapshot, other)
        })
    }

    /// How many sequences would fit at this length; 0: none.
    pub fn max_n_sequences(&self, snapshot: &Snapshot, other: &Demand) -> usize {
        largest(1, self.n_sequences, |n| {
            self.with_n_sequences(n).fits(snapshot, other)
        })
    }

    /// Reserves what the context will need when all sequences are full.
    pub fn admit(&self) -> Result<ContextReservation> {
        host::ensure_not_forked()?;
        look_at(self.device)?;
        let bytes = self.bytes();
        let demand = bytes.demand();
        if let Some(over) = within(self.memory_limit, &demand) {
            return Err(self.refusal(&bytes, &over));
        }
        let reservation = budget()
            .reserve(demand)
            .map_err(|shortage| self.refusal(&bytes, &shortage))?;
        if self.n_ctx() > MAX_N_CTX {
            return Err(Error::over_budget(format!(
                "n_ctx is {}; models may use up to {MAX_N_CTX} positions",
                self.n_ctx()
            )));
        }
        apply_limits()?;
        prefix_cache::fit();
        Ok(ContextReservation(Some(reservation)))
    }

    fn refusal(&self, bytes: &ContextBytes, why: &dyn fmt::Display) -> Error {
        Error::over_budget(format!(
            "{} sequence(s) of {} tokens take {} (keys and values {}, logits {}, scratch {}), {}; \
             {}",
            self.n_sequences,
            self.n_ctx(),
            amount(bytes.demand().total()),
            amount(bytes.kv),
            amount(bytes.logits),
            amount(bytes.scratch()),
            why,
            self.instead()
        ))
    }

    /// What to do about a refusal.
    fn instead(&self) -> String {
        let snapshot = budget().snapshot();
        let none = Demand::default();
        let n_ctx = self.max_n_ctx(&snapshot, &none, self.n_ctx());
        let n_sequences = self.max_n_sequences(&snapshot, &none);
        match (n_ctx, n_sequences) {
            (0, 0) if self.n_sequences > 1 => format!(
                "not even one sequence fits; {}",
                self.with_n_sequences(1).instead()
            ),
            (0, 0) => "nothing would fit: free other models and contexts, or set a larger budget"
                .to_owned(),
            (0, n) => format!("n_seq {n} would fit"),
            (n_ctx, 0) => format!("n_ctx {n_ctx} would fit"),
            (n_ctx, n) => format!("n_ctx {n_ctx} or n_seq {n} would fit"),
        }
    }
}

/// What a context was promised.
pub(in crate::runtime) struct ContextReservation(Option<Reservation>);

impl ContextReservation {
    /// Makes room for more rows of logits than one per sequence, if they fit. The
    /// former rows stay until the new ones are there.
    pub fn admit_logits(&mut self, plan: &ContextPlan, n_former: usize, n: usize) -> Result<()> {
        self.resize(plan, n_former + n, |why| {
            format!(
                "logits of {n} tokens take {}, {why}; ask for fewer at a time",
                amount(plan.logits_bytes(n)),
            )
        })
    }

    /// Makes room for a plan with other adapters, if they fit.
    pub fn admit_adapters(&mut self, plan: &ContextPlan, n_logits: usize) -> Result<()> {
        self.resize(plan, n_logits, |why| {
            format!("a step with these adapters takes {why}; use a smaller prefill_chunk")
        })
    }

    fn resize(
        &mut self,
        plan: &ContextPlan,
        n_logits: usize,
        refusal: impl Fn(&dyn fmt::Display) -> String,
    ) -> Result<()> {
        let Some(reservation) = &mut self.0 else {
            return Ok(());
        };
        let mut bytes = plan.bytes();
        bytes.logits = bytes.logits.max(plan.logits_bytes(n_logits));
        let demand = bytes.demand();
        if demand == reservation.demand() {
            return Ok(());
        }
        if let Some(over) = within(plan.memory_limit, &demand) {
            return Err(Error::over_budget(refusal(&over)));
        }
        reservation
            .resize(demand)
            .map_err(|shortage| Error::over_budget(refusal(&shortage)))?;
        prefix_cache::fit();
        Ok(())
    }

    pub fn end(&mut self) {
        self.0 = None;
    }
}
/// Keys and values of one sequence, in the blocks that are allocated: the last one
/// ends with the context.
fn kv_bytes(shape: &CacheShape, n_tokens: usize) -> usize {
    let whole_blocks = n_tokens.checked_next_multiple_of(KV_BLOCK_TOKENS);
    let tokens = whole_blocks.unwrap_or(usize::MAX).min(shape.max_tokens);
    tokens.saturating_mul(shape.bytes_per_token())
}
/// Whether sequences can be stored in another shape to make room.
fn ensure_reducible(cache: &CacheShape, reduced: &CacheShape, placement: Placement) -> Result<()> {
    if !placement.has_kernels() {
        return Err(Error::unsupported(
            "pressure_kv_type takes umrt's own kernels on the CPU: keys and values in MLX's arrays \
             would be copied whole while memory is short; leave it 0",
        ));
    }
    match reduced.bytes_per_token() < cache.bytes_per_token() {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "pressure_kv_type would make no room: a token takes {} bytes in it and {} in kv_type; \
             choose fewer bits",
            reduced.bytes_per_token(),
            cache.bytes_per_token()
        ))),
    }
}

fn ensure_activations(placement: Placement) -> Result<()> {
    match placement.activations == Activations::Auto || placement.has_kernels() {
        true => Ok(()),
        false => Err(Error::unsupported(
            "activations of 8 bits take umrt's own kernels on the CPU; MLX's operations have no \
             such products: leave it 0",
        )),
    }
}

fn admit_threads(n_threads: usize) -> Result<()> {
    match n_threads <= Pool::MAX_THREADS {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "n_threads is {n_threads}; it can be at most {}, and 0 is a good choice",
            Pool::MAX_THREADS
        ))),
    }
}
