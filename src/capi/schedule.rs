//! Many generations over one context, which join and leave while others run.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex};

use super::arguments::{self, count32, fixed_text};
use super::cancel::{self, umrt_cancel};
use super::context::{self, umrt_ctx};
use super::generate::{
    self, UMRT_GENERATE_IGNORE_END, UMRT_GENERATE_IN_SEQ, umrt_generate_params, umrt_text_fn,
};
use super::guard::{UMRT_OK, guard, guard_free, umrt_status};
use super::handle;
use super::structs::{self, Destination, Destinations, c_structs};
use crate::error::{Error, Result};
use crate::runtime::{
    Finished, Receiver, Request, RequestResult, Requests, Scheduler, SchedulerOptions, StepReport,
};

/// Runs requests over one context, step by step. Each step evaluates one token of
/// every request that decodes; what is left of its tokens, at least one, goes to
/// prompts in order of arrival. So no request waits longer for its next token than
/// one step takes, whatever prompts come, and every prompt is read in the end.
///
/// What a request gives does not depend on the others, but for rounding: see
/// `UMRT_PRECISION_FLOAT32`.
///
/// Steps take one call at a time: a second, overlapping one gets BUSY. The other
/// functions never wait and may be called meanwhile, from callbacks too.
pub struct umrt_scheduler {
    ctx: Arc<umrt_ctx>,
    requests: Arc<Requests>,
    steps: Mutex<Scheduler>,
}

impl Drop for umrt_scheduler {
    fn drop(&mut self) {
        // Waiting for the context could be waiting for this very thread.
        if let (Ok(steps), Ok(mut context)) = (self.steps.get_mut(), self.ctx.0.try_lock()) {
            steps.abandon(&mut context);
        }
    }
}

/// For `umrt_scheduler_new`. 0 means the default.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_scheduler_params {
    pub struct_size: u32,
    /// Tokens of a step at most, unless more requests decode. Fewer make steps, and
    /// so the pauses between tokens, shorter while prompts are read, and reading
    /// slower. Default, and at most: the context's `prefill_chunk`.
    pub step_tokens: u32,
}

/// What became of a request.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_request_result {
    pub struct_size: u32,
    /// `UMRT_OK`, or what ended the request.
    pub status: umrt_status,
    /// 0 if it was refused at once.
    pub id: u64,
    /// `UMRT_STOP_*`; 0 if `status` is not `UMRT_OK`.
    pub stop_reason: u32,
    pub n_prompt_tokens: u32,
    /// Tokens that were sampled, the one that ended the text included.
    pub n_tokens: u32,
    /// Tokens that were guessed.
    pub n_drafted: u32,
    /// Of those, the ones that were right.
    pub n_accepted: u32,
    pub reserved: u32,
    /// Nanoseconds that it waited for a sequence.
    pub queue_ns: u64,
    /// Nanoseconds from handing it in to its first token.
    pub first_token_ns: u64,
    /// Nanoseconds from getting its sequence to its first token.
    pub prompt_ns: u64,
    /// Nanoseconds from there to the end.
    pub decode_ns: u64,
    /// What ended it, as a sentence; empty if `status` is `UMRT_OK`.
    pub message: [c_char; 256],
}

/// Receives the result of a request that ended, valid during the call. Called on the
/// thread that called `umrt_scheduler_step`.
pub type umrt_finished_fn =
    Option<unsafe extern "C" fn(result: *const umrt_request_result, userdata: *mut c_void)>;

/// A generation beside others.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_request {
    pub struct_size: u32,
    pub reserved: u32,
    /// What to generate; nothing of it is used after the call but `sampler`, which is
    /// kept until the end. Each request has its own sampler, if any.
    ///
    /// The request takes a sequence that holds no tokens, and empties it when it
    /// ends; sequences that hold tokens are left alone. With `UMRT_GENERATE_IN_SEQ`
    /// it goes on with a sequence of the caller's and leaves its tokens there.
    pub params: *const umrt_generate_params,
    /// Receives text; may be NULL. It runs inside of a step: it must not use the
    /// context or step (it would get BUSY), but may submit and cancel.
    pub callback: umrt_text_fn,
    /// Receives the result, under the same rules. NULL: it is kept for
    /// `umrt_scheduler_result`.
    pub finished: umrt_finished_fn,
    /// For both.
    pub userdata: *mut c_void,
    /// Ends the request at the next step, as `deadline_ms` of `params` does; may be NULL.
    pub cancel: *const umrt_cancel,
}

/// What a step did, and what is left.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_step_result {
    pub struct_size: u32,
    /// Requests that have not ended; 0: there is nothing to do.
    pub n_active: u32,
    /// Those that have a sequence.
    pub n_running: u32,
    /// Those that wait for one.
    pub n_waiting: u32,
    /// Tokens of prompts in this step.
    pub n_prompt_tokens: u32,
    /// Tokens that requests decoded in this step: one each, and guesses that were right.
    pub n_decode_tokens: u32,
    /// Tokens that were guessed and evaluated in this step.
    pub n_drafted: u32,
}

c_structs!(
    umrt_scheduler_params,
    umrt_request,
    umrt_request_result,
    umrt_step_result,
);

/// Makes a scheduler. Between steps the context may be used for other things, on
/// sequences that no request uses. A context has one scheduler at most at a time.
///
/// - `params`: NULL for defaults.
/// - `scheduler`: receives the handle. Free it with `umrt_scheduler_free`.
///
/// Returns INVALID_ARGUMENT, BUSY (the context). Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle, `params` NULL or a structure of its
/// `struct_size`, `scheduler` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_scheduler_new(
    ctx: *mut umrt_ctx,
    params: *const umrt_scheduler_params,
    scheduler: *mut *mut umrt_scheduler,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            handle::give(scheduler, || {
                let options = SchedulerOptions {
                    step_tokens: structs::read(params)?.step_tokens as usize,
                };
                let steps = context::with(ctx, |context| Ok(Scheduler::new(context, options)))?;
                Ok(umrt_scheduler {
                    ctx: handle::borrow(ctx, "context")?,
                    requests: steps.requests().clone(),
                    steps: Mutex::new(steps),
                })
            })
        }
    })
}

/// Hands a request in. It gets a sequence at one of the next steps, in order of
/// arrival.
///
/// - `id`: receives the request's number, never 0; may be NULL.
///
/// If it fails, there is no request, and its callbacks are not called.
///
/// Returns INVALID_ARGUMENT, NOT_FOUND (no tokenizer or chat template), FORMAT (they
/// are broken), NO_SPACE (the prompt is longer than `n_ctx`). Any thread, from
/// callbacks too, also while a step runs.
///
/// # Safety
/// `scheduler` is NULL or a live handle; `request` is NULL or a structure of its
/// `struct_size` with pointers as its fields say; its callbacks may be called with
/// its userdata, on any thread that steps, until it has ended; `id` is NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_scheduler_submit(
    scheduler: *mut umrt_scheduler,
    request: *const umrt_request,
    id: *mut u64,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let scheduler = handle::borrow(scheduler, "scheduler")?;
            let request = structs::read(request)?;
            let given = with_request(&request, |request| scheduler.requests.submit(request))?;
            if !id.is_null() {
                id.write(given);
            }
            Ok(())
        }
    })
}

/// Evaluates one step: see `umrt_scheduler`. Callbacks run inside of it. Call it
/// until `n_active` is 0, and again after something was submitted.
///
/// - `cancel`: stops the step, not the requests; may be NULL.
/// - `result`: may be NULL.
///
/// What goes wrong with one request ends that request. If the step itself fails or
/// is cancelled, all requests are where they were before, and the next step tries
/// again. (Only when MLX itself fails, BACKEND, can a sequence be lost; its request
/// ends with that status.) To give up, cancel the requests or free the scheduler.
///
/// Returns INVALID_ARGUMENT, BUSY (another step, or a call that uses the context),
/// CANCELLED, OVER_BUDGET, OUT_OF_MEMORY, BACKEND. Any thread.
///
/// # Safety
/// `scheduler` and `cancel` are NULL or live handles; `result` is NULL or a
/// structure of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_scheduler_step(
    scheduler: *mut umrt_scheduler,
    cancel: *const umrt_cancel,
    result: *mut umrt_step_result,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let result = Destination::new(result)?;
            let scheduler = handle::borrow(scheduler, "scheduler")?;
            let cancel = cancel::optional(cancel);
            let mut steps = handle::one_call(&scheduler.steps, "scheduler")?;
            let report = context::with(Arc::as_ptr(&scheduler.ctx), |context| {
                steps.step(context, cancel.as_ref())
            })?;
            result.fill(describe_step(&report))
        }
    })
}

/// Ends a request with CANCELLED at the next step; in a step that runs, when that
/// ends, without another text.
///
/// Returns INVALID_ARGUMENT, NOT_FOUND (it has ended already, or there never was
/// one). Any thread, from callbacks too, also while a step runs.
///
/// # Safety
/// `scheduler` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_scheduler_cancel(
    scheduler: *mut umrt_scheduler,
    id: u64,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let scheduler = unsafe { handle::borrow(scheduler, "scheduler")? };
        scheduler.requests.cancel(id)
    })
}

/// Takes the result of a request that ended, if it had no `finished`; afterwards the
/// scheduler knows nothing of it any more.
///
/// Returns INVALID_ARGUMENT, BUSY (it has not ended), NOT_FOUND (there is no result:
/// it was taken, or there never was such a request). Any thread, from callbacks too,
/// also while a step runs.
///
/// # Safety
/// `scheduler` is NULL or a live handle; `result` is NULL or a structure of its
/// `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_scheduler_result(
    scheduler: *mut umrt_scheduler,
    id: u64,
    result: *mut umrt_request_result,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let result = Destination::new(result)?;
            let scheduler = handle::borrow(scheduler, "scheduler")?;
            result.fill(describe(&scheduler.requests.take_result(id)?))
        }
    })
}

/// Gives the scheduler back; if a step is running, when that ends. Requests that have
/// not ended are forgotten: their callbacks are not called again. The sequences that
/// they took are emptied, unless another call is using the context just then. NULL is
/// ignored. Any thread.
///
/// # Safety
/// `scheduler` is NULL or a live handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_scheduler_free(scheduler: *mut umrt_scheduler) {
    // SAFETY: the caller's contract.
    guard_free(|| unsafe { handle::free(scheduler) });
}

/// Runs requests to their end in one call, as many at once as the context has empty
/// sequences: see `umrt_scheduler`.
///
/// - `requests`: `n` structures, all of the first one's `struct_size`; `finished` is
///   NULL in each. Callbacks must not use the context (they would get BUSY).
/// - `cancel`: stops all; may be NULL.
/// - `results`: receives `n` results in the order of the requests; may be NULL.
///
/// What goes wrong with one request is in its result and ends that request. If the
/// call fails later than with its arguments, those that had not ended have its
/// status in their results, and the others theirs.
///
/// Returns INVALID_ARGUMENT, BUSY, CANCELLED (by `cancel`), OVER_BUDGET,
/// OUT_OF_MEMORY, BACKEND. Any thread.
///
/// # Safety
/// `ctx` and `cancel` are NULL or live handles; `requests` is NULL or has `n`
/// structures as for `umrt_scheduler_submit`; `results` is NULL or has `n` structures
/// of the first one's `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_generate_many(
    ctx: *mut umrt_ctx,
    requests: *const umrt_request,
    n: usize,
    cancel: *const umrt_cancel,
    results: *mut umrt_request_result,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let destinations = Destinations::new(results, n)?;
            let requests = structs::read_array(requests, n)?;
            let cancel = cancel::optional(cancel);
            let (results, outcome) = context::with(ctx, |context| {
                let scheduler = Scheduler::new(context, SchedulerOptions::default());
                let submit = |request: &umrt_request| {
                    ensure_no_finished(request)?;
                    with_request(request, |request| scheduler.requests().submit(request))
                };
                let submitted = requests.iter().map(submit).collect();
                Ok(scheduler.run(context, submitted, cancel.as_ref()))
            })?;
            destinations.fill(results.iter().map(describe))?;
            outcome
        }
    })
}

fn ensure_no_finished(request: &umrt_request) -> Result<()> {
    match request.finished {
        None => Ok(()),
        Some(_) => Err(Error::invalid(
            "finished is not for umrt_generate_many, which has the results; leave it NULL",
        )),
    }
}

/// Where callbacks get to know whom they are for.
struct Userdata(*mut c_void);

// SAFETY: umrt only hands the address back; the header says on which threads.
unsafe impl Send for Userdata {}

impl Userdata {
    fn address(&self) -> *mut c_void {
        self.0
    }
}

/// Does something with the request that a structure describes.
///
/// # Safety
/// As for `umrt_scheduler_submit`.
unsafe fn with_request<T>(
    request: &umrt_request,
    call: impl FnOnce(Request<'_>) -> Result<T>,
) -> Result<T> {
    structs::ensure_reserved::<umrt_request>(request.reserved)?;
    if request.params.is_null() {
        return Err(Error::invalid("the request's params are NULL"));
    }
    // SAFETY: the caller's contract.
    unsafe {
        let params = structs::read(request.params)?;
        arguments::known_flags(
            params.flags,
            UMRT_GENERATE_IGNORE_END | UMRT_GENERATE_IN_SEQ,
        )?;
        let keeps_sequence = params.flags & UMRT_GENERATE_IN_SEQ != 0;
        if params.seq != 0 && !keeps_sequence {
            return Err(Error::invalid(format!(
                "seq is {} without UMRT_GENERATE_IN_SEQ; a request finds its sequence itself",
                params.seq
            )));
        }
        generate::ensure_no_draft_model(&params)?;
        let stop = generate::stop_strings(&params)?;
        let constraint = generate::constraint(&params);
        call(Request {
            options: generate::options(&params, &stop, constraint.as_deref())?,
            keeps_sequence,
            lookup: generate::lookup(&params),
            sampler: generate::sampler(&params)?,
            cancel: cancel::or_after(request.cancel, params.deadline_ms),
            receive: receiver(request),
            finished: finished(request),
        })
    }
}

/// # Safety
/// As for `umrt_scheduler_submit`.
unsafe fn receiver(request: &umrt_request) -> Option<Receiver> {
    let (callback, userdata) = (request.callback, Userdata(request.userdata));
    callback?;
    Some(Box::new(move |text, token| {
        // SAFETY: the caller's contract.
        unsafe { generate::receive(callback, userdata.address(), text, token) }
    }))
}

/// # Safety
/// As for `umrt_scheduler_submit`.
unsafe fn finished(request: &umrt_request) -> Option<Finished> {
    let (finished, userdata) = (request.finished?, Userdata(request.userdata));
    Some(Box::new(move |result| {
        let result = describe(result);
        // SAFETY: the caller's contract; the result lives through the call.
        unsafe { finished(&result, userdata.address()) }
    }))
}

fn describe(result: &RequestResult) -> umrt_request_result {
    let (status, stop_reason, message) = match &result.outcome {
        Ok(reason) => (UMRT_OK, *reason as u32, ""),
        Err(error) => (error.status() as umrt_status, 0, error.message()),
    };
    umrt_request_result {
        struct_size: size_of::<umrt_request_result>() as u32,
        status,
        id: result.id,
        stop_reason,
        n_prompt_tokens: count32(result.n_prompt_tokens),
        n_tokens: count32(result.n_tokens),
        n_drafted: count32(result.drafts.n_drafted),
        n_accepted: count32(result.drafts.n_accepted),
        reserved: 0,
        queue_ns: result.queue_time.as_nanos() as u64,
        first_token_ns: (result.queue_time + result.prompt_time).as_nanos() as u64,
        prompt_ns: result.prompt_time.as_nanos() as u64,
        decode_ns: result.decode_time.as_nanos() as u64,
        message: fixed_text(message),
    }
}

fn describe_step(report: &StepReport) -> umrt_step_result {
    umrt_step_result {
        struct_size: 0,
        n_active: count32(report.n_active()),
        n_running: count32(report.n_running),
        n_waiting: count32(report.n_waiting),
        n_prompt_tokens: count32(report.n_prompt_tokens),
        n_decode_tokens: count32(report.n_decode_tokens),
        n_drafted: count32(report.n_drafted),
    }
}
