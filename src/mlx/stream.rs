//! [`Stream`]: where operations run, and the boundary at which they do.
//!
//! MLX never frees a stream, and streams are normally bound to the thread that
//! made them. umrt's callers come from any thread, so streams here are of the
//! kind that any thread may use, each under one owner at a time, and they are
//! handed back to a pool for the next owner.

use std::ffi::CStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use mlx_sys as sys;

use super::array::Array;
use super::device::{Device, gpu_available};
use super::error::{check, check_made, init, last_error};
use super::lost;
use super::primitive::Signal;
use crate::error::Result;
use crate::host;
use crate::kernels::Stop;

/// MLX looks encoders up in an unlocked table while it evaluates, and making a
/// stream inserts into it: evaluation reads, making a stream writes.
static ENCODERS: RwLock<()> = RwLock::new(());
static IDLE: Mutex<Vec<RawStream>> = Mutex::new(Vec::new());

/// Streams that nothing is computed on, one of each GPU in use. MLX would make a
/// default stream of a GPU for every thread that evaluates, and never free it: this
/// one is made the default first. And what is done on it fails once the GPU has
/// failed, without waiting for what the GPU still computes elsewhere.
static PARKED: Mutex<Vec<RawStream>> = Mutex::new(Vec::new());

struct RawStream {
    raw: sys::mlx_stream,
    device: Device,
    signal: Signal,
    #[cfg(test)]
    injected: Mutex<Option<String>>,
}

// SAFETY: the handle is a plain pair of index and device on the heap.
unsafe impl Send for RawStream {}
// SAFETY: nothing writes through the handle.
unsafe impl Sync for RawStream {}

impl RawStream {
    fn new(device: Device) -> Result<RawStream> {
        host::watch_forks();
        let _writing = ENCODERS.write().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the device handle lives for the call; no evaluation runs.
        let raw = host::with_signals_blocked(|| unsafe {
            let raw = device.with_raw(|raw| sys::mlx_stream_new_thread_unsafe(raw));
            // MLX makes the stream's thread with its first task. Should this
            // fail, the first evaluation fails too, and says so.
            if !raw.ctx.is_null() {
                sys::mlx_synchronize(raw);
            }
            raw
        });
        check_made(raw.ctx)?;
        Ok(RawStream {
            raw,
            device,
            signal: Signal::default(),
            #[cfg(test)]
            injected: Mutex::new(None),
        })
    }
}

/// An MLX stream that this value alone uses until it is dropped.
pub struct Stream(Option<RawStream>);

impl Stream {
    /// Takes an idle stream of `device`, or makes one.
    pub fn acquire(device: Device) -> Result<Stream> {
        host::ensure_not_forked()?;
        init();
        device.ensure_there()?;
        lost::ensure_usable(device)?;
        if gpu_available() {
            park(Device::Gpu(0))?;
        }
        if device.is_gpu() {
            park(device)?;
        }
        let mut idle = lock(&IDLE);
        if let Some(index) = idle.iter().position(|stream| stream.device == device) {
            return Ok(Stream(Some(idle.swap_remove(index))));
        }
        drop(idle);
        RawStream::new(device).map(|stream| Stream(Some(stream)))
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
        match self.schedule(arrays)? {
            true => self.finish(),
            false => Ok(()),
        }
    }

    /// Begins to evaluate the graph behind `arrays`, which may be parts of other
    /// graphs before they have their values. See `finish` and `wait_for`.
    pub fn start<'a>(&self, arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
        self.schedule(arrays).map(drop)
    }

    /// Whether there was anything to do.
    fn schedule<'a>(&self, arrays: impl IntoIterator<Item = &'a Array>) -> Result<bool> {
        host::ensure_not_forked()?;
        let device = self.device();
        lost::ensure_usable(device)?;
        let mut handles = Vec::new();
        for array in arrays {
            if !array.is_evaluated()? {
                handles.push(array.raw());
            }
        }
        if handles.is_empty() {
            return Ok(false);
        }
        let parked = lock(&PARKED).first().map(|stream| stream.raw);
        let reading = ENCODERS.read().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the handles live through the call; the vector holds references
        // of its own. MLX would make default streams for a thread that has none,
        // and never free them: ours are made the defaults first.
        let scheduled = unsafe {
            if let Some(parked) = parked {
                check(sys::mlx_set_default_stream(parked))?;
            }
            check(sys::mlx_set_default_stream(self.raw()))?;
            let vector = sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len());
            if vector.ctx.is_null() {
                return Err(last_error());
            }
            let scheduled = self
                .ensure_not_injected()
                .and(check(sys::mlx_async_eval(vector)));
            sys::mlx_vector_array_free(vector);
            scheduled
        };
        drop(reading);
        if let Err(error) = scheduled {
            // What was scheduled before it failed still runs.
            let _ = self.finish();
            return Err(lost::notice(device, error));
        }
        Ok(true)
    }

    /// Waits for all that was started, and for the stream, which holds intermediate
    /// results until its thread has let go of them.
    pub fn finish(&self) -> Result<()> {
        let _reading = ENCODERS.read().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a live handle.
        let finished = check(unsafe { sys::mlx_synchronize(self.raw()) });
        finished.map_err(|error| lost::notice(self.device(), error))?;
        self.signal().check()
    }

    /// Waits for one array of those that were started; others may still be computed.
    pub fn wait_for(&self, array: &Array) -> Result<()> {
        // SAFETY: a live handle, whose evaluation was started.
        let waited = check(unsafe { sys::_mlx_array_wait(array.raw()) });
        // MLX does not look whether the wait has failed.
        let waited = waited.and_then(|()| ensure_alive(self.device()));
        waited.map_err(|error| lost::notice(self.device(), error))
    }

    /// Runs `call`; once `stop` is set, kernels of ours do nothing any more: those
    /// that are called fail as cancelled, and what nodes should have computed is
    /// undefined.
    pub fn until<T>(&self, stop: Option<Arc<Stop>>, call: impl FnOnce() -> T) -> T {
        self.signal().stop_place().set(stop);
        let result = call();
        self.signal().stop_place().set(None);
        result
    }
}

#[cfg(not(test))]
impl Stream {
    fn ensure_not_injected(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl Stream {
    /// The next evaluation fails as if MLX had said so.
    pub(crate) fn fail_next(&self, message: &str) {
        *lock(&self.inner().injected) = Some(message.to_owned());
    }

    fn ensure_not_injected(&self) -> Result<()> {
        let injected = lock(&self.inner().injected).take();
        injected.map_or(Ok(()), |message| Err(super::error::of_message(message)))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let stream = self.0.take().filter(|_| !host::forked());
        if let Some(stream) = stream {
            lock(&IDLE).push(stream);
        }
    }
}

/// Runs `call` between evaluations: MLX's allocator waits for all streams when its
/// limits change, and must not see one being made meanwhile.
pub(super) fn while_nothing_runs<T>(call: impl FnOnce() -> T) -> T {
    let _writing = ENCODERS.write().unwrap_or_else(PoisonError::into_inner);
    call()
}

/// Makes the parked stream of `device` if there is none.
fn park(device: Device) -> Result<()> {
    let mut parked = lock(&PARKED);
    if !parked.iter().any(|stream| stream.device == device) {
        parked.push(RawStream::new(device)?);
    }
    Ok(())
}

/// Fails once a GPU has failed.
fn ensure_alive(device: Device) -> Result<()> {
    // One at a time: a stream has one user.
    let parked = lock(&PARKED);
    let Some(stream) = parked.iter().find(|stream| stream.device == device) else {
        return Ok(());
    };
    let _reading = ENCODERS.read().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a live handle.
    check(unsafe { sys::mlx_synchronize(stream.raw) })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
