//! Samplers: from logits to a token, on the CPU. Where `umrt_generate` chooses on a
//! GPU, it has their parameters and their random numbers from here.

use std::sync::{Arc, Mutex};

use super::constraint::umrt_constraint;
use super::context::{self, umrt_ctx};
use super::guard::{guard, guard_free, umrt_status};
use super::handle;
use super::structs::{self, c_structs};
use crate::error::{Error, Result};
use crate::runtime;
use crate::sample::{Sampler, SamplerParams};

/// Chooses tokens, and remembers them for penalties. Takes one call at a time.
pub struct umrt_sampler(pub(super) Arc<Mutex<Sampler>>);

/// How to choose. 0 means off; all zero is greedy decoding. The stages come in
/// the order of the fields: penalties, temperature, top-k, top-p, min-p.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_sampler_params {
    pub struct_size: u32,
    /// How many of the last tokens the penalties look at, up to 2^20.
    pub repetition_window: u32,
    /// Divides positive and multiplies negative logits of tokens in the window:
    /// 0 to 100; 1 is off too.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of a token in the window: -100 to 100.
    pub presence_penalty: f32,
    /// Subtracted for each time that a token is in the window: -100 to 100.
    pub frequency_penalty: f32,
    /// Divides the logits: 0 to 100. 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps this many of the most likely tokens.
    pub top_k: u32,
    /// Keeps the most likely tokens that add up to this probability: 0 to 1.
    pub top_p: f32,
    /// Drops tokens less likely than this times the most likely: 0 to 1.
    pub min_p: f32,
    pub reserved: u32,
    /// The same seed gives the same tokens, on every machine.
    pub seed: u64,
}

c_structs!(umrt_sampler_params);

/// # Safety
/// `params` is null or a structure of its `struct_size`.
pub(super) unsafe fn make(params: *const umrt_sampler_params) -> Result<Sampler> {
    // SAFETY: the caller's contract.
    let params = unsafe { structs::read(params)? };
    structs::ensure_reserved::<umrt_sampler_params>(params.reserved)?;
    Sampler::new(SamplerParams {
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        repetition_penalty: params.repetition_penalty,
        repetition_window: params.repetition_window,
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        seed: params.seed,
    })
}

/// Makes a sampler.
///
/// - `params`: NULL for greedy decoding.
/// - `sampler`: receives the handle. Free it with `umrt_sampler_free`.
///
/// Returns INVALID_ARGUMENT (names the field and its range). Any thread.
///
/// # Safety
/// `params` is NULL or a structure of its `struct_size`; `sampler` is NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_sampler_new(
    params: *const umrt_sampler_params,
    sampler: *mut *mut umrt_sampler,
) -> umrt_status {
    // SAFETY: the caller's contract.
    guard(|| unsafe {
        handle::give(sampler, || {
            Ok(umrt_sampler(Arc::new(Mutex::new(make(params)?))))
        })
    })
}

/// Puts the sampler back to its beginning: the seed again, no remembered tokens, no
/// constraint.
///
/// Returns INVALID_ARGUMENT, BUSY. Any thread.
///
/// # Safety
/// `sampler` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_sampler_reset(sampler: *mut umrt_sampler) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let sampler = unsafe { handle::borrow(sampler, "sampler")? };
        handle::one_call(&sampler.0, "sampler")?.reset();
        Ok(())
    })
}

/// Remembers a token that the sampler did not choose itself, such as those of a
/// prompt, for the penalties, and where the sampler has a constraint, for that: set one
/// behind the prompt.
///
/// Returns INVALID_ARGUMENT (also for a token that the constraint does not allow here; it
/// is not remembered), UNSUPPORTED (the constraint becomes too complex), BUSY. Any thread.
///
/// # Safety
/// `sampler` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_sampler_accept(
    sampler: *mut umrt_sampler,
    token: i32,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let sampler = unsafe { handle::borrow(sampler, "sampler")? };
        handle::one_call(&sampler.0, "sampler")?.accept(token)
    })
}

/// From the next token on, `umrt_sample` chooses what the constraint allows: the
/// beginning of a text of it. Where nothing can follow it gives a token that ends texts.
/// Generations have their own constraint, in their parameters.
///
/// - `constraint`: NULL for none any more. It may be freed while it is in use here.
///
/// Returns INVALID_ARGUMENT, BUSY. Any thread.
///
/// # Safety
/// `sampler` is NULL or a live handle, and so is `constraint`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_sampler_constrain(
    sampler: *mut umrt_sampler,
    constraint: *const umrt_constraint,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let (sampler, constraint) = unsafe {
            let constraint = handle::borrow_optional(constraint);
            (handle::borrow(sampler, "sampler")?, constraint)
        };
        let beginning = constraint.map(|constraint| constraint.0.begin());
        handle::one_call(&sampler.0, "sampler")?.constrain(beginning);
        Ok(())
    })
}

/// Frees the sampler. NULL is ignored. Any thread.
///
/// # Safety
/// `sampler` is NULL or a live handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_sampler_free(sampler: *mut umrt_sampler) {
    // SAFETY: the caller's contract.
    guard_free(|| unsafe { handle::free(sampler) });
}

/// Chooses a token from one row of the last evaluation's logits, and remembers it.
///
/// - `row`: from 0 to `n_logits` less one.
///
/// Returns INVALID_ARGUMENT (no such row; a constraint of another model), UNSUPPORTED (its
/// constraint becomes too complex), BUSY (context or sampler), BACKEND (all logits are
/// NaN). Any thread.
///
/// # Safety
/// `ctx` and `sampler` are NULL or live handles; `token` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_sample(
    ctx: *mut umrt_ctx,
    sampler: *mut umrt_sampler,
    row: usize,
    token: *mut i32,
) -> umrt_status {
    guard(|| {
        if token.is_null() {
            return Err(Error::invalid("token is NULL"));
        }
        // SAFETY: the caller's contract.
        unsafe {
            let sampler = handle::borrow(sampler, "sampler")?;
            let mut sampler = handle::one_call(&sampler.0, "sampler")?;
            let chosen = context::with(ctx, |context| runtime::sample(context, &mut sampler, row))?;
            token.write(chosen);
        }
        Ok(())
    })
}
