//! Gates whose two inputs were computed before.

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::elementwise::scalar;
use super::inputs::{Inputs, float_of};
use super::ops::Ops;
use super::primitive::kernel;
use super::projections::Projected;
use crate::error::Result;
use crate::kernels::{FloatsMut, Gate};

impl Ops {
    /// The second of two equally wide projections through the gate of the first.
    pub fn gate(&self, function: Gate, projected: &Projected) -> Result<Array> {
        let both = match projected {
            Projected::Separate(parts) => return self.stock_gate(function, &parts[0], &parts[1]),
            Projected::Joined(both) => both,
        };
        let pool = self.pool().expect("our kernels joined them").clone();
        let mut inputs = Inputs::default();
        let rows = inputs.floats(both)?;
        let (dtype, float) = (both.dtype()?, float_of(both)?);
        let columns = both.dim(1) as usize / 2;
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let out = FloatsMut::new(float, out);
            function.joined_rows(&pool, rows.of(inputs), columns, out);
        };
        let shape = [both.dim(0), columns as i32];
        kernel(self.stream(), inputs.as_slice(), &shape, dtype, body)
    }

    /// As `gate`, where gates lose `cutoff` standard deviations of their row beyond its
    /// mean, and what is left below 0.
    pub fn gate_sparsely(
        &self,
        function: Gate,
        cutoff: f32,
        projected: &Projected,
    ) -> Result<Array> {
        let both = match projected {
            Projected::Separate(parts) => {
                let gate = self.stock_cut(&parts[0], cutoff)?;
                return self.stock_gate(function, &gate, &parts[1]);
            }
            Projected::Joined(both) => both,
        };
        let pool = self.pool().expect("our kernels joined them").clone();
        let mut inputs = Inputs::default();
        let rows = inputs.floats(both)?;
        let (dtype, float) = (both.dtype()?, float_of(both)?);
        let columns = both.dim(1) as usize / 2;
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let out = FloatsMut::new(float, out);
            function.sparse_rows(&pool, rows.of(inputs), cutoff, columns, out);
        };
        let shape = [both.dim(0), columns as i32];
        kernel(self.stream(), inputs.as_slice(), &shape, dtype, body)
    }

    fn stock_cut(&self, gate: &Array, cutoff: f32) -> Result<Array> {
        let wide = self.astype(gate, Dtype::F32)?;
        let stream = self.stream().raw();
        // SAFETY: live handles; mlx-c keeps references of its own.
        let mean =
            Array::build(|out| unsafe { sys::mlx_mean_axis(out, wide.raw(), -1, true, stream) })?;
        // SAFETY: as above.
        let deviation =
            Array::build(|out| unsafe { sys::mlx_std_axis(out, wide.raw(), -1, true, 0, stream) })?;
        let least = self.add(&mean, &self.multiply(&deviation, &scalar(cutoff)?)?)?;
        let above = self.binary(sys::mlx_subtract, &wide, &least)?;
        let cut = self.binary(sys::mlx_maximum, &above, &scalar(0.0)?)?;
        self.astype(&cut, gate.dtype()?)
    }

    /// The columns of `values` from `first` on through the gate, as many as it has.
    pub fn gate_part(
        &self,
        function: Gate,
        gate: &Array,
        values: &Array,
        first: usize,
    ) -> Result<Array> {
        let (n_rows, columns) = (gate.dim(0), gate.dim(1));
        let Some(pool) = self.pool() else {
            let first = first as i32;
            let part = self.slice(values, &[0, first], &[n_rows, first + columns])?;
            return self.stock_gate(function, gate, &part);
        };
        let mut inputs = Inputs::default();
        let (gates, rows) = (inputs.floats(gate)?, inputs.floats(values)?);
        let (pool, width) = (pool.clone(), values.dim(1) as usize);
        let (dtype, float) = (gate.dtype()?, float_of(gate)?);
        let columns = columns as usize;
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let up = (rows.of(inputs), width, first);
            let out = FloatsMut::new(float, out);
            function.part_rows(&pool, gates.of(inputs), up, columns, out);
        };
        kernel(self.stream(), inputs.as_slice(), gate.shape(), dtype, body)
    }
}
