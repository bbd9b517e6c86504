//! The states of alternating updates, by our kernels or by MLX's operations, which compute
//! in float32 and round once.

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::elementwise::scalar;
use super::inputs::{Inputs, float_of};
use super::norms::Norm;
use super::ops::Ops;
use super::primitive::kernel;
use crate::error::Result;
use crate::kernels::{Floats, FloatsMut, LEAST_SQUARE, States};

/// What a small matrix says of each token, float32, and what it is multiplied with.
#[derive(Clone, Copy)]
pub struct Coefficients<'a> {
    pub values: &'a Array,
    pub factor: f32,
}

impl Ops {
    /// See `States::predict`.
    pub fn predict_states(
        &self,
        shape: States,
        states: &Array,
        coefficients: Coefficients<'_>,
    ) -> Result<Array> {
        let Coefficients { values, factor } = coefficients;
        let Some(pool) = self.pool() else {
            let n = shape.n as i32;
            let wide = self.wide_states(shape, states)?;
            let values = self.reshape(&self.scale(values, factor)?, &[states.dim(0), n, n])?;
            let sum = self.add(&wide, &self.matmul(&values, &wide)?)?;
            return self.narrow_states(&sum, states);
        };
        let mut inputs = Inputs::default();
        let (rows, values) = (inputs.floats(states)?, inputs.floats(values)?);
        let (pool, dtype, float) = (pool.clone(), states.dtype()?, float_of(states)?);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let values = values.of(inputs).to_vec();
            let out = FloatsMut::new(float, out);
            shape.predict(&pool, rows.of(inputs), (&values, factor), out);
        };
        kernel(
            self.stream(),
            inputs.as_slice(),
            states.shape(),
            dtype,
            body,
        )
    }

    /// See `States::correct`.
    pub fn correct_states(
        &self,
        shape: States,
        (states, updated, active): (&Array, &Array, usize),
        coefficients: Coefficients<'_>,
    ) -> Result<Array> {
        let Coefficients { values, factor } = coefficients;
        let Some(pool) = self.pool() else {
            let (n_rows, n) = (states.dim(0), shape.n as i32);
            let wide = self.wide_states(shape, states)?;
            let before = self.stock_state(shape, states, active)?;
            let before = self.multiply(&self.astype(&before, Dtype::F32)?, &scalar(-1.0)?)?;
            let change = self.add(&self.astype(updated, Dtype::F32)?, &before)?;
            let change = self.reshape(&change, &[n_rows, 1, shape.columns as i32])?;
            let shares = self.add(&self.scale(values, factor)?, &scalar(1.0)?)?;
            let shares = self.reshape(&shares, &[n_rows, n, 1])?;
            let sum = self.add(&wide, &self.multiply(&change, &shares)?)?;
            return self.narrow_states(&sum, states);
        };
        let mut inputs = Inputs::default();
        let (rows, new) = (inputs.floats(states)?, inputs.floats(updated)?);
        let values = inputs.floats(values)?;
        let (pool, dtype, float) = (pool.clone(), states.dtype()?, float_of(states)?);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let values = values.of(inputs).to_vec();
            let rows = (rows.of(inputs), new.of(inputs), active);
            let out = FloatsMut::new(float, out);
            shape.correct(&pool, rows, (&values, factor), out);
        };
        kernel(
            self.stream(),
            inputs.as_slice(),
            states.shape(),
            dtype,
            body,
        )
    }

    /// See `States::add_to_others`.
    pub fn add_to_other_states(
        &self,
        shape: States,
        (states, x): (&Array, &Array),
        norm: Norm<'_>,
    ) -> Result<Array> {
        let Some(pool) = self.pool() else {
            let addend = self.stock_norm(&self.astype(x, Dtype::F32)?, norm)?;
            let addend = self.reshape(&addend, &[x.dim(0), 1, x.dim(1)])?;
            let counts: Vec<f32> = (0..shape.n).map(|state| state.min(1) as f32).collect();
            let counts = Array::from_f32(&counts, &[1, shape.n as i32, 1])?;
            let wide = self.wide_states(shape, states)?;
            let sum = self.add(&wide, &self.multiply(&addend, &counts)?)?;
            return self.narrow_states(&sum, states);
        };
        let mut inputs = Inputs::default();
        let (rows, addends) = (inputs.floats(states)?, inputs.floats(x)?);
        let norm = inputs.norm(norm)?;
        let (pool, dtype, float) = (pool.clone(), states.dtype()?, float_of(states)?);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let rows = (rows.of(inputs), addends.of(inputs));
            let out = FloatsMut::new(float, out);
            shape.add_to_others(&pool, rows, &norm.of(inputs), out);
        };
        kernel(
            self.stream(),
            inputs.as_slice(),
            states.shape(),
            dtype,
            body,
        )
    }

    /// One state of each token, times `weight`.
    pub fn state(
        &self,
        shape: States,
        states: &Array,
        (index, weight): (usize, Option<&Array>),
    ) -> Result<Array> {
        let Some(pool) = self.pool() else {
            let state = self.stock_state(shape, states, index)?;
            let Some(weight) = weight else {
                return Ok(state);
            };
            let wide = |x: &Array| self.astype(x, Dtype::F32);
            let product = self.multiply(&wide(&state)?, &wide(weight)?)?;
            return self.astype(&product, states.dtype()?);
        };
        let mut inputs = Inputs::default();
        let rows = inputs.floats(states)?;
        let weight = weight.map(|weight| inputs.floats(weight)).transpose()?;
        let (pool, dtype, float) = (pool.clone(), states.dtype()?, float_of(states)?);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let weight = weight.map(|weight| weight.of(inputs));
            let out = FloatsMut::new(float, out);
            shape.one(&pool, rows.of(inputs), (index, weight), out);
        };
        let made = [states.dim(0), shape.columns as i32];
        kernel(self.stream(), inputs.as_slice(), &made, dtype, body)
    }

    /// `first` and `others`, each with the magnitude of the first: next to each other, or
    /// their mean.
    pub fn join_states(
        &self,
        shape: States,
        (first, others): (&Array, &[Array]),
        takes_mean: bool,
    ) -> Result<Array> {
        let Some(pool) = self.pool() else {
            return self.stock_join(shape, (first, others), takes_mean);
        };
        let mut inputs = Inputs::default();
        let rows = inputs.floats(first)?;
        let others: Vec<_> = others
            .iter()
            .map(|other| inputs.floats(other))
            .collect::<Result<_>>()?;
        let (pool, dtype, float) = (pool.clone(), first.dtype()?, float_of(first)?);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let others: Vec<Floats<'_>> = others.iter().map(|other| other.of(inputs)).collect();
            let all = (rows.of(inputs), &others[..]);
            let out = FloatsMut::new(float, out);
            match takes_mean {
                true => shape.mean(&pool, all, out),
                false => shape.spread(&pool, all, out),
            }
        };
        let width = if takes_mean {
            shape.columns
        } else {
            shape.width()
        };
        let made = [first.dim(0), width as i32];
        kernel(self.stream(), inputs.as_slice(), &made, dtype, body)
    }

    fn stock_join(
        &self,
        shape: States,
        (first, others): (&Array, &[Array]),
        takes_mean: bool,
    ) -> Result<Array> {
        let first_wide = self.astype(first, Dtype::F32)?;
        let magnitude = self.unary(sys::mlx_sqrt, &self.mean_square(&first_wide)?)?;
        let mut all = vec![first_wide];
        for other in others {
            let other = self.astype(other, Dtype::F32)?;
            let least = scalar(LEAST_SQUARE)?;
            let square = self.binary(sys::mlx_maximum, &self.mean_square(&other)?, &least)?;
            let factor = self.binary(
                sys::mlx_divide,
                &magnitude,
                &self.unary(sys::mlx_sqrt, &square)?,
            )?;
            all.push(self.multiply(&other, &factor)?);
        }
        if !takes_mean {
            return self.astype(&self.concatenate(&all, 1)?, first.dtype()?);
        }
        let mut sum = all.remove(0);
        for other in all {
            sum = self.add(&sum, &other)?;
        }
        let mean = self.multiply(&sum, &scalar(1.0 / shape.n as f32)?)?;
        self.astype(&mean, first.dtype()?)
    }

    /// Of rows.
    fn mean_square(&self, x: &Array) -> Result<Array> {
        let squares = self.multiply(x, x)?;
        Array::build(|out| {
            // SAFETY: live handles; mlx-c keeps references of its own.
            unsafe { sys::mlx_mean_axis(out, squares.raw(), -1, true, self.stream().raw()) }
        })
    }

    fn wide_states(&self, shape: States, states: &Array) -> Result<Array> {
        let apart = [states.dim(0), shape.n as i32, shape.columns as i32];
        self.reshape(&self.astype(states, Dtype::F32)?, &apart)
    }

    fn narrow_states(&self, wide: &Array, like: &Array) -> Result<Array> {
        self.astype(&self.reshape(wide, like.shape())?, like.dtype()?)
    }

    fn stock_state(&self, shape: States, states: &Array, index: usize) -> Result<Array> {
        let [first, columns] = [index * shape.columns, shape.columns].map(|n| n as i32);
        self.slice(states, &[0, first], &[states.dim(0), first + columns])
    }
}
