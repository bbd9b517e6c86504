//! Products with weight matrices, and what belongs to them: the norm in front,
//! the addition or the gate behind. Our kernels do all of it in one node.

use std::sync::Arc;

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::ops::{Ops, some};
use super::primitive::kernel;
use super::quantized::{QuantMode, QuantizedWeight, raw_or_null};
use crate::error::{Error, Result};
use crate::kernels::{self, Finish, Float, Floats, Format, Gate, Matrix, Pool, QuantizedRows};

/// A weight matrix `[outputs, inputs]`, as stored.
pub enum Weight {
    Float(Array),
    Quantized(QuantizedWeight),
}

/// `x W^T + b`
pub struct Linear {
    pub weight: Weight,
    pub bias: Option<Array>,
}

/// A root-mean-square norm with its weight.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    pub weight: &'a Array,
    pub eps: f32,
}

/// What several projections of the same rows gave.
pub enum Projected {
    /// Next to each other: `[n, sum of outputs]`
    Joined(Array),
    Separate(Vec<Array>),
}

impl Linear {
    fn outputs(&self) -> i32 {
        match &self.weight {
            Weight::Float(weight) => weight.dim(0),
            Weight::Quantized(weight) => weight.codes.dim(0),
        }
    }
}

impl Ops {
    /// `x W^T + b` of the normalized rows for each of `linears`.
    pub fn project(&self, x: &Array, norm: Norm<'_>, linears: &[&Linear]) -> Result<Projected> {
        if let Some(pool) = self.pool() {
            let product = Product::new(x, Some(norm), linears)?;
            return product.node(self, pool, x.dtype()?).map(Projected::Joined);
        }
        let x = self.rms_norm(x, norm.weight, norm.eps)?;
        let products = linears.iter().map(|linear| self.stock_linear(&x, linear));
        Ok(Projected::Separate(products.collect::<Result<_>>()?))
    }

    /// `x W^T + b` of the normalized rows, in `dtype`.
    pub fn project_one(
        &self,
        x: &Array,
        norm: Norm<'_>,
        linear: &Linear,
        dtype: Dtype,
    ) -> Result<Array> {
        if let Some(pool) = self.pool() {
            return Product::new(x, Some(norm), &[linear])?.node(self, pool, dtype);
        }
        let x = self.rms_norm(x, norm.weight, norm.eps)?;
        self.astype(&self.stock_linear(&x, linear)?, dtype)
    }

    /// `residual + x W^T + b`
    pub fn project_onto(&self, residual: &Array, x: &Array, linear: &Linear) -> Result<Array> {
        if let Some(pool) = self.pool() {
            let mut product = Product::new(x, None, &[linear])?;
            product.addend = Some(product.input(residual)?);
            return product.node(self, pool, residual.dtype()?);
        }
        self.add(residual, &self.stock_linear(x, linear)?)
    }

    /// `silu(gate) * up` of the normalized rows' projections.
    pub fn project_gated(
        &self,
        x: &Array,
        norm: Norm<'_>,
        gate: &Linear,
        up: &Linear,
    ) -> Result<Array> {
        if let Some(pool) = self.pool() {
            let mut product = Product::new(x, Some(norm), &[gate, up])?;
            product.gate = Some(Gate::Times(kernels::Activation::Silu));
            return product.node(self, pool, x.dtype()?);
        }
        let x = self.rms_norm(x, norm.weight, norm.eps)?;
        let gate = self.stock_linear(&x, gate)?;
        let up = self.stock_linear(&x, up)?;
        self.multiply(&self.multiply(&gate, &self.sigmoid(&gate)?)?, &up)
    }

    fn stock_linear(&self, x: &Array, linear: &Linear) -> Result<Array> {
        let weight = match &linear.weight {
            Weight::Float(weight) => weight,
            Weight::Quantized(weight) => {
                return self.stock_quantized_linear(x, weight, linear.bias.as_ref());
            }
        };
        let transposed = self.transpose(weight, &[1, 0])?;
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

    fn stock_quantized_linear(
        &self,
        x: &Array,
        weight: &QuantizedWeight,
        bias: Option<&Array>,
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
                    true,
                    some(weight.group_size),
                    some(weight.bits),
                    weight.mode.name().as_ptr(),
                    self.stream().raw(),
                )
            }
        })?;
        match bias {
            Some(bias) => self.add(&product, bias),
            None => Ok(product),
        }
    }
}

/// A node to be made: which of its inputs is what.
struct Product<'a> {
    inputs: Vec<&'a Array>,
    columns: usize,
    x: Input,
    norm: Option<(Input, f32)>,
    parts: Vec<Part>,
    addend: Option<Input>,
    gate: Option<Gate>,
    width: i32,
}

/// An input of floats.
#[derive(Clone, Copy)]
struct Input {
    index: usize,
    float: Float,
}

#[derive(Clone, Copy)]
struct Part {
    matrix: PartMatrix,
    rows: usize,
    bias: Option<Input>,
}

#[derive(Clone, Copy)]
enum PartMatrix {
    Float(Input),
    /// Codes, scales and perhaps biases are the inputs from `index` on.
    Quantized {
        index: usize,
        format: Format,
    },
}

impl<'a> Product<'a> {
    fn new(x: &'a Array, norm: Option<Norm<'a>>, linears: &[&'a Linear]) -> Result<Product<'a>> {
        let mut product = Product {
            inputs: Vec::new(),
            columns: x.dim(1) as usize,
            x: Input {
                index: 0,
                float: float_of(x)?,
            },
            norm: None,
            parts: Vec::with_capacity(linears.len()),
            addend: None,
            gate: None,
            width: linears.iter().map(|linear| linear.outputs()).sum(),
        };
        product.input(x)?;
        if let Some(norm) = norm {
            product.norm = Some((product.input(norm.weight)?, norm.eps));
        }
        for linear in linears {
            let matrix = product.matrix(&linear.weight)?;
            let bias = linear.bias.as_ref();
            let bias = bias.map(|bias| product.input(bias)).transpose()?;
            let rows = linear.outputs() as usize;
            product.parts.push(Part { matrix, rows, bias });
        }
        Ok(product)
    }

    fn input(&mut self, array: &'a Array) -> Result<Input> {
        let (index, float) = (self.inputs.len(), float_of(array)?);
        self.inputs.push(array);
        Ok(Input { index, float })
    }

    fn matrix(&mut self, weight: &'a Weight) -> Result<PartMatrix> {
        let weight = match weight {
            Weight::Float(weight) => return self.input(weight).map(PartMatrix::Float),
            Weight::Quantized(weight) => weight,
        };
        let index = self.inputs.len();
        self.inputs.extend([&weight.codes, &weight.scales]);
        self.inputs.extend(&weight.biases);
        let format = format_of(weight)?;
        Ok(PartMatrix::Quantized { index, format })
    }

    fn node(self, ops: &Ops, pool: &Arc<Pool>, dtype: Dtype) -> Result<Array> {
        let width = match self.gate {
            Some(_) => self.width / 2,
            None => self.width,
        };
        let shape = [self.inputs[0].dim(0), width];
        let out_float = dtype.float()?;
        let Product {
            inputs,
            columns,
            x,
            norm,
            parts,
            addend,
            gate,
            ..
        } = self;
        let pool = pool.clone();
        kernel(ops.stream(), &inputs, &shape, dtype, move |inputs, out| {
            let floats = |input: Input| Floats::new(input.float, inputs[input.index]);
            let rows = kernels::Rows {
                values: floats(x),
                columns,
                norm: norm.map(|(weight, eps)| kernels::Norm::Rms {
                    weight: Some(floats(weight)),
                    offset: 0.0,
                    eps,
                }),
            };
            let projection = |part: &Part| kernels::Projection {
                matrix: part.matrix.of(inputs, columns),
                rows: part.rows,
                bias: part.bias.map(floats),
            };
            let projections: Vec<_> = parts.iter().map(projection).collect();
            let finish = match (addend, gate) {
                (Some(addend), _) => Finish::Add(floats(addend)),
                (None, Some(gate)) => Finish::Gated(gate),
                (None, None) => Finish::Store,
            };
            kernels::linear(&pool, &rows, &projections, finish, out, out_float);
        })
    }
}

impl PartMatrix {
    fn of<'a>(self, inputs: &[&'a [u8]], columns: usize) -> Matrix<'a> {
        match self {
            PartMatrix::Float(input) => {
                Matrix::Float(Floats::new(input.float, inputs[input.index]))
            }
            PartMatrix::Quantized { index, format } => {
                Matrix::Quantized(quantized_rows(&inputs[index..], format, columns))
            }
        }
    }
}

/// A quantized matrix whose parts come first among `inputs`.
pub(super) fn quantized_rows<'a>(
    inputs: &[&'a [u8]],
    format: Format,
    columns: usize,
) -> QuantizedRows<'a> {
    let is_affine = matches!(format, Format::Affine { .. });
    QuantizedRows {
        codes: inputs[0],
        scales: inputs[1],
        biases: is_affine.then(|| inputs[2]),
        format,
        columns,
    }
}

pub(super) fn format_of(weight: &QuantizedWeight) -> Result<Format> {
    match weight.mode {
        QuantMode::Affine => {
            let float = float_of(&weight.scales)?;
            let bias_float = weight.biases.as_ref().map(float_of).transpose()?;
            if bias_float != Some(float) {
                return Err(Error::unsupported("scales and biases of different types"));
            }
            Ok(Format::Affine {
                bits: weight.bits as usize,
                group_size: weight.group_size as usize,
                float,
            })
        }
        QuantMode::Mxfp4 => Ok(Format::Mxfp4),
        QuantMode::Mxfp8 => Ok(Format::Mxfp8),
        QuantMode::Nvfp4 => Ok(Format::Nvfp4),
    }
}

pub(super) fn float_of(array: &Array) -> Result<Float> {
    array.dtype()?.float()
}
