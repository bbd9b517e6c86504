//! The Rust side of `primitive.cpp`: kernels of ours make MLX's arrays.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlx_sys as sys;

use super::array::{Array, Dtype, element_count};
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::kernels::StopPlace;
use crate::panics;

type Compute = extern "C" fn(*mut c_void, *const *const c_void, *mut c_void);

unsafe extern "C" {
    fn umrt_mlx_kernel(
        inputs: *const sys::mlx_array,
        n_inputs: usize,
        shape: *const c_int,
        rank: usize,
        dtype: sys::mlx_dtype,
        stream: sys::mlx_stream,
        compute: Compute,
        kernel: *mut c_void,
        release: extern "C" fn(*mut c_void),
    ) -> *mut c_void;
    fn umrt_mlx_unfilled(
        shape: *const c_int,
        rank: usize,
        dtype: sys::mlx_dtype,
        data: *mut *mut c_void,
    ) -> *mut c_void;
}

/// What a kernel computes: the output's bytes from those of the inputs, all of
/// them row-contiguous.
type Body = Box<dyn Fn(&[&[u8]], &mut [u8]) + Send + Sync>;

/// What a stream's kernels and its evaluations tell each other.
#[derive(Clone, Default)]
pub(super) struct Signal {
    /// What went wrong in a kernel, until the evaluation that ran it looks.
    failure: Arc<Mutex<Option<String>>>,
    /// Kernels do nothing any more once that is set.
    stop: StopPlace,
}

impl Signal {
    /// The failure of a kernel since the last call.
    pub(super) fn check(&self) -> Result<()> {
        let failure = self.failure().take();
        failure.map_or(Ok(()), |what| Err(failed(&what)))
    }

    pub(super) fn stop_place(&self) -> &StopPlace {
        &self.stop
    }

    fn ensure_not_stopped(&self) -> Result<()> {
        match self.stop.is_stopped() {
            true => Err(Error::cancelled("stopped in the middle of a step")),
            false => Ok(()),
        }
    }

    fn has_failed(&self) -> bool {
        self.failure().is_some()
    }

    fn fail(&self, what: String) {
        *self.failure() = Some(what);
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(what: &str) -> Error {
    Error::internal(format!("a CPU kernel failed: {what}"))
}

struct Kernel {
    body: Body,
    input_bytes: Vec<usize>,
    output_bytes: usize,
    signal: Signal,
}

/// An array `shape` that `body` computes on the CPU, from row-contiguous inputs.
///
/// If these have their values, that is done here and now, on the caller's thread: a
/// node would have to be handed to the stream's thread, which takes longer than
/// many a kernel. Otherwise it becomes a node of MLX's graph behind them.
pub(super) fn kernel(
    stream: &Stream,
    inputs: &[&Array],
    shape: &[i32],
    dtype: Dtype,
    body: impl Fn(&[&[u8]], &mut [u8]) + Send + Sync + 'static,
) -> Result<Array> {
    let values = inputs.iter().map(|input| input.values());
    match values.collect::<Result<Option<Vec<_>>>>()? {
        Some(values) => compute_now(stream.signal(), &values, shape, dtype, body),
        None => node(stream, inputs, shape, dtype, Box::new(body)),
    }
}

fn compute_now(
    signal: &Signal,
    inputs: &[&[u8]],
    shape: &[i32],
    dtype: Dtype,
    body: impl Fn(&[&[u8]], &mut [u8]),
) -> Result<Array> {
    signal.ensure_not_stopped()?;
    let mut data = ptr::null_mut();
    // SAFETY: the shape comes with its length; `data` receives an address.
    let raw = unsafe { umrt_mlx_unfilled(shape.as_ptr(), shape.len(), dtype.raw(), &mut data) };
    let array = Array::from_raw(sys::mlx_array { ctx: raw })?;
    let n_bytes = element_count(shape) * dtype.bytes();
    let run = || {
        // SAFETY: the array has so many bytes of its own, which nobody else knows.
        let output = unsafe { std::slice::from_raw_parts_mut(data.cast::<u8>(), n_bytes) };
        body(inputs, output);
    };
    match panics::catch(run) {
        // Of a kernel that was stopped pieces are missing.
        Ok(()) => signal.ensure_not_stopped().map(|()| array),
        Err(panic) => Err(failed(&panic)),
    }
}

fn node(
    stream: &Stream,
    inputs: &[&Array],
    shape: &[i32],
    dtype: Dtype,
    body: Body,
) -> Result<Array> {
    let kernel = Box::new(Kernel {
        body,
        input_bytes: inputs.iter().map(|input| input.bytes()).collect(),
        output_bytes: element_count(shape) * dtype.bytes(),
        signal: stream.signal().clone(),
    });
    let handles: Vec<_> = inputs.iter().copied().map(Array::raw).collect();
    // SAFETY: the handles live through the call, shapes come with their lengths,
    // and the kernel is given away until `release`.
    let raw = unsafe {
        umrt_mlx_kernel(
            handles.as_ptr(),
            handles.len(),
            shape.as_ptr(),
            shape.len(),
            dtype.raw(),
            stream.raw(),
            compute,
            Box::into_raw(kernel).cast(),
            release,
        )
    };
    Array::from_raw(sys::mlx_array { ctx: raw })
}

extern "C" fn compute(kernel: *mut c_void, inputs: *const *const c_void, output: *mut c_void) {
    // SAFETY: the box made in `node`, alive until `release`.
    let kernel = unsafe { &*kernel.cast::<Kernel>() };
    if kernel.signal.has_failed() || kernel.signal.stop.is_stopped() {
        return;
    }
    let run = || {
        let input = |(index, bytes): (usize, &usize)| {
            // SAFETY: MLX passes as many inputs as the node was made with, each
            // with its bytes in one piece; nothing writes to them meanwhile.
            unsafe { std::slice::from_raw_parts((*inputs.add(index)).cast::<u8>(), *bytes) }
        };
        let inputs: Vec<&[u8]> = kernel.input_bytes.iter().enumerate().map(input).collect();
        // SAFETY: nobody else has the output yet.
        let output =
            unsafe { std::slice::from_raw_parts_mut(output.cast::<u8>(), kernel.output_bytes) };
        (kernel.body)(&inputs, output);
    };
    if let Err(panic) = panics::catch(run) {
        kernel.signal.fail(panic);
    }
}

extern "C" fn release(kernel: *mut c_void) {
    // SAFETY: the box made in `kernel`; called once.
    drop(unsafe { Box::from_raw(kernel.cast::<Kernel>()) });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::error::Status;
    use crate::kernels::Stop;
    use crate::mlx::Device;

    /// Of which the values are not there yet.
    fn pending(stream: &Stream) -> Array {
        let body = |_: &[&[u8]], output: &mut [u8]| output.fill(0);
        node(stream, &[], &[1], Dtype::F32, Box::new(body)).expect("a node")
    }

    fn behind(
        input: &Array,
        stream: &Stream,
        body: impl Fn(&[&[u8]], &mut [u8]) + Send + Sync + 'static,
    ) -> Result<Array> {
        kernel(stream, &[input], &[1], Dtype::F32, body)
    }

    fn stream() -> Stream {
        Stream::acquire(Device::Cpu).expect("a stream")
    }

    #[test]
    fn a_kernel_with_values_computes_at_once() {
        let x = Array::from_f32(&[1.0, 2.0, 3.0], &[3]).expect("an array");
        let reversed = kernel(&stream(), &[&x], &[3], Dtype::F32, |inputs, output| {
            for (from, to) in inputs[0].chunks(4).rev().zip(output.chunks_mut(4)) {
                to.copy_from_slice(from);
            }
        });
        let reversed = reversed.expect("an array");
        assert_eq!(reversed.as_f32().expect("values"), [3.0, 2.0, 1.0]);
    }

    #[test]
    fn a_kernel_without_values_computes_inside_the_graph() {
        let stream = stream();
        let sum = behind(&pending(&stream), &stream, |inputs, output| {
            let value = f32::from_le_bytes(inputs[0].try_into().expect("one")) + 1.0;
            output.copy_from_slice(&value.to_le_bytes());
        });
        let sum = sum.expect("a node");
        assert!(!sum.is_evaluated().expect("known"));
        stream.eval([&sum]).expect("evaluated");
        assert_eq!(sum.as_f32().expect("values"), [1.0]);
    }

    #[test]
    fn a_failing_kernel_is_an_error_of_its_call_and_of_no_later_one() {
        let stream = stream();
        let x = Array::from_f32(&[1.0], &[1]).expect("an array");
        let error = behind(&x, &stream, |_, _| panic!("on purpose")).expect_err("fails");
        assert_eq!(error.status(), Status::Internal);
        assert!(error.message().contains("on purpose"), "{error}");

        let failing = behind(&pending(&stream), &stream, |_, _| panic!("on purpose"));
        let error = stream.eval([&failing.expect("a node")]).expect_err("fails");
        assert_eq!(error.status(), Status::Internal);
        assert!(error.message().contains("on purpose"), "{error}");
        stream.eval([&pending(&stream)]).expect("evaluated");
    }

    #[test]
    fn kernels_do_nothing_once_they_are_told_to_stop() {
        let stream = stream();
        let flag = Arc::new(AtomicBool::new(true));
        let stop = Some(Arc::new(Stop::new(flag, None)));
        let ran = Arc::new(AtomicBool::new(false));
        let x = Array::from_f32(&[1.0], &[1]).expect("an array");
        let runs = |input: &Array| {
            let ran = ran.clone();
            behind(input, &stream, move |_, _| {
                ran.store(true, Ordering::Relaxed)
            })
        };
        stream.until(stop, || {
            let error = runs(&x).expect_err("stopped");
            assert_eq!(error.status(), Status::Cancelled);
            let node = runs(&pending(&stream)).expect("a node");
            stream.eval([&node]).expect("evaluated");
        });
        assert!(!ran.load(Ordering::Relaxed));
        runs(&x).expect("computed");
        assert!(ran.load(Ordering::Relaxed));
    }
}
