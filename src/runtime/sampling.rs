//! Where tokens are chosen: by the sampler on the CPU, or where the model computes.

use super::context::Context;
use super::model::Model;
use crate::error::{Error, Result};
use crate::mlx::{self, Device};
use crate::sample::{Logits, Sampler, SamplerParams, Units};

/// Where to choose tokens. They are the same up to the rounding of a draw's weights,
/// at temperature 0 exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SamplingDevice {
    /// On the GPU where the model computes there, if that can be done there.
    #[default]
    Auto,
    Cpu,
    /// On the GPU; what cannot be done there is refused. MLX's operations on the CPU
    /// ([`CpuOps::Stock`](crate::mlx::CpuOps)) are as good as a GPU, for comparisons.
    Gpu,
}

/// Who chooses a generation's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chooser {
    Sampler,
    /// Where the logits are.
    Device,
}

impl SamplingDevice {
    /// Who chooses for `sampler`, where `guesses` says whether tokens are guessed.
    pub(super) fn chooser(
        self,
        model: &Model,
        sampler: &Sampler,
        guesses: bool,
    ) -> Result<Chooser> {
        self.ensure_there(model)?;
        let obstacle = obstacle(sampler, guesses);
        match (self, obstacle) {
            (SamplingDevice::Cpu, _) | (SamplingDevice::Auto, Some(_)) => Ok(Chooser::Sampler),
            (SamplingDevice::Auto, None) if model.device() == Device::Cpu => Ok(Chooser::Sampler),
            (SamplingDevice::Gpu, Some(obstacle)) => Err(Error::unsupported(format!(
                "{obstacle}, which the CPU does; leave sampling_device at auto, or ask for the CPU"
            ))),
            (SamplingDevice::Auto | SamplingDevice::Gpu, None) => Ok(Chooser::Device),
        }
    }

    /// A model whose logits come from our kernels has nothing to choose on.
    pub(super) fn ensure_there(self, model: &Model) -> Result<()> {
        match self == SamplingDevice::Gpu && model.cpu_ops().are_kernels(model.device()) {
            false => Ok(()),
            true => Err(Error::unsupported(
                "sampling on the GPU, but this model computes on the CPU; open it for a GPU, or \
                 leave sampling_device at auto",
            )),
        }
    }
}

/// What only the sampler does.
fn obstacle(sampler: &Sampler, guesses: bool) -> Option<&'static str> {
    if sampler.constraint().is_some() {
        return Some("sampling on the GPU has no constraints");
    }
    match (sampler.params().has_penalties(), guesses) {
        (true, _) => Some(
            "sampling on the GPU has no repetition_penalty, presence_penalty and \
             frequency_penalty",
        ),
        (_, true) => Some("sampling on the GPU does not check guesses (draft, ngram)"),
        (false, false) => None,
    }
}

/// How the next tokens are chosen, one after the other, without end. The sampler is to
/// be told of each that is used ([`Sampler::accept_drawn`]).
pub(super) struct Choices {
    params: SamplerParams,
    units: Units,
}

impl Choices {
    pub fn of(sampler: &Sampler) -> Choices {
        Choices {
            params: sampler.params().clone(),
            units: sampler.upcoming_units(),
        }
    }

    pub fn next(&mut self) -> mlx::Choice {
        let SamplerParams {
            temperature,
            top_k,
            top_p,
            min_p,
            ..
        } = self.params;
        match self.units.next() {
            Some(unit) if temperature > 0.0 => mlx::Choice::Drawn(mlx::Draw {
                temperature,
                top_k,
                top_p,
                min_p,
                unit,
            }),
            _ => mlx::Choice::Largest,
        }
    }
}

/// Chooses a token from one row of the last evaluation's logits, and remembers it.
///
/// # Errors
/// Those of [`Sampler::sample`]; `InvalidArgument` if there is no such row, or if the
/// sampler's constraint was made for another model.
pub fn sample(context: &Context, sampler: &mut Sampler, row: usize) -> Result<i32> {
    if let Some(matcher) = sampler.constraint() {
        let text = context.model().text();
        text.ensure_own(|vocabulary| matcher.is_for(vocabulary))?;
    }
    choose(Chooser::Sampler, sampler, context, row)
}

/// Chooses from one row of the last evaluation's logits, and remembers the token.
pub(super) fn choose(
    chooser: Chooser,
    sampler: &mut Sampler,
    context: &Context,
    row: usize,
) -> Result<i32> {
    match chooser {
        Chooser::Sampler => {
            let token = sampler.sample(Logits::F32(context.logits(row)?))?;
            sampler.accept(token)?;
            Ok(token)
        }
        Chooser::Device => {
            let token = context.choose_on_device(row, &Choices::of(sampler).next())?;
            sampler.accept_drawn(token)?;
            Ok(token)
        }
    }
}
