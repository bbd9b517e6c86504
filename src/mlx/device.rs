//! [`Device`]: where to compute, what there is of them, and why there is no GPU.

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use mlx_sys as sys;

use super::driver;
use super::error::{check, init};
use crate::error::{Error, Result};

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// By its number among the GPUs.
    Gpu(usize),
}

/// What MLX knows of a device. Bytes are those of its own memory; `None`: it has
/// none, or MLX does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    pub name: Option<String>,
    pub total_bytes: Option<usize>,
    pub free_bytes: Option<usize>,
}

/// Tests of the code for GPUs run on the CPU: to them, GPUs from this number on are
/// there, and are the CPU.
#[cfg(test)]
pub(crate) const FIRST_PRETENDED_GPU: usize = 8;

impl Device {
    pub(super) fn raw_type(self) -> sys::mlx_device_type {
        match self {
            Device::Cpu => sys::mlx_device_type__MLX_CPU,
            Device::Gpu(_) if self.is_pretended() => sys::mlx_device_type__MLX_CPU,
            Device::Gpu(_) => sys::mlx_device_type__MLX_GPU,
        }
    }

    fn raw_index(self) -> c_int {
        match self {
            Device::Gpu(index) if !self.is_pretended() => index as c_int,
            _ => 0,
        }
    }

    pub fn is_gpu(self) -> bool {
        matches!(self, Device::Gpu(_))
    }

    #[cfg(test)]
    pub(super) fn is_pretended(self) -> bool {
        matches!(self, Device::Gpu(index) if index >= FIRST_PRETENDED_GPU)
    }

    #[cfg(not(test))]
    pub(super) fn is_pretended(self) -> bool {
        false
    }

    /// Whether it computes in memory of its own, apart from the machine's: mapped
    /// weights have to be copied there.
    pub fn has_own_memory(self) -> bool {
        self.own_memory().is_some()
    }

    /// The number of the GPU in whose own memory it computes.
    pub fn own_memory(self) -> Option<usize> {
        match self {
            Device::Gpu(index) if is_for_cuda() || self.is_pretended() => Some(index),
            _ => None,
        }
    }

    /// Refuses a GPU that is not there, and says why.
    pub(super) fn ensure_there(self) -> Result<()> {
        let Device::Gpu(index) = self else {
            return ensure_cpu_works();
        };
        match self.is_pretended() {
            true => Ok(()),
            false => ensure_among(gpu_count(), index),
        }
    }

    /// Runs `call` with MLX's own handle.
    pub(super) fn with_raw<T>(self, call: impl FnOnce(sys::mlx_device) -> T) -> T {
        // SAFETY: the handle is made here and lives for the call.
        unsafe {
            let raw = sys::mlx_device_new_type(self.raw_type(), self.raw_index());
            let result = call(raw);
            sys::mlx_device_free(raw);
            result
        }
    }
}

/// Refuses the number of a GPU that is not among as many.
fn ensure_among(n_gpus: usize, index: usize) -> Result<()> {
    match n_gpus {
        0 => Err(Error::unsupported(format!(
            "{}; choose the CPU or `auto`",
            why_no_gpu().unwrap_or_default()
        ))),
        n if index >= n => Err(Error::invalid(format!(
            "there is no GPU {index}: MLX sees {n}, numbered from 0"
        ))),
        _ => Ok(()),
    }
}

/// GPUs that the loaded MLX can use.
pub fn gpu_count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        init();
        let mut count: c_int = 0;
        // SAFETY: writes one integer.
        let code = unsafe { sys::mlx_device_count(&mut count, sys::mlx_device_type__MLX_GPU) };
        match check(code) {
            Ok(()) => usize::try_from(count).unwrap_or(0),
            Err(_) => 0,
        }
    })
}

/// Whether the MLX that was loaded has a GPU to run on.
pub fn gpu_available() -> bool {
    gpu_count() > 0
}

/// Whether the MLX that was loaded is the one for NVIDIA's GPUs.
pub(super) fn is_for_cuda() -> bool {
    static CUDA: OnceLock<bool> = OnceLock::new();
    *CUDA.get_or_init(|| {
        init();
        let mut cuda = false;
        // SAFETY: writes one flag.
        let code = unsafe { sys::mlx_cuda_is_available(&mut cuda) };
        check(code).is_ok() && cuda
    })
}

/// For people; `None`: there is one.
pub fn why_no_gpu() -> Option<String> {
    if gpu_available() {
        return None;
    }
    Some(match is_for_cuda() {
        true => driver::problem(),
        false => "no GPU can be used: the libmlx that was loaded is built for the CPU only; for \
                  NVIDIA's GPUs load the one of the package mlx-cuda-13"
            .to_owned(),
    })
}

/// MLX for CUDA keeps even the CPU's arrays in the driver's memory.
fn ensure_cpu_works() -> Result<()> {
    match is_for_cuda() && !gpu_available() {
        true => Err(Error::unsupported(format!(
            "{}; this libmlx needs the driver for the CPU, too: load the one of the package \
             mlx-cpu instead",
            why_no_gpu().unwrap_or_default()
        ))),
        false => Ok(()),
    }
}

pub fn device_facts(device: Device) -> Result<DeviceFacts> {
    device.ensure_there()?;
    init();
    // SAFETY: the handle is made, used and freed here; the keys are literals.
    unsafe {
        let mut info = sys::mlx_device_info_new();
        let code = device.with_raw(|raw| sys::mlx_device_info_get(&mut info, raw));
        let facts = check(code).map(|()| DeviceFacts {
            name: text(info, c"device_name"),
            total_bytes: size(info, c"total_memory").or_else(|| size(info, c"memory_size")),
            free_bytes: size(info, c"free_memory"),
        });
        sys::mlx_device_info_free(info);
        facts
    }
}

/// # Safety
/// `info` is a live handle.
pub(super) unsafe fn size(info: sys::mlx_device_info, key: &CStr) -> Option<usize> {
    let mut bytes = 0;
    // SAFETY: the caller's; writes one number.
    let code = unsafe {
        match has(info, key) {
            true => sys::mlx_device_info_get_size(&mut bytes, info, key.as_ptr()),
            false => return None,
        }
    };
    (code == 0).then_some(bytes)
}

/// # Safety
/// `info` is a live handle.
unsafe fn text(info: sys::mlx_device_info, key: &CStr) -> Option<String> {
    let mut value: *const c_char = std::ptr::null();
    // SAFETY: the caller's; the text belongs to the handle.
    unsafe {
        if !has(info, key) || sys::mlx_device_info_get_string(&mut value, info, key.as_ptr()) != 0 {
            return None;
        }
        Some(CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// # Safety
/// `info` is a live handle.
unsafe fn has(info: sys::mlx_device_info, key: &CStr) -> bool {
    let mut exists = false;
    // SAFETY: the caller's; writes one flag.
    let code = unsafe { sys::mlx_device_info_has_key(&mut exists, info, key.as_ptr()) };
    code == 0 && exists
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn the_cpu_is_there_and_has_a_name() {
        let facts = device_facts(Device::Cpu).expect("the CPU");
        assert!(facts.name.is_some_and(|name| !name.is_empty()));
        assert!(!Device::Cpu.has_own_memory());
    }

    #[test]
    fn the_number_of_a_gpu_is_one_that_mlx_sees() {
        assert!(ensure_among(2, 1).is_ok());
        for index in [2, usize::MAX] {
            let error = ensure_among(2, index).expect_err("out of range");
            assert_eq!(error.status(), Status::InvalidArgument);
            assert!(error.message().contains("MLX sees 2"), "{error}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_refused_with_the_reason() {
        if gpu_available() {
            return;
        }
        let error = Device::Gpu(0).ensure_there().expect_err("no GPU");
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("mlx-cuda-13"), "{error}");
    }
}
