//! The library itself: versions, devices, log.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;

use super::arguments::{count32, fixed_text, store};
use super::guard::{guard, umrt_status};
use super::structs::{self, c_structs};
use crate::error::{Error, Result};
use crate::log::{self, Level};
use crate::mlx::{self, Device};
use crate::runtime::{self, DeviceSummary};

/// Changes when a program compiled against an older header no longer works.
pub const UMRT_ABI_VERSION: u32 = 0;

/// The ABI of the library that was loaded; compare with `UMRT_ABI_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn umrt_abi_version() -> u32 {
    UMRT_ABI_VERSION
}

/// The version of the library that was loaded, such as "0.1.0". Static.
#[unsafe(no_mangle)]
pub extern "C" fn umrt_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version holds no NUL"),
        };
    VERSION.as_ptr()
}

/// For `umrt_init`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_init_params {
    pub struct_size: u32,
    pub reserved: u32,
    /// Bytes of freed buffers that MLX may keep for reuse. 0: as much as the
    /// largest step of any context takes.
    pub mlx_cache_limit: u64,
}

/// `umrt_device_info.kind`: the CPU.
pub const UMRT_DEVICE_CPU: u32 = 1;
/// `umrt_device_info.kind`: a GPU.
pub const UMRT_DEVICE_GPU: u32 = 2;

/// One device to compute on.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_device_info {
    pub struct_size: u32,
    /// `UMRT_DEVICE_CPU` or `UMRT_DEVICE_GPU`.
    pub kind: u32,
    /// Bytes that models may use on it.
    pub usable_bytes: u64,
    /// For people: what it is and which MLX drives it.
    pub name: [c_char; 64],
    /// Bytes of its memory: the machine's, unless a GPU has its own.
    pub total_bytes: u64,
    /// Of a GPU's own memory, what nobody uses now; 0: MLX does not say.
    pub free_bytes: u64,
    /// For `umrt_model_params.gpu_index`; 0 for the CPU.
    pub gpu_index: u32,
    pub reserved: u32,
}

c_structs!(umrt_init_params, umrt_device_info);

/// Starts the library and checks that MLX can be used. Optional: every other
/// function does so by itself. May be called again to change the parameters.
///
/// - `params`: NULL for defaults.
///
/// Returns INVALID_ARGUMENT, BACKEND. Any thread.
///
/// # Safety
/// `params` is NULL or points to a structure of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_init(params: *const umrt_init_params) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let params = unsafe { structs::read(params)? };
        structs::ensure_reserved::<umrt_init_params>(params.reserved)?;
        mlx::version()?;
        if params.mlx_cache_limit > 0 {
            let limit = usize::try_from(params.mlx_cache_limit).unwrap_or(usize::MAX);
            runtime::set_mlx_cache(limit)?;
        }
        Ok(())
    })
}

/// Stores the number of devices: the CPU, and the GPUs that MLX has.
///
/// Returns INVALID_ARGUMENT. Any thread.
///
/// # Safety
/// `count` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_device_count(count: *mut usize) -> umrt_status {
    // SAFETY: the caller's contract.
    guard(|| unsafe { store(count, devices(), "count") })
}

/// Describes device `index`, from 0 to the count less one. Device 0 is the CPU.
///
/// Returns INVALID_ARGUMENT, BACKEND. Any thread.
///
/// # Safety
/// `info` is NULL or points to a structure of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_device_info_get(
    index: usize,
    info: *mut umrt_device_info,
) -> umrt_status {
    guard(|| {
        let device = match index {
            0 => Device::Cpu,
            _ if index < devices() => Device::Gpu(index - 1),
            _ => return Err(Error::invalid(format!("there is no device {index}"))),
        };
        let filled = describe(&runtime::device_summary(device)?);
        // SAFETY: the caller's contract.
        unsafe { structs::write(info, filled) }
    })
}

fn devices() -> usize {
    1 + mlx::gpu_count()
}

fn describe(summary: &DeviceSummary) -> umrt_device_info {
    let (kind, gpu_index) = match summary.device {
        Device::Cpu => (UMRT_DEVICE_CPU, 0),
        Device::Gpu(index) => (UMRT_DEVICE_GPU, count32(index)),
    };
    umrt_device_info {
        struct_size: 0,
        kind,
        usable_bytes: summary.usable_bytes as u64,
        name: fixed_text(&summary.name),
        total_bytes: summary.total_bytes as u64,
        free_bytes: summary.free_bytes.unwrap_or(0) as u64,
        gpu_index,
        reserved: 0,
    }
}

/// Log level: something failed and the caller gets a status for it.
pub const UMRT_LOG_ERROR: i32 = 1;
/// Log level: something is not as it should be, but goes on.
pub const UMRT_LOG_WARNING: i32 = 2;
/// Log level: what was opened and how.
pub const UMRT_LOG_INFO: i32 = 3;
/// Log level: more than most people want to know.
pub const UMRT_LOG_DEBUG: i32 = 4;

/// Receives log messages: `message` is NUL-terminated and valid during the call.
/// Called from any thread that uses umrt; must not call umrt.
pub type umrt_log_fn =
    Option<unsafe extern "C" fn(level: i32, message: *const c_char, userdata: *mut c_void)>;

/// Sends log messages up to `level` to `callback`; NULL turns them off, which is
/// the default. umrt never writes to stdout or stderr itself. A message that is
/// on its way when this returns may still arrive at the former callback.
///
/// Any thread.
///
/// # Safety
/// `callback` may be called with `userdata` from any thread until it is replaced.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_log_set(callback: umrt_log_fn, userdata: *mut c_void, level: i32) {
    let level = match level {
        i32::MIN..=1 => Level::Error,
        2 => Level::Warning,
        3 => Level::Info,
        4.. => Level::Debug,
    };
    guard(|| {
        log::set(callback.map(|callback| {
            let host = HostLog { callback, userdata };
            let receiver: log::Receiver = Arc::new(move |level, text| host.send(level, text));
            (level, receiver)
        }));
        Ok::<(), Error>(()) as Result<()>
    });
}

struct HostLog {
    callback: unsafe extern "C" fn(i32, *const c_char, *mut c_void),
    userdata: *mut c_void,
}

// SAFETY: the caller of `umrt_log_set` promised calls from any thread.
unsafe impl Send for HostLog {}
// SAFETY: as above.
unsafe impl Sync for HostLog {}

impl HostLog {
    fn send(&self, level: Level, text: &str) {
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        // SAFETY: the contract of `umrt_log_set`.
        unsafe { (self.callback)(level as i32, text.as_ptr(), self.userdata) };
    }
}
