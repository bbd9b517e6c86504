//! Where models' weights are, who gives way to whom, and what is wrong with memory.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use super::arguments::{count32, known_flags};
use super::cancel::{self, umrt_cancel};
use super::context::{self, umrt_ctx};
use super::guard::{guard, umrt_status};
use super::handle;
use super::model::{umrt_model, umrt_progress_fn};
use super::structs::{self, c_structs};
use crate::error::Error;
use crate::runtime::{Diagnosis, Finding, Policy, Residency, ResidencyOptions, diagnose};

/// For `umrt_model_residency`: weights come in as they are used, and stay as long
/// as the system likes. This is how models are opened; what is in memory stays.
pub const UMRT_RESIDENCY_MAPPED: u32 = 0;
/// For `umrt_model_residency`: all weights are read now, so that the first token
/// does not wait for the disk.
pub const UMRT_RESIDENCY_WARM: u32 = 1;
/// For `umrt_model_residency`: as WARM, and the system keeps them in memory, as far
/// as RLIMIT_MEMLOCK allows.
pub const UMRT_RESIDENCY_LOCKED: u32 = 2;
/// For `umrt_model_residency`: all pages leave the process. The model stays usable
/// and they come back as they are used, from the page cache or from disk. Private
/// memory (`UMRT_LOAD_READ`) is only marked as what may be swapped out first.
pub const UMRT_RESIDENCY_RELEASED: u32 = 3;

/// `umrt_residency_params.flags`: with `UMRT_RESIDENCY_RELEASED`, the page cache is
/// asked to forget the files as well. It keeps what other processes have mapped.
/// Linux only.
pub const UMRT_RESIDENCY_DROP_CACHE: u32 = 1;

/// For `umrt_model_residency`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_residency_params {
    pub struct_size: u32,
    /// `UMRT_RESIDENCY_DROP_CACHE` or 0.
    pub flags: u32,
    /// Hears of bytes read while weights are brought in; may be NULL.
    pub progress: umrt_progress_fn,
    pub progress_userdata: *mut c_void,
    /// Stops the reading; may be NULL.
    pub cancel: *const umrt_cancel,
}

/// Which models give way when another needs room: models are released, those of
/// least priority first, among them the one unused for longest, until what models
/// and contexts hold fits into `usable_bytes`. It happens when a model is first
/// used, warmed, or read into private memory. A model that computes stays.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_model_policy {
    pub struct_size: u32,
    /// 1: never gives way, be it to others, to memory pressure or to time.
    pub pinned: u32,
    /// Default: 0.
    pub priority: i32,
    /// Unused for so many milliseconds the model is released. 0: never. umrt has
    /// no clock of its own: it looks when any model computes, at most four times a
    /// second, and in `umrt_memory_trim(UMRT_TRIM_TIMED_OUT_MODELS, NULL)`.
    pub idle_timeout_ms: u32,
}

/// Memory is fine.
pub const UMRT_FINDING_NORMAL: u32 = 0;
/// A weight file was changed while its model is open.
pub const UMRT_FINDING_FILE_CHANGED: u32 = 1;
/// Private memory was moved to swap.
pub const UMRT_FINDING_SWAPPING: u32 = 2;
/// Weights do not fit into memory and are read again and again.
pub const UMRT_FINDING_PAGING: u32 = 3;
/// More is held than models may use.
pub const UMRT_FINDING_OVER_BUDGET: u32 = 4;
/// The system is short of memory.
pub const UMRT_FINDING_PRESSURE: u32 = 5;
/// Weights are being read for the first time.
pub const UMRT_FINDING_LOADING: u32 = 6;
/// A sequence has filled nine tenths of `n_ctx`.
pub const UMRT_FINDING_CONTEXT_NEARLY_FULL: u32 = 7;
/// Mapped weights had to be copied.
pub const UMRT_FINDING_HELD_TWICE: u32 = 8;

/// What is wrong with memory, if anything.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_memory_diagnosis {
    pub struct_size: u32,
    /// The most urgent finding: one of `UMRT_FINDING_*`.
    pub finding: u32,
    /// All findings, each as the bit `1 << finding`.
    pub findings: u32,
    /// Milliseconds since the last diagnosis, which `major_faults` is counted over.
    pub window_ms: u32,
    /// Page faults that read from disk in that time.
    pub major_faults: u64,
    /// Private memory of the process in swap.
    pub swap_bytes: u64,
    /// What models and contexts hold in memory: private memory and mapped weights.
    pub held_bytes: u64,
    /// What they may use.
    pub usable_bytes: u64,
    /// Tokens of the context's longest sequence, and how many it may hold.
    pub n_tokens: u32,
    pub n_ctx: u32,
    /// What is the case, for people. Static.
    pub text: *const c_char,
    /// What to do about it. Static.
    pub advice: *const c_char,
}

c_structs!(
    umrt_residency_params,
    umrt_model_policy,
    umrt_memory_diagnosis,
);

/// Brings a model's weights into memory, locks them there, or lets them go.
///
/// - `residency`: `UMRT_RESIDENCY_*`. It replaces what was asked for before.
/// - `params`: NULL for defaults.
///
/// Other calls may use the model meanwhile. When it fails or is cancelled, what was
/// read stays as with `UMRT_RESIDENCY_MAPPED`.
///
/// Returns INVALID_ARGUMENT, IO (the disk failed, or a file was shortened or written
/// to since it was opened), OVER_BUDGET (RLIMIT_MEMLOCK; the message says how to
/// raise it), UNSUPPORTED, CANCELLED, OUT_OF_MEMORY. Any thread.
///
/// # Safety
/// `model` is NULL or a live handle; `params` is NULL or points to a structure of
/// its `struct_size` whose `cancel` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_residency(
    model: *const umrt_model,
    residency: u32,
    params: *const umrt_residency_params,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let (model, params, cancel) = unsafe {
            let params = structs::read(params)?;
            let cancel = cancel::optional(params.cancel);
            (handle::borrow(model, "model")?, params, cancel)
        };
        known_flags(params.flags, UMRT_RESIDENCY_DROP_CACHE)?;
        let mut report = |done: usize, total: usize| {
            if let Some(progress) = params.progress {
                // SAFETY: the host's function with the host's userdata.
                unsafe { progress(done, total, params.progress_userdata) };
            }
        };
        let options = ResidencyOptions {
            drop_cache: params.flags & UMRT_RESIDENCY_DROP_CACHE != 0,
            progress: Some(&mut report),
            cancel: cancel.as_ref(),
        };
        let residency = Residency::from_code(residency).ok_or_else(|| {
            Error::invalid(format!("residency {residency} is none of UMRT_RESIDENCY_*"))
        })?;
        model.0.residence().set(residency, options)
    })
}

/// Says which models give way to this one and when it gives way itself.
///
/// - `policy`: NULL for the defaults.
///
/// Returns INVALID_ARGUMENT, OVER_BUDGET (a model to be pinned does not fit beside
/// what else must stay). Any thread.
///
/// # Safety
/// `model` is NULL or a live handle; `policy` is NULL or points to a structure of
/// its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_policy_set(
    model: *const umrt_model,
    policy: *const umrt_model_policy,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let (model, policy) = unsafe { (handle::borrow(model, "model")?, structs::read(policy)?) };
        let pinned = match policy.pinned {
            0 => false,
            1 => true,
            other => return Err(Error::invalid(format!("pinned is {other}, not 0 or 1"))),
        };
        let idle_timeout = Duration::from_millis(policy.idle_timeout_ms.into());
        model.0.residence().set_policy(Policy {
            pinned,
            priority: policy.priority,
            idle_timeout: (!idle_timeout.is_zero()).then_some(idle_timeout),
        })
    })
}

/// Finds out what is wrong with memory. Call it every second or so, or when tokens
/// come slowly: rates are those since the last call, and the first call only begins
/// to measure.
///
/// - `ctx`: whose sequences to look at; may be NULL.
/// - `diagnosis`: receives the most urgent finding, with what to do about it.
///
/// Returns INVALID_ARGUMENT, BUSY (the context is computing), IO, BACKEND. Any
/// thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `diagnosis` is NULL or points to a structure of
/// its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_memory_diagnose(
    ctx: *const umrt_ctx,
    diagnosis: *mut umrt_memory_diagnosis,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let found = match ctx.is_null() {
                true => diagnose(None)?,
                false => context::with(ctx, |context| diagnose(Some(context)))?,
            };
            structs::write(diagnosis, umrt_memory_diagnosis::of(&found))
        }
    })
}

/// What a finding (`UMRT_FINDING_*`) means, for people. Static; NULL for other
/// numbers. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn umrt_finding_text(finding: u32) -> *const c_char {
    Finding::from_code(finding).map_or(std::ptr::null(), |finding| finding.text().as_ptr())
}

/// What to do about a finding (`UMRT_FINDING_*`), for people. Static; NULL for other
/// numbers. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn umrt_finding_advice(finding: u32) -> *const c_char {
    Finding::from_code(finding).map_or(std::ptr::null(), |finding| finding.advice().as_ptr())
}

impl umrt_memory_diagnosis {
    fn of(found: &Diagnosis) -> Self {
        let worst = found.findings.first().copied().unwrap_or(Finding::Normal);
        Self {
            struct_size: 0,
            finding: worst as u32,
            findings: found.findings.iter().map(|f| 1 << (*f as u32)).sum(),
            window_ms: count32(found.window.as_millis() as usize),
            major_faults: found.major_faults,
            swap_bytes: found.swapped_bytes as u64,
            held_bytes: found.held_bytes as u64,
            usable_bytes: found.usable_bytes as u64,
            n_tokens: count32(found.n_tokens),
            n_ctx: count32(found.n_ctx),
            text: worst.text().as_ptr(),
            advice: worst.advice().as_ptr(),
        }
    }
}
