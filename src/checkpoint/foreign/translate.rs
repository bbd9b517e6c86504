//! The tensors of a checkpoint that another tool has quantized, by MLX's names.

mod blocks;

use std::collections::HashMap;

use super::work::{Factors, Work, Zeros};
use super::{Foreign, Scheme};
use crate::checkpoint::dtype::Dtype;
use crate::checkpoint::quantization::{Mode, QuantSpec, Quantization};
use crate::checkpoint::tensors::{TensorInfo, TensorTable};
use crate::error::{Error, Result};

/// What a checkpoint has in the end.
pub struct Translated {
    pub tensors: Vec<TensorInfo>,
    pub quantization: Quantization,
    pub foreign: Foreign,
}

/// `n_files`: the index of the memory in which tensors will be made.
pub fn translate(scheme: Scheme, table: &TensorTable, n_files: usize) -> Result<Translated> {
    let mut translation = Translation {
        table,
        n_files,
        used: HashMap::new(),
        specs: HashMap::new(),
        tensors: Vec::new(),
        foreign: Foreign::default(),
    };
    for tensor in table.as_slice() {
        translation.module_of(scheme, tensor)?;
    }
    let Translation {
        used,
        specs,
        mut tensors,
        foreign,
        ..
    } = translation;
    let unused = |tensor: &&TensorInfo| !used.contains_key(&tensor.name);
    tensors.extend(table.as_slice().iter().filter(unused).cloned());
    let default = most_common(&specs);
    let overrides = specs.into_iter().map(|(module, spec)| (module, Some(spec)));
    let overrides: HashMap<_, _> = overrides.collect();
    Ok(Translated {
        tensors,
        quantization: Quantization { default, overrides },
        foreign: Foreign {
            source_bytes: used.into_values().sum(),
            ..foreign
        },
    })
}

fn most_common(specs: &HashMap<String, QuantSpec>) -> Option<QuantSpec> {
    let mut counts: HashMap<QuantSpec, usize> = HashMap::new();
    for spec in specs.values() {
        *counts.entry(*spec).or_default() += 1;
    }
    let most = |(spec, count): &(QuantSpec, usize)| (*count, spec.bits, spec.group_size);
    counts.into_iter().max_by_key(most).map(|(spec, _)| spec)
}

struct Translation<'a> {
    table: &'a TensorTable,
    n_files: usize,
    /// Bytes of tensors that there are others for, by name; 0 where others have the
    /// same bytes.
    used: HashMap<String, usize>,
    specs: HashMap<String, QuantSpec>,
    tensors: Vec<TensorInfo>,
    foreign: Foreign,
}

impl Translation<'_> {
    /// If this is the tensor of a module's codes, the whole module.
    fn module_of(&mut self, scheme: Scheme, tensor: &TensorInfo) -> Result<()> {
        let module = |suffix: &str| tensor.name.strip_suffix(suffix).map(str::to_owned);
        match scheme {
            Scheme::Awq { group_size } => match module(".qweight") {
                Some(module) => self.awq(&module, tensor, group_size),
                None => Ok(()),
            },
            Scheme::Gptq { .. } => match module(".qweight") {
                Some(module) => self.gptq(&module, tensor, scheme),
                None => Ok(()),
            },
            Scheme::Packed { bits, is_symmetric } => match module(".weight_packed") {
                Some(module) => self.packed(&module, tensor, bits, is_symmetric),
                None => Ok(()),
            },
            Scheme::Bytes => match module(".weight") {
                Some(module) if tensor.dtype == Dtype::I8 => self.bytes(&module, tensor),
                _ => Ok(()),
            },
            Scheme::Fp8 { block } => match module(".weight") {
                Some(module) if tensor.dtype == Dtype::F8E4M3 => self.fp8(&module, tensor, block),
                _ => Ok(()),
            },
            Scheme::Blocks => {
                if let (Some(module), Some(format)) = (module(".weight"), tensor.blocks)
                    && tensor.shape.len() > 1
                {
                    self.blocks(&module, tensor, format);
                }
                Ok(())
            }
        }
    }

    fn awq(&mut self, module: &str, words: &TensorInfo, group_size: Option<usize>) -> Result<()> {
        let [inputs, packed] = matrix(words, Dtype::I32)?;
        let outputs = packed * 8;
        let groups = Groups::new(words, inputs, group_size)?;
        let scales = self.part(module, "scales", &[groups.stored, outputs])?;
        let zeros = self.part(module, "qzeros", &[groups.stored, packed])?;
        integers(&zeros)?;
        self.use_up(words);
        let codes = Work::AwqCodes {
            words: words.clone(),
        };
        self.make(module, "weight", Dtype::U32, [outputs, inputs / 8], codes);
        let factors = groups.factors(scales, true);
        self.factors(module, outputs, factors, Zeros::Awq(zeros), groups.spec(4));
        Ok(())
    }

    fn gptq(&mut self, module: &str, words: &TensorInfo, scheme: Scheme) -> Result<()> {
        let Scheme::Gptq {
            bits,
            group_size,
            is_symmetric,
            zero_offset,
        } = scheme
        else {
            unreachable!("only called for it");
        };
        let per_word = 32 / bits;
        let [packed, outputs] = matrix(words, Dtype::I32)?;
        let inputs = packed * per_word;
        let groups = Groups::new(words, inputs, group_size)?;
        let scales = self.part(module, "scales", &[groups.stored, outputs])?;
        let zeros = self.part(module, "qzeros", &[groups.stored, outputs / per_word])?;
        integers(&zeros)?;
        self.use_up(words);
        if let Some(order) = self.table.get(&format!("{module}.g_idx")) {
            self.use_up(order);
        }
        let codes = Work::TransposedWords {
            words: words.clone(),
        };
        self.make(module, "weight", Dtype::U32, [outputs, packed], codes);
        let zeros = match is_symmetric {
            true => Zeros::Middle { bits },
            false => Zeros::OfColumns {
                words: zeros,
                bits,
                offset: zero_offset,
            },
        };
        let factors = groups.factors(scales, true);
        self.factors(module, outputs, factors, zeros, groups.spec(bits));
        Ok(())
    }

    /// The codes are MLX's words already.
    fn packed(
        &mut self,
        module: &str,
        words: &TensorInfo,
        bits: usize,
        is_symmetric: bool,
    ) -> Result<()> {
        let per_word = 32 / bits;
        let [outputs, packed] = matrix(words, Dtype::I32)?;
        let inputs = packed * per_word;
        if self.table.get(&format!("{module}.weight_g_idx")).is_some() {
            return Err(Error::unsupported(format!(
                "tensor {module}.weight_g_idx says that groups are not consecutive, which this \
                 version does not read"
            )));
        }
        let scales = self.required(module, "weight_scale")?;
        let [_, stored] = floats_by_row(&scales, outputs)?;
        let groups = Groups::of_stored(words, inputs, stored)?;
        self.use_up(&scales);
        let zeros = match is_symmetric {
            true => Zeros::Middle { bits },
            false => {
                let shape = [outputs / per_word, stored];
                let zeros = self.part(module, "weight_zero_point", &shape)?;
                integers(&zeros)?;
                Zeros::OfRows { words: zeros, bits }
            }
        };
        if let Some(shape) = self.table.get(&format!("{module}.weight_shape")) {
            self.use_up(shape);
        }
        self.rename(words, format!("{module}.weight"), Dtype::U32);
        let spec = groups.spec(bits);
        if groups.stored == inputs / spec.group_size && is_symmetric {
            self.rename(&scales, format!("{module}.scales"), scales.dtype);
            let factors = groups.factors(scales.clone(), false);
            let shape = [outputs, factors.groups];
            let biases = Work::Biases { factors, zeros };
            self.make(module, "biases", scales.dtype, shape, biases);
            self.specs.insert(module.to_owned(), spec);
            return Ok(());
        }
        let factors = groups.factors(scales, false);
        self.factors(module, outputs, factors, zeros, spec);
        Ok(())
    }

    fn bytes(&mut self, module: &str, codes: &TensorInfo) -> Result<()> {
        let [outputs, inputs] = matrix(codes, Dtype::I8)?;
        let scales = self.required(module, "weight_scale")?;
        let [_, stored] = floats_by_row(&scales, outputs)?;
        let groups = Groups::of_stored(codes, inputs, stored)?;
        self.use_up(&scales);
        self.use_up(codes);
        let work = Work::SignedBytes {
            bytes: codes.clone(),
        };
        self.make(module, "weight", Dtype::U32, [outputs, inputs / 4], work);
        let zeros = Zeros::Middle { bits: 8 };
        let factors = groups.factors(scales, false);
        self.factors(module, outputs, factors, zeros, groups.spec(8));
        Ok(())
    }

    /// Floats of 8 bits become bfloat16, rounded once.
    fn fp8(&mut self, module: &str, weight: &TensorInfo, block: Option<[usize; 2]>) -> Result<()> {
        let [outputs, inputs] = matrix(weight, Dtype::F8E4M3)?;
        let names = ["weight_scale_inv", "weight_scale"];
        let found = names.map(|name| self.table.get(&format!("{module}.{name}")));
        let Some(scales) = found.into_iter().flatten().next().cloned() else {
            return Err(Error::format(format!(
                "tensor {} has no {module}.weight_scale_inv to scale it with",
                weight.name
            )));
        };
        let block = match (&scales.shape[..], block) {
            ([] | [1] | [1, 1], _) => [outputs, inputs],
            ([rows] | [rows, 1], None) if *rows == outputs => [1, inputs],
            ([rows, columns], Some([height, width]))
                if *rows == outputs.div_ceil(height) && *columns == inputs.div_ceil(width) =>
            {
                [height, width]
            }
            _ => {
                return Err(Error::format(format!(
                    "tensor {} has the shape {:?}, which does not fit to {} of {outputs} x \
                     {inputs}",
                    scales.name, scales.shape, weight.name
                )));
            }
        };
        float(&scales)?;
        for unused in ["input_scale", "activation_scale"] {
            if let Some(tensor) = self.table.get(&format!("{module}.{unused}")) {
                self.use_up(tensor);
            }
        }
        self.use_up(&scales);
        self.use_up(weight);
        let work = Work::ScaledFloats {
            weight: weight.clone(),
            scales,
            block,
        };
        self.make(module, "weight", Dtype::BF16, [outputs, inputs], work);
        Ok(())
    }

    /// Scales and biases; exact in float32 where zeros are not in the middle.
    fn factors(
        &mut self,
        module: &str,
        outputs: usize,
        factors: Factors,
        zeros: Zeros,
        spec: QuantSpec,
    ) {
        let dtype = match zeros {
            Zeros::Middle { .. } => factors.scales.dtype,
            _ => Dtype::F32,
        };
        let shape = [outputs, factors.groups];
        let scales = Work::Scales {
            factors: factors.clone(),
        };
        self.make(module, "scales", dtype, shape, scales);
        self.make(
            module,
            "biases",
            dtype,
            shape,
            Work::Biases { factors, zeros },
        );
        self.specs.insert(module.to_owned(), spec);
    }

    fn make(
        &mut self,
        module: &str,
        part: &str,
        dtype: Dtype,
        shape: impl Into<Vec<usize>>,
        work: Work,
    ) {
        let shape = shape.into();
        let tensor = TensorInfo {
            name: format!("{module}.{part}"),
            dtype,
            bytes: shape.iter().product::<usize>() * dtype.size(),
            shape,
            file: self.n_files,
            offset: 0,
            blocks: None,
        };
        let tensor = self.foreign.push(tensor, work);
        self.tensors.push(tensor);
    }

    /// The same bytes by another name.
    fn rename(&mut self, tensor: &TensorInfo, name: String, dtype: Dtype) {
        self.used.insert(tensor.name.clone(), 0);
        self.tensors.push(TensorInfo {
            name,
            dtype,
            ..tensor.clone()
        });
    }

    fn use_up(&mut self, tensor: &TensorInfo) {
        self.used.insert(tensor.name.clone(), tensor.bytes);
    }

    fn required(&self, module: &str, part: &str) -> Result<TensorInfo> {
        let name = format!("{module}.{part}");
        self.table.get(&name).cloned().ok_or_else(|| {
            Error::format(format!(
                "there is no tensor {name:?} to unpack {module} with"
            ))
        })
    }

    /// A tensor of this shape, used up.
    fn part(&mut self, module: &str, part: &str, shape: &[usize]) -> Result<TensorInfo> {
        let tensor = self.required(module, part)?;
        if tensor.shape != shape {
            return Err(Error::format(format!(
                "tensor {} has the shape {:?}; its module's weights imply {shape:?}",
                tensor.name, tensor.shape
            )));
        }
        self.use_up(&tensor);
        if part == "scales" {
            float(&tensor)?;
        }
        Ok(tensor)
    }
}

/// Groups of a module's rows, as stored and as MLX has them.
struct Groups {
    stored: usize,
    inputs: usize,
    group_size: usize,
}

impl Groups {
    /// `group_size` `None`: whole rows.
    fn new(weight: &TensorInfo, inputs: usize, group_size: Option<usize>) -> Result<Groups> {
        let size = group_size.unwrap_or(inputs);
        match size {
            0 => Groups::of_stored(weight, inputs, 0),
            size => Groups::of_stored(weight, inputs, inputs.div_ceil(size)),
        }
    }

    fn of_stored(weight: &TensorInfo, inputs: usize, stored: usize) -> Result<Groups> {
        let size = inputs.checked_div(stored).unwrap_or(0);
        let is_whole = size * stored == inputs && inputs > 0;
        let group_size = [128, 64, 32]
            .into_iter()
            .find(|group_size| is_whole && size.is_multiple_of(*group_size));
        match group_size {
            Some(group_size) => Ok(Groups {
                stored,
                inputs,
                group_size,
            }),
            None => Err(Error::unsupported(format!(
                "tensor {} has rows of {inputs} values in {stored} groups, which are no multiples \
                 of 32 values",
                weight.name
            ))),
        }
    }

    fn factors(&self, scales: TensorInfo, is_transposed: bool) -> Factors {
        Factors {
            scales,
            is_transposed,
            stored_groups: self.stored,
            groups: self.inputs / self.group_size,
        }
    }

    fn spec(&self, bits: usize) -> QuantSpec {
        QuantSpec {
            group_size: self.group_size,
            bits,
            mode: Mode::Affine,
        }
    }
}

fn matrix(tensor: &TensorInfo, dtype: Dtype) -> Result<[usize; 2]> {
    match tensor.shape[..] {
        [rows, columns] if tensor.dtype == dtype => Ok([rows, columns]),
        _ => Err(Error::unsupported(format!(
            "tensor {} is {} {:?}; expected a matrix of {dtype}",
            tensor.name, tensor.dtype, tensor.shape
        ))),
    }
}

/// `[outputs, groups]`, where one group may go without saying.
fn floats_by_row(scales: &TensorInfo, outputs: usize) -> Result<[usize; 2]> {
    float(scales)?;
    match scales.shape[..] {
        [rows] if rows == outputs => Ok([rows, 1]),
        [rows, groups] if rows == outputs => Ok([rows, groups]),
        _ => Err(Error::format(format!(
            "tensor {} has the shape {:?}; expected {outputs} rows",
            scales.name, scales.shape
        ))),
    }
}

fn float(tensor: &TensorInfo) -> Result<()> {
    match tensor.dtype {
        Dtype::F16 | Dtype::BF16 | Dtype::F32 => Ok(()),
        other => Err(Error::unsupported(format!(
            "tensor {} is stored as {other}; expected a float",
            tensor.name
        ))),
    }
}

fn integers(tensor: &TensorInfo) -> Result<()> {
    match tensor.dtype {
        Dtype::I32 => Ok(()),
        other => Err(Error::unsupported(format!(
            "tensor {} is stored as {other}; expected I32",
            tensor.name
        ))),
    }
}
