//! [`Plan`]: the tensors of a quantized checkpoint, by mlx-lm's names, and where in
//! the source their values are.

use std::collections::BTreeMap;

use super::apart::Apart;
use super::experts::{Experts, stacked};
use super::names::Names;
use super::recipe::Choice;
use super::turned::Turned;
use crate::checkpoint::{Checkpoint, Dtype, Mode, QuantSpec, TensorInfo};
use crate::decoder::DecoderSpec;
use crate::error::{Error, Result};
use crate::kernels::Float;

pub struct Plan {
    pub outputs: Vec<Output>,
}

/// A tensor of the source, or several that become one, or a part of one.
pub struct Output {
    pub name: String,
    pub shape: Vec<usize>,
    /// Of the source's elements.
    pub dtype: Dtype,
    pub parts: Vec<Part>,
    /// A 1 is added to its values.
    pub is_raised: bool,
    pub form: Form,
}

/// Rows whose values lie in even steps in a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub file: usize,
    /// Of the first value, in bytes.
    pub start: usize,
    pub n_rows: usize,
    /// Elements from one row to the next, and from one value of a row to the next.
    pub row_step: usize,
    pub column_step: usize,
}

impl Part {
    /// A tensor's values in their order, as rows of this shape.
    pub fn all_of(tensor: &TensorInfo, shape: &[usize]) -> Part {
        let columns = shape.last().copied().unwrap_or(1);
        let elements: usize = shape.iter().product();
        let n_rows = elements.checked_div(columns).unwrap_or(0);
        Part::rows(tensor, 0, n_rows, columns)
    }

    /// Rows of a matrix that are stored one behind the other.
    pub fn rows(tensor: &TensorInfo, first: usize, n_rows: usize, columns: usize) -> Part {
        Part {
            file: tensor.file,
            start: tensor.offset + first * columns * tensor.dtype.size(),
            n_rows,
            row_step: columns,
            column_step: 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    Same,
    Cast {
        from: Float,
        to: Float,
    },
    /// With a 1 added in the source's type.
    Raised {
        from: Float,
        to: Float,
    },
    Quantized {
        from: Float,
        /// In which the values are quantized, and of scales and biases.
        float: Float,
        spec: QuantSpec,
    },
}

/// A tensor as it will be in the file.
#[derive(Clone, Debug)]
pub struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Stored {
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

impl Output {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Of a row in the source.
    pub fn row_bytes(&self) -> usize {
        self.columns() * self.dtype.size()
    }

    pub fn source_bytes(&self) -> usize {
        let n_rows: usize = self.parts.iter().map(|part| part.n_rows).sum();
        n_rows * self.row_bytes()
    }

    /// The module, without the `.weight`.
    pub fn module(&self) -> &str {
        self.name.strip_suffix(WEIGHT).unwrap_or(&self.name)
    }

    pub fn quantized(&self) -> Option<QuantSpec> {
        match self.form {
            Form::Quantized { spec, .. } => Some(spec),
            Form::Same | Form::Cast { .. } | Form::Raised { .. } => None,
        }
    }

    /// Itself; or codes, scales and perhaps biases.
    pub fn stored(&self) -> Vec<Stored> {
        let of = |name: String, dtype, columns| {
            let mut shape = self.shape.clone();
            if let Some(last) = shape.last_mut() {
                *last = columns;
            }
            Stored { name, dtype, shape }
        };
        let columns = self.columns();
        let Form::Quantized { float, spec, .. } = self.form else {
            let dtype = match self.form {
                Form::Cast { to, .. } | Form::Raised { to, .. } => dtype_of(to),
                _ => self.dtype,
            };
            return vec![of(self.name.clone(), dtype, columns)];
        };
        let named = |suffix: &str| format!("{}.{suffix}", self.module());
        let groups = columns / spec.group_size;
        let is_affine = spec.mode == Mode::Affine;
        let scales = if is_affine {
            dtype_of(float)
        } else {
            Dtype::U8
        };
        let mut stored = vec![
            of(named("weight"), Dtype::U32, columns * spec.bits / 32),
            of(named("scales"), scales, groups),
        ];
        if is_affine {
            stored.push(of(named("biases"), scales, groups));
        }
        stored
    }
}

const WEIGHT: &str = ".weight";

impl Plan {
    pub fn new(checkpoint: &Checkpoint, spec: &DecoderSpec, choice: &Choice) -> Result<Plan> {
        let mut plan = Plan {
            outputs: Vec::new(),
        };
        let mut separate: BTreeMap<String, BTreeMap<usize, &TensorInfo>> = BTreeMap::new();
        let names = Names::new(checkpoint, spec);
        let experts = spec.experts().map(Experts::of);
        let is_transposed = spec.is_transposed(checkpoint);
        let turned = Turned::of(spec, checkpoint);
        let apart = Apart::of(spec);
        for tensor in checkpoint.tensors() {
            let Some(name) = names.kept(&tensor.name) else {
                continue;
            };
            let one = experts.as_ref().and_then(|experts| experts.one(&name));
            let joined = || experts.as_ref()?.joined(&name, tensor);
            if let Some((stacked, index)) = one {
                separate.entry(stacked).or_default().insert(index, tensor);
            } else if let Some(outputs) = joined().or_else(|| apart.outputs(&name, tensor)) {
                plan.outputs.extend(outputs);
            } else if is_transposed && is_matrix(tensor) && names.is_of_layer(&tensor.name) {
                plan.outputs.push(transposed(name, tensor));
            } else {
                let shape = turned.shape(&name, &tensor.shape);
                plan.outputs.push(of_shape(name, tensor, shape));
            }
        }
        for (name, tensors) in separate {
            plan.outputs.push(stacked(name, &tensors)?);
        }
        for output in &mut plan.outputs {
            output.is_raised = turned.raises(&output.name, &output.shape);
            output.form = form(output, choice);
        }
        if plan.outputs.iter().all(|out| out.quantized().is_none()) {
            return Err(Error::unsupported(format!(
                "no row of a weight matrix divides into groups of {}, so nothing would be \
                 quantized",
                choice.default.group_size
            )));
        }
        Ok(plan)
    }

    pub fn source_bytes(&self) -> usize {
        self.outputs.iter().map(Output::source_bytes).sum()
    }
}

fn form(output: &Output, choice: &Choice) -> Form {
    let Some(from) = float_of(output.dtype) else {
        return Form::Same;
    };
    let to = choice.float_of(&output.name).unwrap_or(from);
    let is_matrix = output.shape.len() > 1 && output.name.ends_with(WEIGHT);
    let spec = is_matrix.then(|| choice.of_module(output.module(), output.columns()));
    match spec.flatten() {
        Some(spec) => Form::Quantized {
            from,
            float: to,
            spec,
        },
        None if output.is_raised => Form::Raised { from, to },
        None if from == to => Form::Same,
        None => Form::Cast { from, to },
    }
}

pub fn is_matrix(tensor: &TensorInfo) -> bool {
    tensor.shape.len() == 2 && float_of(tensor.dtype).is_some()
}

/// All of a tensor, in its order.
pub fn whole(name: String, tensor: &TensorInfo) -> Output {
    of_shape(name, tensor, tensor.shape.clone())
}

fn of_shape(name: String, tensor: &TensorInfo, shape: Vec<usize>) -> Output {
    Output {
        name,
        is_raised: false,
        parts: vec![Part::all_of(tensor, &shape)],
        shape,
        dtype: tensor.dtype,
        form: Form::Same,
    }
}

/// A matrix that is stored by input.
fn transposed(name: String, tensor: &TensorInfo) -> Output {
    let mut output = whole(name, tensor);
    output.shape.reverse();
    output.parts[0] = Part {
        n_rows: output.shape[0],
        row_step: 1,
        column_step: output.shape[0],
        ..output.parts[0]
    };
    output
}

pub fn float_of(dtype: Dtype) -> Option<Float> {
    match dtype {
        Dtype::F32 => Some(Float::F32),
        Dtype::F16 => Some(Float::F16),
        Dtype::BF16 => Some(Float::Bf16),
        _ => None,
    }
}

fn dtype_of(float: Float) -> Dtype {
    match float {
        Float::F32 => Dtype::F32,
        Float::F16 => Dtype::F16,
        Float::Bf16 => Dtype::BF16,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Of bfloat16, behind 100 bytes.
    pub fn tensor(shape: &[usize]) -> TensorInfo {
        TensorInfo {
            name: "x".to_owned(),
            dtype: Dtype::BF16,
            shape: shape.to_vec(),
            file: 0,
            offset: 100,
            bytes: shape.iter().product::<usize>() * 2,
            blocks: None,
        }
    }

    #[test]
    fn a_matrix_by_input_becomes_one_by_output() {
        let turned = transposed("a.weight".to_owned(), &tensor(&[3, 5]));
        assert_eq!((&turned.shape[..], turned.row_bytes()), (&[5, 3][..], 6));
        let Part {
            n_rows,
            row_step,
            column_step,
            start,
            ..
        } = turned.parts[0];
        assert_eq!((start, n_rows, row_step, column_step), (100, 5, 1, 5));
    }

    #[test]
    fn quantized_tensors_are_stored_as_codes_scales_and_biases() {
        let mut output = whole("a.weight".to_owned(), &tensor(&[4, 64]));
        let mut stored = |mode, bits| {
            output.form = Form::Quantized {
                from: Float::Bf16,
                float: Float::F16,
                spec: QuantSpec::new(mode, Some(32), Some(bits)).unwrap(),
            };
            let stored = output.stored().into_iter();
            let facts = stored.map(|s| (s.name, s.dtype, s.shape[1]));
            facts.collect::<Vec<_>>()
        };
        assert_eq!(
            stored(Mode::Affine, 3),
            [
                ("a.weight".to_owned(), Dtype::U32, 6),
                ("a.scales".to_owned(), Dtype::F16, 2),
                ("a.biases".to_owned(), Dtype::F16, 2),
            ]
        );
        assert_eq!(stored(Mode::Mxfp8, 8).len(), 2);
    }
}
