//! [`Plan`]: the tensors of a quantized checkpoint, by mlx-lm's names, and where in
//! the source their values are.

use std::collections::BTreeMap;

use super::recipe::Choice;
use super::turned::Turned;
use crate::checkpoint::{Checkpoint, Dtype, Mode, QuantSpec, TensorInfo};
use crate::decoder::{DecoderSpec, Prefix};
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

/// Consecutive bytes of a source file: whole rows.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub file: usize,
    pub start: usize,
    pub bytes: usize,
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

    pub fn source_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes).sum()
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
        let mut experts: BTreeMap<String, BTreeMap<usize, &TensorInfo>> = BTreeMap::new();
        let names = Names::new(checkpoint, spec);
        let is_transposed = spec.is_transposed(checkpoint);
        for tensor in checkpoint.tensors() {
            let Some(name) = names.kept(&tensor.name) else {
                continue;
            };
            let halves = joined(&name, tensor, spec.has_joined_rows());
            if is_transposed || (halves.is_none() && is_transposed_stack(&name, tensor)) {
                return Err(Error::unsupported(format!(
                    "{} has matrices stored by input, where the values of a row's groups are not \
                     next to each other; quantize it with mlx-lm, whose copies are read",
                    checkpoint.directory().root().display()
                )));
            }
            if let Some((stacked, index)) = expert(&name, spec.has_gates()) {
                experts.entry(stacked).or_default().insert(index, tensor);
            } else if let Some(halves) = halves {
                plan.outputs.extend(halves);
            } else {
                plan.outputs.push(whole(name, tensor));
            }
        }
        for (name, tensors) in experts {
            plan.outputs.push(stacked(name, &tensors)?);
        }
        let turned = Turned::of(spec, checkpoint);
        for output in &mut plan.outputs {
            output.is_raised = turned.raises(&output.name, &output.shape);
            output.shape = turned.shape(&output.name, &output.shape);
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

/// Matrices of experts as transformers has them.
fn is_transposed_stack(name: &str, tensor: &TensorInfo) -> bool {
    tensor.shape.len() == 3 && float_of(tensor.dtype).is_some() && !name.ends_with(WEIGHT)
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

/// Which tensors belong to the text model, and what mlx-lm calls them.
struct Names<'a> {
    spec: &'a DecoderSpec,
    prefix: Prefix,
    head: String,
}

/// As transformers and mlx-lm begin names in a model with a text model in it.
const NESTED: (&str, &str) = ("model.language_model.", "language_model.model.");

/// What rotates, which is computed.
const ROTATIONS: [&str; 2] = ["rotary_emb.inv_freq", "rope.inv_freq"];

impl<'a> Names<'a> {
    fn new(checkpoint: &Checkpoint, spec: &'a DecoderSpec) -> Names<'a> {
        let prefix = Prefix::find(checkpoint, spec);
        Names {
            spec,
            head: format!("{}lm_head.", prefix.head),
            prefix,
        }
    }

    /// `None`: the text model does not use it.
    fn kept(&self, name: &str) -> Option<String> {
        let is_nested = self.prefix.model == NESTED.0;
        if let Some(part) = name.strip_prefix(&self.head) {
            let head = match is_nested {
                true => "language_model.lm_head.",
                false => &self.head,
            };
            return (!self.spec.tied_embeddings).then(|| format!("{head}{part}"));
        }
        let rest = name.strip_prefix(self.prefix.model)?;
        if ROTATIONS.iter().any(|rotation| rest.contains(rotation)) {
            return None;
        }
        let layer = rest
            .strip_prefix("layers.")
            .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        if layer.is_some_and(|layer| layer >= self.spec.n_layers) {
            return None;
        }
        let prefix = match is_nested {
            true => NESTED.1,
            false => self.prefix.model,
        };
        Some(format!("{prefix}{rest}"))
    }
}

fn whole(name: String, tensor: &TensorInfo) -> Output {
    Output {
        name,
        is_raised: false,
        shape: tensor.shape.clone(),
        dtype: tensor.dtype,
        parts: vec![Part {
            file: tensor.file,
            start: tensor.offset,
            bytes: tensor.bytes,
        }],
        form: Form::Same,
    }
}

/// Of a tensor of one of several experts: the name of their stack, and its number.
fn expert(name: &str, has_gates: bool) -> Option<(String, usize)> {
    let (before, rest) = name.split_once(".experts.")?;
    let mut parts = rest.splitn(3, '.');
    let index = parts.next()?.parse().ok()?;
    let (linear, kind) = (parts.next()?, parts.next()?);
    let linear = match linear {
        "up_proj" if !has_gates => "fc1",
        "down_proj" if !has_gates => "fc2",
        "w1" => "gate_proj",
        "w2" => "down_proj",
        "w3" => "up_proj",
        other => other,
    };
    Some((format!("{before}.switch_mlp.{linear}.{kind}"), index))
}

fn stacked(name: String, tensors: &BTreeMap<usize, &TensorInfo>) -> Result<Output> {
    let first = tensors.values().next().expect("a stack of something");
    let is_alike = |(index, (number, tensor)): (usize, (&usize, &&TensorInfo))| {
        index == *number && tensor.shape == first.shape && tensor.dtype == first.dtype
    };
    if !tensors.iter().enumerate().all(is_alike) {
        return Err(Error::format(format!(
            "the experts of {name} are not numbered from 0 on, or differ in shape or type"
        )));
    }
    let mut shape = vec![tensors.len()];
    shape.extend(&first.shape);
    let part = |tensor: &&TensorInfo| Part {
        file: tensor.file,
        start: tensor.offset,
        bytes: tensor.bytes,
    };
    Ok(Output {
        name,
        shape,
        dtype: first.dtype,
        parts: tensors.values().map(part).collect(),
        is_raised: false,
        form: Form::Same,
    })
}

/// Experts whose gate and up are halves of one matrix, apart. Where names have no suffix,
/// the matrix is by output only if `has_rows` says so.
fn joined(name: &str, tensor: &TensorInfo, has_rows: bool) -> Option<Vec<Output>> {
    let [n, rows, _] = tensor.shape[..] else {
        return None;
    };
    let module_of = |suffix, bare| match name.strip_suffix(suffix) {
        None if has_rows => name.strip_suffix(bare),
        found => found,
    };
    if let Some(module) = module_of(".output_linear.weight", ".experts.down_proj") {
        let name = format!("{module}.switch_mlp.down_proj.weight");
        return Some(vec![whole(name, tensor)]);
    }
    let module = module_of(".input_linear.weight", ".experts.gate_up_proj")?;
    if n == 0 || !rows.is_multiple_of(2) {
        return None;
    }
    let half = tensor.bytes / n / 2;
    let of = |linear: &str, first: usize| {
        let name = format!("{module}.switch_mlp.{linear}.weight");
        let parts = (0..n).map(|expert| Part {
            file: tensor.file,
            start: tensor.offset + (2 * expert + first) * half,
            bytes: half,
        });
        let mut output = whole(name, tensor);
        output.shape[1] = rows / 2;
        output.parts = parts.collect();
        output
    };
    Some(vec![of("gate_proj", 0), of("up_proj", 1)])
}

fn float_of(dtype: Dtype) -> Option<Float> {
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
mod tests {
    use super::*;

    #[test]
    fn experts_are_stacked_by_mlx_lms_names() {
        let found = expert("model.layers.3.block_sparse_moe.experts.12.w2.weight", true);
        let name = "model.layers.3.block_sparse_moe.switch_mlp.down_proj.weight";
        assert_eq!(found, Some((name.to_owned(), 12)));
        let found = expert("model.layers.0.mlp.experts.0.gate_proj.weight", true);
        let name = "model.layers.0.mlp.switch_mlp.gate_proj.weight";
        assert_eq!(found, Some((name.to_owned(), 0)));
        let found = expert("backbone.layers.1.mixer.experts.2.up_proj.weight", false);
        let name = "backbone.layers.1.mixer.switch_mlp.fc1.weight";
        assert_eq!(found, Some((name.to_owned(), 2)));
        for other in [
            "mlp.experts.gate_up_proj",
            "mlp.shared_experts.up_proj.weight",
        ] {
            assert_eq!(expert(other, true), None, "{other}");
        }
    }

    fn tensor(shape: &[usize]) -> TensorInfo {
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
    fn halves_of_joined_experts_are_the_rows_of_gate_and_up() {
        let tensor = tensor(&[2, 6, 8]);
        let halves = joined("m.input_linear.weight", &tensor, false).unwrap();
        let starts =
            |output: &Output| -> Vec<_> { output.parts.iter().map(|part| part.start).collect() };
        assert_eq!(halves[0].name, "m.switch_mlp.gate_proj.weight");
        assert_eq!(halves[0].shape, [2, 3, 8]);
        assert_eq!(starts(&halves[0]), [100, 196]);
        assert_eq!(starts(&halves[1]), [148, 244]);
        assert!(joined("m.input_linear.weight", &self::tensor(&[6, 8]), false).is_none());
    }

    #[test]
    fn a_missing_expert_is_an_error() {
        let tensor = tensor(&[4, 8]);
        let tensors = BTreeMap::from([(0, &tensor), (2, &tensor)]);
        assert!(stacked("s".to_owned(), &tensors).is_err());
        let tensors = BTreeMap::from([(0, &tensor), (1, &tensor)]);
        assert_eq!(stacked("s".to_owned(), &tensors).unwrap().shape, [2, 4, 8]);
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
