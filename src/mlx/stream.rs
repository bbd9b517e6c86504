//! [`Stream`]: where operations run, and the boundary at which they do.
//!
//! MLX never frees a stream, and streams are normally bound to the thread that
//! made them. umrt's callers come from any thread, so streams here are of the
//! kind that any thread may use, each under one owner at a time, and they are
//! handed back to a pool for the next owner.

use std::ffi::{CStr, c_int};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mlx_sys as sys;

use super::array::Array;
use super::error::{check, init, last_error};
use super::primitive::Signal;
use crate::error::{Error, Result};
use crate::host;

/// Where to compute. Weights and caches live in the memory both sides share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Gpu,
}

impl Device {
    pub(super) fn raw_type(self) -> sys::mlx_device_type {
        match self {
            Device::Cpu => sys::mlx_device_type__MLX_CPU,
            Device::Gpu => sys::mlx_device_type__MLX_GPU,
        }
    }
}

/// MLX looks encoders up in an unlocked table while it evaluates, and making a
/// stream inserts into it: evaluation reads, making a stream writes.
static ENCODERS: RwLock<()> = RwLock::new(());
static IDLE: Mutex<Vec<RawStream>> = Mutex::new(Vec::new());

struct RawStream {
    raw: sys::mlx_stream,
    device: Device,
    signal: Signal,
}

// SAFETY: the handle is a plain pair of index and device on the heap.
unsafe impl Send for RawStream {}
// SAFETY: nothing writes through the handle.
unsafe impl Sync for RawStream {}

/// An MLX stream that this value alone uses until it is dropped.
pub struct Stream(Option<RawStream>);

impl Stream {
    /// Takes an idle stream of `device`, or makes one.
    pub fn acquire(device: Device) -> Result<Stream> {
        host::ensure_not_forked()?;
        init();
        if device == Device::Gpu && !gpu_available() {
            return Err(Error::unsupported(
                "this machine has no GPU that MLX can use; choose the CPU or `auto`",
            ));
        }
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = idle.iter().position(|stream| stream.device == device) {
            return Ok(Stream(Some(idle.swap_remove(index))));
        }
        drop(idle);
        host::watch_forks();
        let _writing = ENCODERS.write().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the device handle lives for the call; no evaluation runs.
        let raw = host::with_signals_blocked(|| unsafe {
            let raw_device = sys::mlx_device_new_type(device.raw_type(), 0);
            let raw = sys::mlx_stream_new_thread_unsafe(raw_device);
            sys::mlx_device_free(raw_device);
            // MLX makes the stream's thread with its first task. Should this
            // fail, the first evaluation fails too, and says so.
            if !raw.ctx.is_null() {
                sys::mlx_synchronize(raw);
            }
            raw
        });
        if raw.ctx.is_null() {
            return Err(last_error());
        }
        let signal = Signal::default();
        Ok(Stream(Some(RawStream {
            raw,
            device,
            signal,
        })))
    }

    fn inner(&self) -> &RawStream {
        self.0.as_ref().expect("present until drop")
    }

    pub fn device(&self) -> Device {
        self.inner().device
    }

    pub(super) fn raw(&self) -> sys::mlx_stream {
        self.inner().raw
    }

    /// What kernels of ours on this stream and its evaluations tell each other.
    pub(super) fn signal(&self) -> &Signal {
        &self.inner().signal
    }

    /// Evaluates the graph behind `arrays` and waits: afterwards all of them can
    /// be read and nothing of the graph is left.
    pub fn eval<'a>(&self, arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
        host::ensure_not_forked()?;
        let pending = arrays.into_iter().filter(|array| !array.is_evaluated());
        let handles: Vec<_> = pending.map(Array::raw).collect();
        if handles.is_empty() {
            return Ok(());
        }
        let _reading = ENCODERS.read().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the handles live through the call; the vector holds references
        // of its own. MLX would make a default stream for a thread that has
        // none, and never free it: ours is made the default first.
        unsafe {
            check(sys::mlx_set_default_stream(self.raw()))?;
            let vector = sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len());
            if vector.ctx.is_null() {
                return Err(last_error());
            }
            let result = match self.device() {
                Device::Cpu => self.schedule_and_wait(vector),
                Device::Gpu => check(sys::mlx_eval(vector)),
            };
            sys::mlx_vector_array_free(vector);
            result?;
        }
        self.signal().check()
    }

    /// Waits for the stream as well, which holds intermediate results until its
    /// thread has let go of them.
    ///
    /// # Safety
    /// `vector` is a live handle.
    unsafe fn schedule_and_wait(&self, vector: sys::mlx_vector_array) -> Result<()> {
        // SAFETY: the caller's.
        let scheduled = check(unsafe { sys::mlx_async_eval(vector) });
        // Also after a failure: what was scheduled before it still runs.
        // SAFETY: a live handle.
        let finished = check(unsafe { sys::mlx_synchronize(self.raw()) });
        scheduled.and(finished)
    }

    /// Runs `call`; once `stop` is set, kernels of ours do nothing any more: those
    /// that would begin fail as cancelled, and what nodes should have computed is
    /// undefined.
    pub fn until<T>(&self, stop: Option<Arc<AtomicBool>>, call: impl FnOnce() -> T) -> T {
        self.signal().set_stop(stop);
        let result = call();
        self.signal().set_stop(None);
        result
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let stream = self.0.take().filter(|_| !host::forked());
        if let Some(stream) = stream {
            IDLE.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(stream);
        }
    }
}

/// Runs `call` between evaluations: MLX's allocator waits for all streams when its
/// limits change, and must not see one being made meanwhile.
pub(super) fn while_nothing_runs<T>(call: impl FnOnce() -> T) -> T {
    let _writing = ENCODERS.write().unwrap_or_else(PoisonError::into_inner);
    call()
}

/// Whether the MLX that was loaded has a GPU to run on.
pub fn gpu_available() -> bool {
    init();
    let mut count: c_int = 0;
    // SAFETY: writes one integer.
    let code = unsafe { sys::mlx_device_count(&mut count, Device::Gpu.raw_type()) };
    check(code).is_ok() && count > 0
}

/// The version of the MLX that was loaded, such as "0.32.2".
pub fn version() -> Result<String> {
    init();
    // SAFETY: the string handle is made, read and freed here.
    unsafe {
        let mut text = sys::mlx_string_new();
        let code = sys::mlx_version(&mut text);
        let result = check(code).map(|()| {
            CStr::from_ptr(sys::mlx_string_data(text))
                .to_string_lossy()
                .into_owned()
        });
        sys::mlx_string_free(text);
        result
    }
}
