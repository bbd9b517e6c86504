//! Products with weight matrices, and what belongs to them: the norm in front,
//! the addition or the gate behind. Our kernels do all of it in one node.

use std::ops::Range;
use std::sync::Arc;

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::inputs::{Input, Inputs, LinearInput, NormInput, float_of};
use super::norms::Norm;
use super::ops::{Ops, some};
use super::primitive::kernel;
use super::quantized::{BlockWeight, QuantizedWeight, no_blocks, raw_or_null};
use crate::error::{Error, Result};
use crate::kernels::{self, Activation, Finish, FloatsMut, Gate, Pool};

/// A weight matrix `[outputs, inputs]`, as stored.
#[derive(Clone)]
pub enum Weight {
    Float(Array),
    Quantized(QuantizedWeight),
    Blocks(BlockWeight),
    Transposed(TransposedWeight),
}

/// Floats as `[inputs, outputs]`, or with one more dimension, the first, for as many
/// matrices.
#[derive(Clone)]
pub struct TransposedWeight {
    pub values: Array,
    /// Those that belong to the weight.
    pub outputs: Range<usize>,
}

/// `x W^T + b`
pub struct Linear {
    pub weight: Weight,
    pub bias: Option<Array>,
}

/// What several projections of the same rows gave.
pub enum Projected {
    /// Next to each other: `[n, sum of outputs]`
    Joined(Array),
    Separate(Vec<Array>),
}

impl Weight {
    /// All rows, and how long they are.
    pub(super) fn rows_and_columns(&self) -> (usize, usize) {
        let (array, columns) = match self {
            Weight::Float(weight) => (weight, last_dim(weight)),
            Weight::Quantized(weight) => {
                let words = last_dim(&weight.codes);
                (&weight.codes, words * 32 / weight.bits as usize)
            }
            Weight::Blocks(weight) => (&weight.bytes, weight.columns()),
            Weight::Transposed(weight) => return (weight.outputs.len(), weight.inputs()),
        };
        let outer = array
            .shape()
            .split_last()
            .map_or(&[][..], |(_, outer)| outer);
        (outer.iter().product::<i32>() as usize, columns)
    }

    /// The arrays that it consists of.
    pub(super) fn parts(&self) -> Vec<&Array> {
        match self {
            Weight::Float(weight) => vec![weight],
            Weight::Blocks(weight) => vec![&weight.bytes],
            Weight::Transposed(weight) => vec![&weight.values],
            Weight::Quantized(weight) => [&weight.codes, &weight.scales]
                .into_iter()
                .chain(&weight.biases)
                .collect(),
        }
    }
}

impl TransposedWeight {
    /// Outputs from one input to the next, in memory.
    pub(super) fn stride(&self) -> usize {
        last_dim(&self.values)
    }

    fn inputs(&self) -> usize {
        let shape = self.values.shape();
        shape[shape.len() - 2] as usize
    }
}

impl Linear {
    pub fn outputs(&self) -> i32 {
        match &self.weight {
            Weight::Float(weight) => weight.dim(0),
            Weight::Quantized(weight) => weight.codes.dim(0),
            Weight::Blocks(weight) => weight.bytes.dim(0),
            Weight::Transposed(weight) => weight.outputs.len() as i32,
        }
    }
}

impl Ops {
    /// `x W^T + b` of the perhaps normalized rows for each of `linears`.
    pub fn project(
        &self,
        x: &Array,
        norm: Option<Norm<'_>>,
        linears: &[&Linear],
    ) -> Result<Projected> {
        if let Some(pool) = self.pool() {
            let product = Product::new(x, norm, linears)?;
            return product.node(self, pool, x.dtype()?).map(Projected::Joined);
        }
        let x = self.stock_input(x, norm)?;
        let products = linears.iter().map(|linear| self.stock_linear(&x, linear));
        Ok(Projected::Separate(products.collect::<Result<_>>()?))
    }

    /// The projections next to each other, by our kernels.
    pub(super) fn project_joined(
        &self,
        pool: &Arc<Pool>,
        x: &Array,
        linears: &[&Linear],
        dtype: Dtype,
    ) -> Result<Array> {
        Product::new(x, None, linears)?.node(self, pool, dtype)
    }

    /// `x W^T + b` of the perhaps normalized rows, in `dtype`.
    pub fn project_one(
        &self,
        x: &Array,
        norm: Option<Norm<'_>>,
        linear: &Linear,
        dtype: Dtype,
    ) -> Result<Array> {
        if let Some(pool) = self.pool() {
            return Product::new(x, norm, &[linear])?.node(self, pool, dtype);
        }
        let x = self.stock_input(x, norm)?;
        self.astype(&self.stock_linear(&x, linear)?, dtype)
    }

    /// `residual + x W^T + b`
    pub fn project_onto(&self, residual: &Array, x: &Array, linear: &Linear) -> Result<Array> {
        if let Some(pool) = self.pool() {
            let mut product = Product::new(x, None, &[linear])?;
            product.addend = Some(product.inputs.floats(residual)?);
            return product.node(self, pool, residual.dtype()?);
        }
        self.add(residual, &self.stock_linear(x, linear)?)
    }

    /// The projection to `up` through the gate.
    pub fn project_gated(
        &self,
        x: &Array,
        norm: Option<Norm<'_>>,
        function: Gate,
        gate: &Linear,
        up: &Linear,
    ) -> Result<Array> {
        if let Some(pool) = self.pool() {
            let mut product = Product::new(x, norm, &[gate, up])?;
            product.gate = Some(function);
            return product.node(self, pool, x.dtype()?);
        }
        let x = self.stock_input(x, norm)?;
        let gate = self.stock_linear(&x, gate)?;
        self.stock_gate(function, &gate, &self.stock_linear(&x, up)?)
    }

    /// `activation(x)`
    pub fn activate(&self, activation: Activation, x: &Array) -> Result<Array> {
        let Some(pool) = self.pool() else {
            return self.stock_activation(activation, x);
        };
        let mut inputs = Inputs::default();
        let rows = inputs.floats(x)?;
        let (pool, columns) = (pool.clone(), x.dim(1) as usize);
        let (dtype, float) = (x.dtype()?, float_of(x)?);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let out = FloatsMut::new(float, out);
            activation.rows(&pool, rows.of(inputs), columns, out);
        };
        kernel(self.stream(), inputs.as_slice(), x.shape(), dtype, body)
    }

    pub(super) fn stock_input(&self, x: &Array, norm: Option<Norm<'_>>) -> Result<Array> {
        match norm {
            Some(norm) => self.stock_norm(x, norm),
            None => Ok(x.clone()),
        }
    }

    pub(super) fn stock_linear(&self, x: &Array, linear: &Linear) -> Result<Array> {
        let transposed = match &linear.weight {
            Weight::Float(weight) => self.transpose(weight, &[1, 0])?,
            Weight::Transposed(weight) => self.own_outputs(weight)?,
            Weight::Quantized(weight) => {
                return self.stock_quantized_linear(x, weight, linear.bias.as_ref());
            }
            Weight::Blocks(_) => return Err(no_blocks()),
        };
        let stream = self.stream().raw();
        Array::build(|out| {
            // SAFETY: live handles; mlx-c keeps references of its own.
            unsafe {
                match &linear.bias {
                    Some(bias) => {
                        let (bias, x, weight) = (bias.raw(), x.raw(), transposed.raw());
                        sys::mlx_addmm(out, bias, x, weight, 1.0, 1.0, stream)
                    }
                    None => sys::mlx_matmul(out, x.raw(), transposed.raw(), stream),
                }
            }
        })
    }

    /// The weight's own part of its values.
    pub(super) fn own_outputs(&self, weight: &TransposedWeight) -> Result<Array> {
        let mut stop = weight.values.shape().to_vec();
        let mut start = vec![0; stop.len()];
        let last = stop.len() - 1;
        start[last] = weight.outputs.start as i32;
        stop[last] = weight.outputs.end as i32;
        self.slice(&weight.values, &start, &stop)
    }

    fn stock_quantized_linear(
        &self,
        x: &Array,
        weight: &QuantizedWeight,
        bias: Option<&Array>,
    ) -> Result<Array> {
        let product = self.quantized_product(x, weight, true)?;
        match bias {
            Some(bias) => self.add(&product, bias),
            None => Ok(product),
        }
    }

    /// `x W^T`, or `x W` where the weight is not `transposed`, in the type of `x`
    /// whatever that of the scales is. Both may have more dimensions, for as many
    /// products.
    pub(super) fn quantized_product(
        &self,
        x: &Array,
        weight: &QuantizedWeight,
        transposed: bool,
    ) -> Result<Array> {
        let product = Array::build(|out| {
            // SAFETY: live handles and a literal; mlx-c keeps references of its own.
            unsafe {
                sys::mlx_quantized_matmul(
                    out,
                    x.raw(),
                    weight.codes.raw(),
                    weight.scales.raw(),
                    raw_or_null(weight.biases.as_ref()),
                    transposed,
                    some(weight.group_size),
                    some(weight.bits),
                    weight.mode.name().as_ptr(),
                    self.stream().raw(),
                )
            }
        })?;
        self.astype(&product, x.dtype()?)
    }
}

/// That tables and matrices of heads are never transposed. The loader makes none.
pub(super) fn no_transposed() -> Error {
    Error::internal("a transposed matrix where there is none")
}

fn last_dim(array: &Array) -> usize {
    array.shape().last().map_or(0, |length| *length as usize)
}

/// A node to be made: which of its inputs is what.
struct Product<'a> {
    inputs: Inputs<'a>,
    n_rows: i32,
    columns: usize,
    x: Input,
    norm: Option<NormInput>,
    parts: Vec<LinearInput>,
    addend: Option<Input>,
    gate: Option<Gate>,
    width: i32,
}

impl<'a> Product<'a> {
    fn new(x: &'a Array, norm: Option<Norm<'a>>, linears: &[&'a Linear]) -> Result<Product<'a>> {
        let mut inputs = Inputs::default();
        let columns = x.dim(1) as usize;
        let rows = inputs.floats(x)?;
        let norm = norm.map(|norm| inputs.norm(norm)).transpose()?;
        let parts = linears.iter().map(|linear| inputs.linear(linear, columns));
        Ok(Product {
            n_rows: x.dim(0),
            columns,
            x: rows,
            norm,
            parts: parts.collect::<Result<_>>()?,
            addend: None,
            gate: None,
            width: linears.iter().map(|linear| linear.outputs()).sum(),
            inputs,
        })
    }

    fn node(self, ops: &Ops, pool: &Arc<Pool>, dtype: Dtype) -> Result<Array> {
        let width = match self.gate {
            Some(_) => self.width / 2,
            None => self.width,
        };
        let out_float = dtype.float()?;
        let pool = pool.clone();
        let arithmetic = ops.arithmetic();
        let Product {
            inputs,
            n_rows,
            columns,
            x,
            norm,
            parts,
            addend,
            gate,
            ..
        } = self;
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let rows = kernels::Rows {
                values: x.of(inputs),
                columns,
                norm: norm.map(|norm| norm.of(inputs)),
            };
            let projections: Vec<_> = parts.iter().map(|part| part.of(inputs)).collect();
            let finish = match (addend, gate) {
                (Some(addend), _) => Finish::Add(addend.of(inputs)),
                (None, Some(gate)) => Finish::Gated(gate),
                (None, None) => Finish::Store,
            };
            kernels::linear(
                &pool,
                &rows,
                &projections,
                finish,
                arithmetic,
                out,
                out_float,
            );
        };
        let shape = [n_rows, width];
        kernel(ops.stream(), inputs.as_slice(), &shape, dtype, body)
    }
}
