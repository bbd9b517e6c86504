//! [`Inputs`]: the arrays that a kernel's node reads, and what each of them is.

use super::array::Array;
use super::norms::{Norm, NormKind};
use super::projections::{Linear, Weight};
use super::quantized::{QuantMode, QuantizedWeight};
use crate::error::{Error, Result};
use crate::kernels::{self, Columns, Float, Floats, Format, Matrix, QuantizedRows};

/// Collects a node's inputs.
#[derive(Default)]
pub(super) struct Inputs<'a>(Vec<&'a Array>);

/// An input of floats.
#[derive(Clone, Copy)]
pub(super) struct Input {
    index: usize,
    float: Float,
}

/// A norm among the inputs.
#[derive(Clone, Copy)]
pub(super) struct NormInput {
    kind: NormKind,
    weight: Option<Input>,
    bias: Option<Input>,
    eps: f32,
}

/// A projection among the inputs.
#[derive(Clone, Copy)]
pub(super) struct LinearInput {
    matrix: MatrixInput,
    rows: usize,
    columns: usize,
    bias: Option<Input>,
}

/// A matrix among the inputs.
#[derive(Clone, Copy)]
pub(super) enum MatrixInput {
    Float(Input),
    /// By column, `stride` elements from one to the next; `first` of them are in front of
    /// the matrix's own.
    Columns {
        input: Input,
        stride: usize,
        first: usize,
    },
    /// Codes, scales and perhaps biases, or blocks alone, are the inputs from `index` on.
    Quantized {
        index: usize,
        format: Format,
    },
}

impl<'a> Inputs<'a> {
    pub fn as_slice(&self) -> &[&'a Array] {
        &self.0
    }

    pub fn floats(&mut self, array: &'a Array) -> Result<Input> {
        let (index, float) = (self.0.len(), float_of(array)?);
        self.0.push(array);
        Ok(Input { index, float })
    }

    pub fn norm(&mut self, norm: Norm<'a>) -> Result<NormInput> {
        Ok(NormInput {
            kind: norm.kind,
            weight: norm.weight.map(|weight| self.floats(weight)).transpose()?,
            bias: norm.bias.map(|bias| self.floats(bias)).transpose()?,
            eps: norm.eps,
        })
    }

    pub fn linear(&mut self, linear: &'a Linear, columns: usize) -> Result<LinearInput> {
        let matrix = self.matrix(&linear.weight)?;
        let bias = linear.bias.as_ref();
        Ok(LinearInput {
            matrix,
            rows: linear.outputs() as usize,
            columns,
            bias: bias.map(|bias| self.floats(bias)).transpose()?,
        })
    }

    pub fn matrix(&mut self, weight: &'a Weight) -> Result<MatrixInput> {
        let weight = match weight {
            Weight::Float(weight) => return self.floats(weight).map(MatrixInput::Float),
            Weight::Quantized(weight) => weight,
            Weight::Transposed(weight) => {
                return Ok(MatrixInput::Columns {
                    input: self.floats(&weight.values)?,
                    stride: weight.stride(),
                    first: weight.outputs.start,
                });
            }
            Weight::Blocks(weight) => {
                let index = self.0.len();
                self.0.push(&weight.bytes);
                let format = Format::Blocks(weight.format);
                return Ok(MatrixInput::Quantized { index, format });
            }
        };
        let index = self.0.len();
        self.0.extend([&weight.codes, &weight.scales]);
        self.0.extend(&weight.biases);
        let format = format_of(weight)?;
        Ok(MatrixInput::Quantized { index, format })
    }
}

impl Input {
    pub fn of<'a>(self, inputs: &[&'a [u8]]) -> Floats<'a> {
        Floats::new(self.float, inputs[self.index])
    }
}

impl NormInput {
    pub fn of<'a>(self, inputs: &[&'a [u8]]) -> kernels::Norm<'a> {
        let bias = self.bias.map(|bias| bias.of(inputs));
        let weight = self.weight.map(|weight| weight.of(inputs));
        self.kind.kernel(weight, bias, self.eps)
    }
}

impl MatrixInput {
    pub fn of<'a>(self, inputs: &[&'a [u8]], columns: usize) -> Matrix<'a> {
        match self {
            MatrixInput::Float(input) => Matrix::Float(input.of(inputs)),
            MatrixInput::Columns {
                input,
                stride,
                first,
            } => Matrix::Columns(Columns::new(input.of(inputs), stride, first)),
            MatrixInput::Quantized { index, format } => {
                Matrix::Quantized(quantized_rows(&inputs[index..], format, columns))
            }
        }
    }
}

impl LinearInput {
    pub fn of<'a>(self, inputs: &[&'a [u8]]) -> kernels::Projection<'a> {
        kernels::Projection {
            matrix: self.matrix.of(inputs, self.columns),
            rows: self.rows,
            bias: self.bias.map(|bias| bias.of(inputs)),
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
    let is_blocks = matches!(format, Format::Blocks(_));
    QuantizedRows {
        codes: inputs[0],
        scales: if is_blocks { &[] } else { inputs[1] },
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
