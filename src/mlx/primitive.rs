//! The Rust side of `primitive.cpp`: kernels of ours as nodes of MLX's graph.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mlx_sys as sys;

use super::array::{Array, Dtype, element_count};
use super::stream::Stream;
use crate::error::{Error, Result, panic_text};

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
}

/// What a kernel computes: the output's bytes from those of the inputs, all of
/// them row-contiguous.
type Body = Box<dyn Fn(&[&[u8]], &mut [u8]) + Send + Sync>;

/// How long kernels wait at most for an evaluation to schedule the others. MLX
/// may want some of them to finish before it schedules more.
const LONGEST_SCHEDULING: Duration = Duration::from_micros(60);

/// What a stream's kernels and its evaluations tell each other.
#[derive(Clone, Default)]
pub(super) struct Signal(Arc<SignalParts>);

#[derive(Default)]
struct SignalParts {
    state: Mutex<SignalState>,
    scheduled: Condvar,
}

#[derive(Default)]
struct SignalState {
    /// What went wrong in a kernel, until the evaluation that ran it looks.
    failure: Option<String>,
    /// Kernels do nothing any more when it is set.
    stop: Option<Arc<AtomicBool>>,
    /// An evaluation is scheduling kernels. The stream's thread would be done with
    /// a small one before the next comes, and go to sleep and be woken each time.
    is_scheduling: bool,
}

impl Signal {
    /// The failure of a kernel since the last call.
    pub(super) fn check(&self) -> Result<()> {
        self.lock().failure.take().map_or(Ok(()), |what| {
            Err(Error::internal(format!("a CPU kernel failed: {what}")))
        })
    }

    pub(super) fn set_stop(&self, stop: Option<Arc<AtomicBool>>) {
        self.lock().stop = stop;
    }

    pub(super) fn set_scheduling(&self, is_scheduling: bool) {
        self.lock().is_scheduling = is_scheduling;
        if !is_scheduling {
            self.0.scheduled.notify_all();
        }
    }

    /// Waits until kernels are scheduled, and says whether there is a reason to
    /// compute nothing.
    fn stops(&self) -> bool {
        let mut state = self.lock();
        if state.is_scheduling {
            let waiting = |state: &mut SignalState| state.is_scheduling;
            let woken = self
                .0
                .scheduled
                .wait_timeout_while(state, LONGEST_SCHEDULING, waiting);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.is_scheduling = false;
        }
        let stopped = |stop: &Arc<AtomicBool>| stop.load(Ordering::Relaxed);
        state.failure.is_some() || state.stop.as_ref().is_some_and(stopped)
    }

    fn fail(&self, what: String) {
        self.lock().failure = Some(what);
    }

    fn lock(&self) -> MutexGuard<'_, SignalState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Kernel {
    body: Body,
    input_bytes: Vec<usize>,
    output_bytes: usize,
    signal: Signal,
}

/// A node `shape` that `body` computes on the CPU. The inputs must be
/// row-contiguous when they are evaluated.
pub(super) fn kernel(
    stream: &Stream,
    inputs: &[&Array],
    shape: &[i32],
    dtype: Dtype,
    body: impl Fn(&[&[u8]], &mut [u8]) + Send + Sync + 'static,
) -> Result<Array> {
    let kernel = Box::new(Kernel {
        body: Box::new(body),
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
    if kernel.signal.stops() {
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
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        kernel.signal.fail(panic_text(panic.as_ref()).to_owned());
    }
}

extern "C" fn release(kernel: *mut c_void) {
    // SAFETY: the box made in `kernel`; called once.
    drop(unsafe { Box::from_raw(kernel.cast::<Kernel>()) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;
    use crate::mlx::Device;

    fn one(stream: &Stream, body: impl Fn(&[&[u8]], &mut [u8]) + Send + Sync + 'static) -> Array {
        kernel(stream, &[], &[1], Dtype::F32, body).expect("a node")
    }

    #[test]
    fn a_kernel_computes_inside_the_graph() {
        let stream = Stream::acquire(Device::Cpu).expect("a stream");
        let x = Array::from_f32(&[1.0, 2.0, 3.0], &[3]).expect("an array");
        let reversed = kernel(&stream, &[&x], &[3], Dtype::F32, |inputs, output| {
            for (from, to) in inputs[0].chunks(4).rev().zip(output.chunks_mut(4)) {
                to.copy_from_slice(from);
            }
        });
        let reversed = reversed.expect("a node");
        stream.eval([&reversed]).expect("evaluated");
        assert_eq!(reversed.as_f32().expect("values"), [3.0, 2.0, 1.0]);
    }

    #[test]
    fn a_failing_kernel_is_an_error_of_the_evaluation_and_of_no_later_one() {
        let stream = Stream::acquire(Device::Cpu).expect("a stream");
        let failing = one(&stream, |_, _| panic!("on purpose"));
        let error = stream.eval([&failing]).expect_err("fails");
        assert_eq!(error.status(), Status::Internal);
        assert!(error.message().contains("on purpose"), "{error}");
        let fine = one(&stream, |_, output| output.fill(0));
        stream.eval([&fine]).expect("evaluated");
    }

    #[test]
    fn kernels_do_nothing_once_they_are_told_to_stop() {
        let stream = Stream::acquire(Device::Cpu).expect("a stream");
        let stop = Arc::new(AtomicBool::new(true));
        let ran = Arc::new(AtomicBool::new(false));
        let node = || {
            let ran = ran.clone();
            one(&stream, move |_, _| ran.store(true, Ordering::Relaxed))
        };
        stream.eval_until([&node()], Some(stop)).expect("evaluated");
        assert!(!ran.load(Ordering::Relaxed));
        stream.eval([&node()]).expect("evaluated");
        assert!(ran.load(Ordering::Relaxed));
    }
}
