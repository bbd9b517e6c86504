//! GPUs that failed for good. After such a failure every call of CUDA's fails in
//! this process, and where MLX gives memory back that is not an error but the end of
//! the process: what a lost GPU holds is never given back.

use std::sync::{Mutex, PoisonError};

use mlx_sys as sys;

use super::device::Device;
use crate::error::{Error, Result, Status};
use crate::log;

/// What CUDA says of failures that end a process's use of the device
/// (`cudaGetErrorString`).
const FATAL: [&str; 10] = [
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "unspecified launch failure",
    "the launch timed out and was terminated",
    "misaligned address",
    "hardware stack error",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error",
    "device-side assert triggered",
    "context is destroyed",
];

static LOST: Mutex<Vec<(Device, String)>> = Mutex::new(Vec::new());

/// Whether any GPU is lost, not only for a test.
pub(super) fn any() -> bool {
    lost().iter().any(|(device, _)| !device.is_pretended())
}

pub(super) fn ensure_usable(device: Device) -> Result<()> {
    match lost().iter().find(|(lost, _)| *lost == device) {
        None => Ok(()),
        Some((_, why)) => Err(Error::backend(format!(
            "the GPU has failed and cannot be used again in this process ({why}); start the \
             process anew"
        ))),
    }
}

/// Passes an error on, after looking whether the device is lost with it.
pub(super) fn notice(device: Device, error: Error) -> Error {
    let is_fatal = || FATAL.iter().any(|text| error.message().contains(text));
    if !device.is_gpu() || error.status() != Status::Backend || !is_fatal() {
        return error;
    }
    let mut all = lost();
    if !all.iter().any(|(lost, _)| *lost == device) {
        all.push((device, error.message().to_owned()));
        drop(all);
        keep_freed_buffers(device);
        log::error(format_args!("the GPU has failed: {error}"));
    }
    error.context("the GPU has failed and cannot be used again in this process")
}

/// Buffers that MLX caches are not given back to CUDA.
fn keep_freed_buffers(device: Device) {
    if device.is_pretended() {
        return;
    }
    let mut before = 0;
    // SAFETY: writes one number.
    unsafe { sys::mlx_set_cache_limit(&mut before, usize::MAX) };
}

fn lost() -> std::sync::MutexGuard<'static, Vec<(Device, String)>> {
    LOST.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::device::FIRST_PRETENDED_GPU;
    use super::*;

    const GPU: Device = Device::Gpu(FIRST_PRETENDED_GPU + 90);

    #[test]
    fn a_failure_that_ends_a_gpu_is_said_by_every_later_call() {
        let passing = notice(GPU, Error::backend("[matmul] shapes do not fit"));
        assert_eq!(passing.message(), "[matmul] shapes do not fit");
        ensure_usable(GPU).expect("still there");
        let fatal = "cudaStreamSynchronize(stream_) failed: unspecified launch failure";
        let error = notice(GPU, Error::backend(fatal));
        assert!(error.message().contains("cannot be used again"), "{error}");
        let later = ensure_usable(GPU).expect_err("lost");
        assert_eq!(later.status(), Status::Backend);
        assert!(later.message().contains("unspecified launch"), "{later}");
        ensure_usable(Device::Gpu(0)).expect("another one");
    }
}
