//! [`CompiledGates`]: chains of elementwise operations that MLX makes one kernel of.
//! Only for GPUs: for the CPU MLX would run the system's C++ compiler.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::null;
use std::sync::{Mutex, PoisonError};

use mlx_sys as sys;

use super::array::Array;
use super::error::{check, last_error};
use super::ops::Ops;
use crate::error::Result;
use crate::kernels::Gate;
use crate::panics;

/// What gates were compiled to, on one stream: MLX remembers the stream with the
/// operations.
#[derive(Default)]
pub(super) struct CompiledGates(Mutex<Vec<(Gate, Closure)>>);

/// A compiled function of two arrays.
struct Closure(sys::mlx_closure);

// SAFETY: the handle is a pointer to a function object, which is called under the
// lock of `CompiledGates` only.
unsafe impl Send for Closure {}

thread_local! {
    /// Whose operations a function is made of that MLX traces on this thread.
    static CALLER: Cell<*const Ops> = const { Cell::new(null()) };
}

impl CompiledGates {
    /// `up` through the gate, in one node.
    pub fn apply(&self, ops: &Ops, function: Gate, gate: &Array, up: &Array) -> Result<Array> {
        let mut compiled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = compiled.iter().position(|(known, _)| *known == function);
        let index = match known {
            Some(index) => index,
            None => {
                compiled.push((function, Closure::new(function)?));
                compiled.len() - 1
            }
        };
        CALLER.set(ops);
        let result = compiled[index].1.call([gate, up]);
        CALLER.set(null());
        result
    }
}

impl Closure {
    fn new(function: Gate) -> Result<Closure> {
        let payload = Box::into_raw(Box::new(function));
        // SAFETY: the payload is given away until `release`; both handles are made
        // here, and the compiled function holds the other one.
        unsafe {
            let plain =
                sys::mlx_closure_new_func_payload(Some(trace), payload.cast(), Some(release));
            let mut compiled = Closure(sys::mlx_closure_new());
            // Of any shape: tokens come one by one and in chunks.
            let code = sys::mlx_compile(&mut compiled.0, plain, true);
            sys::mlx_closure_free(plain);
            check(code)?;
            Ok(compiled)
        }
    }

    fn call(&self, inputs: [&Array; 2]) -> Result<Array> {
        let handles = inputs.map(Array::raw);
        // SAFETY: live handles; the vectors are freed here, and mlx-c keeps
        // references of its own.
        unsafe {
            let inputs = sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len());
            if inputs.ctx.is_null() {
                return Err(last_error());
            }
            let mut outputs = sys::mlx_vector_array_new();
            let called = check(sys::mlx_closure_apply(&mut outputs, self.0, inputs));
            let first = called
                .and_then(|()| Array::build(|out| sys::mlx_vector_array_get(out, outputs, 0)));
            sys::mlx_vector_array_free(inputs);
            sys::mlx_vector_array_free(outputs);
            first
        }
    }
}

impl Drop for Closure {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and dropped once.
        unsafe { sys::mlx_closure_free(self.0) };
    }
}

/// Called by MLX, on the thread that is in `apply`, once for each kind of inputs.
extern "C" fn trace(
    outputs: *mut sys::mlx_vector_array,
    inputs: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    let make = || -> Result<()> {
        // SAFETY: the box made in `new`, and the operations that `apply` borrows; MLX
        // passes live vectors, two arrays among the inputs.
        unsafe {
            let (function, ops) = (*payload.cast::<Gate>(), &*CALLER.get());
            let input = |index| Array::build(|out| sys::mlx_vector_array_get(out, inputs, index));
            let made = ops.plain_gate(function, &input(0)?, &input(1)?)?;
            check(sys::mlx_vector_array_set_value(outputs, made.raw()))
        }
    };
    let made = panics::catch(make);
    c_int::from(!matches!(made, Ok(Ok(()))))
}

extern "C" fn release(payload: *mut c_void) {
    // SAFETY: the box made in `new`; called once.
    drop(unsafe { Box::from_raw(payload.cast::<Gate>()) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Activation;
    use crate::mlx::{CpuOps, Device, Stream};

    /// For the CPU, with the system's compiler: tests may.
    #[test]
    fn a_compiled_gate_is_the_plain_one() {
        let stream = Stream::acquire(Device::Cpu).expect("a stream");
        let ops = Ops::new(stream, CpuOps::Stock, 1);
        let gates = CompiledGates::default();
        for (function, columns) in [
            (Gate::Times(Activation::Silu), 5),
            (Gate::Times(Activation::Silu), 3),
            (Gate::Times(Activation::GeluTanh), 4),
        ] {
            let values: Vec<f32> = (0..columns).map(|i| i as f32 - 1.5).collect();
            let x = Array::from_f32(&values, &[1, columns]).expect("an array");
            let compiled = gates.apply(&ops, function, &x, &x).expect("a node");
            let plain = ops.plain_gate(function, &x, &x).expect("nodes");
            ops.stream().eval([&compiled, &plain]).expect("evaluated");
            let (compiled, plain) = (compiled.as_f32().unwrap(), plain.as_f32().unwrap());
            let differ = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-6;
            assert!(
                !compiled.iter().zip(plain).any(differ),
                "{compiled:?} {plain:?}"
            );
        }
        assert_eq!(gates.0.lock().unwrap().len(), 2);
    }
}
