//! Matrix products by our own kernels, as nodes of MLX's graph.

use std::sync::Arc;

use super::array::{Array, Dtype};
use super::ops::QuantizedWeight;
use super::primitive::kernel;
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::kernels::{self, Activations, Float, Matrix, Pool};

/// `x W^T + bias` for `W` `[rows, columns]` of floats.
pub(super) fn float_product(
    stream: &Stream,
    pool: &Arc<Pool>,
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
) -> Result<Array> {
    let float = float_of(weight)?;
    product(
        stream,
        pool,
        x,
        weight.dim(0),
        bias,
        &[weight],
        move |parts| Matrix::Float {
            weights: parts[0],
            float,
        },
    )
}

/// `x W^T + bias` for a quantized `W`.
pub(super) fn affine_product(
    stream: &Stream,
    pool: &Arc<Pool>,
    x: &Array,
    weight: &QuantizedWeight,
    bias: Option<&Array>,
) -> Result<Array> {
    let float = float_of(&weight.scales)?;
    if float_of(&weight.biases)? != float {
        return Err(Error::unsupported("scales and biases of different types"));
    }
    let (group_size, bits) = (weight.group_size as usize, weight.bits as usize);
    let parts = [&weight.codes, &weight.scales, &weight.biases];
    product(
        stream,
        pool,
        x,
        weight.codes.dim(0),
        bias,
        &parts,
        move |parts| Matrix::Affine {
            codes: parts[0],
            scales: parts[1],
            biases: parts[2],
            float,
            group_size,
            bits,
        },
    )
}

/// `weights` are the parts from which `matrix` is made again when it runs.
fn product(
    stream: &Stream,
    pool: &Arc<Pool>,
    x: &Array,
    rows: i32,
    bias: Option<&Array>,
    weights: &[&Array],
    matrix: impl for<'a> Fn(&[&'a [u8]]) -> Matrix<'a> + Send + Sync + 'static,
) -> Result<Array> {
    let x_float = float_of(x)?;
    let columns = x.dim(1) as usize;
    let bias_float = bias.map(float_of).transpose()?;
    let n_weights = weights.len();
    let mut inputs = vec![x];
    inputs.extend_from_slice(weights);
    inputs.extend(bias);
    let pool = pool.clone();
    kernel(stream, &inputs, &[x.dim(0), rows], x, move |inputs, out| {
        let values = widened(inputs[0], x_float);
        let x = Activations {
            values: &values,
            columns,
        };
        let matrix = matrix(&inputs[1..=n_weights]);
        let bias = bias_float.map(|float| (inputs[1 + n_weights], float));
        kernels::linear(&pool, &x, &matrix, bias, rows as usize, out, x_float);
    })
}

fn widened(bytes: &[u8], float: Float) -> Vec<f32> {
    (0..bytes.len() / float.bytes())
        .map(|index| float.get(bytes, index))
        .collect()
}

fn float_of(array: &Array) -> Result<Float> {
    match array.dtype()? {
        Dtype::F32 => Ok(Float::F32),
        Dtype::F16 => Ok(Float::F16),
        Dtype::Bf16 => Ok(Float::Bf16),
        other => Err(Error::internal(format!("{other:?} values in a product"))),
    }
}
