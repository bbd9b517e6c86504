//! The sampler: parameters, generator and history behind one call per token.

use half::{bf16, f16};

use super::candidates::{self, Candidate};
use super::history::History;
use super::params::SamplerParams;
use super::rng::Rng;
use super::speculative::{Proposal, accept_or_replace};
use crate::error::{Error, Result};
use crate::grammar::{Allowed, Matcher};

/// One row of logits, `[vocab_size]`, in the type that the model computes in.
#[derive(Clone, Copy, Debug)]
pub enum Logits<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl Logits<'_> {
    pub fn len(&self) -> usize {
        match self {
            Logits::F32(row) => row.len(),
            Logits::F16(row) => row.len(),
            Logits::Bf16(row) => row.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Candidates that proposals are drawn from at most: what is beyond them is hardly ever
/// proposed, and a proposal keeps their probabilities.
const MOST_PROPOSED: u32 = 64;

/// Chooses tokens, one row of logits at a time.
///
/// ```
/// use umrt::sample::{Logits, Sampler, SamplerParams};
///
/// let mut sampler = Sampler::new(SamplerParams::default())?;
/// let token = sampler.sample(Logits::F32(&[0.1, 2.0, -1.0]))?;
/// sampler.accept(token)?;
/// assert_eq!(token, 1);
/// # Ok::<(), umrt::error::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplerParams,
    rng: Rng,
    history: History,
    /// Where the text is in a constraint, if it has one.
    matcher: Option<Matcher>,
    /// Kept from call to call, so that a token costs no allocation.
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// # Errors
    /// `InvalidArgument` if a parameter is out of range.
    pub fn new(params: SamplerParams) -> Result<Self> {
        params.validate()?;
        let window = if params.has_penalties() {
            params.repetition_window as usize
        } else {
            0
        };
        Ok(Self {
            rng: Rng::from_seed(params.seed),
            history: History::new(window),
            matcher: None,
            candidates: Vec::new(),
            params,
        })
    }

    pub fn params(&self) -> &SamplerParams {
        &self.params
    }

    /// The next token for this row. It does not become part of the history:
    /// tell [`accept`](Self::accept) which token was really used.
    ///
    /// Every call above temperature 0 takes exactly one number from the
    /// generator, so a stream of tokens can be repeated from its seed. NaN is
    /// never chosen.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty row or one longer than token ids go;
    /// `Backend` if no logit of the row is above minus infinity; those of
    /// [`Matcher::allowed`].
    pub fn sample(&mut self, logits: Logits<'_>) -> Result<i32> {
        if !self.is_greedy() {
            self.narrow(logits)?;
            let picked = candidates::pick(&self.candidates, self.rng.next_unit());
            return picked.map(|one| one.id).ok_or_else(nothing_to_choose);
        }
        check_length(logits)?;
        match logits {
            Logits::F32(row) => self.largest(row),
            Logits::F16(row) => self.largest(row),
            Logits::Bf16(row) => self.largest(row),
        }
    }

    /// As [`sample`](Self::sample), where `proposal` is expected: over many draws
    /// tokens come as often as they would without it, and it comes as often as that
    /// allows. Takes two numbers from the generator, none at temperature 0, where
    /// the token is the one that `sample` gives.
    ///
    /// # Errors
    /// As for `sample`.
    pub fn sample_expecting(&mut self, logits: Logits<'_>, proposal: &Proposal) -> Result<i32> {
        if self.is_greedy() {
            return self.sample(logits);
        }
        self.narrow(logits)?;
        let units = [self.rng.next_unit(), self.rng.next_unit()];
        accept_or_replace(&mut self.candidates, proposal, units).ok_or_else(nothing_to_choose)
    }

    /// A token as [`sample`](Self::sample) chooses it, together with its chances.
    ///
    /// # Errors
    /// As for `sample`.
    pub fn propose(&mut self, logits: Logits<'_>) -> Result<Proposal> {
        if self.is_greedy() {
            return self.sample(logits).map(Proposal::certain);
        }
        self.narrow(logits)?;
        let picked = candidates::pick(&self.candidates, self.rng.next_unit());
        let picked = picked.ok_or_else(nothing_to_choose)?;
        Ok(Proposal::drawn(picked.id, &self.candidates))
    }

    /// A sampler for proposals to this one: the same parameters but for a limit to
    /// the most likely tokens, no constraint, and random numbers of its own, for which
    /// one is taken from this generator above temperature 0.
    pub fn proposing(&mut self) -> Sampler {
        let mut params = self.params.clone();
        if !self.is_greedy() {
            params.seed = self.rng.next_u64();
        }
        params.top_k = match params.top_k {
            0 => MOST_PROPOSED,
            k => k.min(MOST_PROPOSED),
        };
        Sampler {
            rng: Rng::from_seed(params.seed),
            history: self.history.clone(),
            matcher: None,
            candidates: Vec::new(),
            params,
        }
    }

    /// Remembers what `other` does.
    pub fn remember_as(&mut self, other: &Sampler) {
        self.history.clone_from(&other.history);
    }

    fn is_greedy(&self) -> bool {
        self.params.temperature == 0.0
    }

    /// Records a token for the penalties, one of the prompt or a generated one, and for
    /// the constraint, which only generated ones belong to.
    ///
    /// # Errors
    /// Those of [`Matcher::accept`]; nothing was recorded then.
    pub fn accept(&mut self, token: i32) -> Result<()> {
        if let Some(matcher) = &mut self.matcher {
            matcher.accept(token)?;
        }
        self.history.push(token);
        Ok(())
    }

    /// From the next token on, the text is one of the constraint's, or free again.
    pub fn constrain(&mut self, matcher: Option<Matcher>) {
        self.matcher = matcher;
    }

    /// Lends the sampler a constraint for some tokens, or takes it back with where it is
    /// now.
    pub fn swap_constraint(&mut self, matcher: &mut Option<Matcher>) {
        std::mem::swap(&mut self.matcher, matcher);
    }

    pub fn constraint(&self) -> Option<&Matcher> {
        self.matcher.as_ref()
    }

    /// Whether nothing can follow in the constraint but the end.
    pub fn is_complete(&self) -> bool {
        self.matcher.as_ref().is_some_and(Matcher::is_complete)
    }

    /// The numbers that draws will take from the generator, from the next one on. They
    /// are for choosing elsewhere; [`accept_drawn`](Self::accept_drawn) takes them.
    pub fn upcoming_units(&self) -> Units {
        Units(self.rng.clone())
    }

    /// Records a token that was chosen elsewhere, above temperature 0 with the
    /// generator's next number.
    ///
    /// # Errors
    /// As for `accept`.
    pub fn accept_drawn(&mut self, token: i32) -> Result<()> {
        if !self.is_greedy() {
            self.rng.next_u64();
        }
        self.accept(token)
    }

    /// Goes back to the seed and an empty history, without a constraint.
    pub fn reset(&mut self) {
        self.rng = Rng::from_seed(self.params.seed);
        self.history.clear();
        self.matcher = None;
    }

    /// The weighed candidates of a row, after all stages.
    fn narrow(&mut self, logits: Logits<'_>) -> Result<()> {
        check_length(logits)?;
        match logits {
            Logits::F32(row) => self.collect_candidates(row)?,
            Logits::F16(row) => self.collect_candidates(row)?,
            Logits::Bf16(row) => self.collect_candidates(row)?,
        }
        let all = &mut self.candidates;
        all.retain(|candidate| candidate.logit > f32::NEG_INFINITY);
        if all.is_empty() {
            return Err(nothing_to_choose());
        }
        // Scaling by the temperature keeps the ranking, so top-k may come first
        // and leave less to weigh.
        candidates::keep_top_k(all, self.params.top_k as usize, logits.len());
        candidates::weigh(all, self.params.temperature);
        candidates::keep_top_p(all, self.params.top_p);
        candidates::keep_min_p(all, self.params.min_p);
        Ok(())
    }

    fn largest<T: Logit>(&mut self, row: &[T]) -> Result<i32> {
        let largest = if self.history.is_empty() && self.matcher.is_none() {
            largest_of((0..).zip(row.iter().map(|logit| logit.to_f32())))
        } else {
            self.collect_candidates(row)?;
            largest_of(self.candidates.iter().map(|one| (one.id, one.logit)))
        };
        largest.ok_or_else(nothing_to_choose)
    }

    /// The row in the order of its ids, as far as a constraint allows them, with
    /// penalties.
    fn collect_candidates<T: Logit>(&mut self, row: &[T]) -> Result<()> {
        self.candidates.clear();
        match &mut self.matcher {
            None => {
                let numbered = (0..).zip(row);
                self.candidates
                    .extend(numbered.map(|(id, logit)| Candidate::new(id, logit.to_f32())));
            }
            Some(matcher) => collect_allowed(row, matcher.allowed()?, &mut self.candidates),
        }
        self.history.penalize(&mut self.candidates, &self.params);
        Ok(())
    }
}

fn check_length(logits: Logits<'_>) -> Result<()> {
    if logits.is_empty() {
        return Err(Error::invalid("this row of logits is empty"));
    }
    match i32::try_from(logits.len()) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid(format!(
            "this row has {} logits, more than token ids can number",
            logits.len()
        ))),
    }
}

/// What a sampler's generator gives, without end; the sampler's own stays where it is.
#[derive(Clone, Debug)]
pub struct Units(Rng);

impl Iterator for Units {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        Some(self.0.next_unit())
    }
}

/// An element of a row of logits.
trait Logit: Copy {
    fn to_f32(self) -> f32;
}

impl Logit for f32 {
    fn to_f32(self) -> f32 {
        self
    }
}

impl Logit for f16 {
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

impl Logit for bf16 {
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

fn collect_allowed<T: Logit>(row: &[T], allowed: &Allowed, candidates: &mut Vec<Candidate>) {
    allowed.for_each_below(row.len(), |id| {
        candidates.push(Candidate::new(id as i32, row[id].to_f32()));
    });
}

/// The first id of the largest logit; NaN and minus infinity don't count.
fn largest_of(logits: impl Iterator<Item = (i32, f32)>) -> Option<i32> {
    let mut best = None;
    let mut largest = f32::NEG_INFINITY;
    for (id, logit) in logits {
        if logit > largest {
            largest = logit;
            best = Some(id);
        }
    }
    best
}

pub(crate) fn nothing_to_choose() -> Error {
    Error::backend(
        "the logits of this row are all NaN or minus infinity, so there is no token to choose; \
         the model's computation overflowed or its weights are damaged",
    )
}

#[cfg(test)]
mod tests;
