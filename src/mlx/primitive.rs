//! The Rust side of `primitive.cpp`: kernels of ours as nodes of MLX's graph.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use mlx_sys as sys;

use super::array::{Array, element_count};
use super::stream::Stream;
use crate::error::{Error, Result, panic_text};

type Compute = extern "C" fn(*mut c_void, *const *mut c_void, usize, *mut c_void);

unsafe extern "C" {
    fn umrt_mlx_kernel(
        inputs: *const sys::mlx_array,
        n_inputs: usize,
        shape: *const c_int,
        rank: usize,
        type_of: sys::mlx_array,
        stream: sys::mlx_stream,
        compute: Compute,
        kernel: *mut c_void,
        release: extern "C" fn(*mut c_void),
    ) -> *mut c_void;
}

/// What a kernel computes: the output's bytes from those of the inputs, all of
/// them row-contiguous.
type Body = Box<dyn Fn(&[&[u8]], &mut [u8]) + Send + Sync>;

/// What went wrong in a kernel, until the evaluation that ran it looks.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    pub(super) fn check(&self) -> Result<()> {
        let failure = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |what| {
            Err(Error::internal(format!("a CPU kernel failed: {what}")))
        })
    }

    fn set(&self, what: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }
}

struct Kernel {
    body: Body,
    input_bytes: Vec<usize>,
    output_bytes: usize,
    failure: Failure,
}

/// A node `shape`, of the type of `type_of`, that `body` computes on the CPU.
/// The inputs must be row-contiguous when they are evaluated.
pub(super) fn kernel(
    stream: &Stream,
    inputs: &[&Array],
    shape: &[i32],
    type_of: &Array,
    body: impl Fn(&[&[u8]], &mut [u8]) + Send + Sync + 'static,
) -> Result<Array> {
    let kernel = Box::new(Kernel {
        body: Box::new(body),
        input_bytes: inputs.iter().map(|input| input.bytes()).collect(),
        output_bytes: element_count(shape) * type_of.dtype()?.bytes(),
        failure: stream.failure().clone(),
    });
    let handles: Vec<_> = inputs.iter().map(|input| input.raw()).collect();
    // SAFETY: the handles live through the call, shapes come with their lengths,
    // and the kernel is given away until `release`.
    let raw = unsafe {
        umrt_mlx_kernel(
            handles.as_ptr(),
            handles.len(),
            shape.as_ptr(),
            shape.len(),
            type_of.raw(),
            stream.raw(),
            compute,
            Box::into_raw(kernel).cast(),
            release,
        )
    };
    Array::from_raw(sys::mlx_array { ctx: raw })
}

extern "C" fn compute(
    kernel: *mut c_void,
    inputs: *const *mut c_void,
    n_inputs: usize,
    output: *mut c_void,
) {
    // SAFETY: the box made in `kernel`, alive until `release`.
    let kernel = unsafe { &*kernel.cast::<Kernel>() };
    let run = || {
        // SAFETY: MLX passes as many inputs as the node was made with, each with
        // its bytes in one piece, and an output that nobody else has yet.
        let (inputs, output) = unsafe {
            let addresses = std::slice::from_raw_parts(inputs, n_inputs);
            let inputs: Vec<&[u8]> = addresses
                .iter()
                .zip(&kernel.input_bytes)
                .map(|(address, bytes)| std::slice::from_raw_parts(address.cast(), *bytes))
                .collect();
            let output = std::slice::from_raw_parts_mut(output.cast(), kernel.output_bytes);
            (inputs, output)
        };
        (kernel.body)(&inputs, output);
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        kernel.failure.set(panic_text(panic.as_ref()).to_owned());
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

    #[test]
    fn a_kernel_computes_inside_the_graph() {
        let stream = Stream::acquire(Device::Cpu).expect("a stream");
        let x = Array::from_f32(&[1.0, 2.0, 3.0], &[3]).expect("an array");
        let reversed = kernel(&stream, &[&x], &[3], &x, |inputs, output| {
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
        let x = Array::from_f32(&[1.0], &[1]).expect("an array");
        let failing = kernel(&stream, &[&x], &[1], &x, |_, _| panic!("on purpose"));
        let error = stream.eval([&failing.expect("a node")]).expect_err("fails");
        assert_eq!(error.status(), Status::Internal);
        assert!(error.message().contains("on purpose"), "{error}");
        let fine = kernel(&stream, &[&x], &[1], &x, |_, output| output.fill(0));
        stream.eval([&fine.expect("a node")]).expect("evaluated");
    }
}
