//! [`Loader`]: tensors by name, checked and mapped in place.

use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::{self, Checkpoint, Mode, QuantSpec, TensorInfo};
use crate::error::{Error, Result};
use crate::kernels::{BlockFormat, Floats};
use crate::mlx::{
    Array, BlockWeight, CpuOps, Dtype, Linear, MappedArrays, QuantMode, QuantizedWeight, Stream,
    TensorView, TransposedWeight, Weight,
};

pub const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::Bf16];

pub struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    uses_kernels: bool,
    owner: Arc<dyn std::any::Any + Send + Sync>,
    arrays: MappedArrays<'a>,
    mapped_bytes: usize,
}

/// Where a matrix `[outputs, inputs]` is: in which module, and what that module
/// has.
#[derive(Clone)]
pub struct Place<'a> {
    pub module: &'a str,
    /// Matrices of the module, if it has another dimension for them.
    n_stacked: Option<usize>,
    /// Rows of the module's matrix.
    n_rows: usize,
    /// Those among them that are wanted; `None`: all.
    rows: Option<Range<usize>>,
    columns: usize,
}

impl<'a> Place<'a> {
    pub fn whole(module: &'a str, [n_rows, columns]: [usize; 2]) -> Place<'a> {
        Place {
            module,
            n_stacked: None,
            n_rows,
            rows: None,
            columns,
        }
    }

    /// Some rows of a matrix that has others too.
    pub fn part(module: &'a str, shape: [usize; 2], rows: Range<usize>) -> Place<'a> {
        Place {
            rows: Some(rows),
            ..Place::whole(module, shape)
        }
    }

    /// Several matrices in one tensor.
    pub fn stacked(module: &'a str, n: usize, shape: [usize; 2]) -> Place<'a> {
        Place {
            n_stacked: Some(n),
            ..Place::whole(module, shape)
        }
    }

    /// The shape of a tensor with `columns` per row.
    fn stored(&self, columns: Option<usize>) -> Vec<usize> {
        let rows = std::iter::once(self.n_rows);
        self.n_stacked
            .into_iter()
            .chain(rows)
            .chain(columns)
            .collect()
    }
}

impl<'a> Loader<'a> {
    /// For computing on the stream's device, by our kernels if `cpu_ops` says so.
    pub fn new(checkpoint: &'a Arc<Checkpoint>, stream: &'a Stream, cpu_ops: CpuOps) -> Loader<'a> {
        Loader {
            checkpoint,
            uses_kernels: cpu_ops.are_kernels(stream.device()),
            owner: checkpoint.clone(),
            arrays: MappedArrays::new(stream),
            mapped_bytes: 0,
        }
    }

    /// Bytes of tensors that are used where their file is mapped.
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// Bytes of tensors that could not be used where they lie.
    pub fn copied_bytes(&self) -> usize {
        self.arrays.copied_bytes()
    }

    pub fn has_module(&self, module: &str) -> bool {
        let name = format!("{module}.weight");
        self.checkpoint.tensor(&name).is_some()
    }

    pub fn has_blocks(&self, module: &str) -> bool {
        let name = format!("{module}_blocks");
        self.checkpoint.tensor(&name).is_some()
    }

    pub fn has_tensor(&self, name: &str) -> bool {
        self.checkpoint.tensor(name).is_some()
    }

    /// `n` matrices as transformers has experts: by input, in a tensor without a suffix.
    pub fn transposed_stack(
        &mut self,
        name: &str,
        n: usize,
        [outputs, inputs]: [usize; 2],
        bias: bool,
    ) -> Result<Linear> {
        let values = self.of_type(name, &[n, inputs, outputs], None, FLOATS)?;
        let bias_name = format!("{name}_bias");
        let bias = bias.then(|| self.of_type(&bias_name, &[n, outputs], None, FLOATS));
        Ok(Linear {
            weight: Weight::Transposed(TransposedWeight {
                values,
                outputs: 0..outputs,
            }),
            bias: bias.transpose()?,
        })
    }

    /// `n` matrices in a tensor without a suffix.
    pub fn bare_stack(&mut self, name: &str, n: usize, shape: [usize; 2]) -> Result<Linear> {
        let values = self.of_type(name, &[n, shape[0], shape[1]], None, FLOATS)?;
        Ok(Linear {
            weight: Weight::Float(values),
            bias: None,
        })
    }

    /// `n` matrices as OpenAI publishes them: mxfp4 in blocks of 32 codes, whose
    /// bytes are those of MLX's words.
    pub fn mxfp4_blocks(&mut self, module: &str, n: usize, shape: [usize; 2]) -> Result<Linear> {
        const BLOCK: usize = 32;
        let [rows, columns] = shape;
        let n_blocks = columns.div_ceil(BLOCK);
        let name = |suffix: &str| format!("{module}_{suffix}");
        let stored = [n, rows, n_blocks, BLOCK / 2];
        let (blocks, _) = self.checked(&name("blocks"), &stored, &[Dtype::U8])?;
        let words = [n, rows, n_blocks * BLOCK / 8];
        let groups = [n, rows, n_blocks];
        Ok(Linear {
            weight: Weight::Quantized(QuantizedWeight {
                codes: self.array(blocks, blocks.offset, &words, Dtype::U32)?,
                scales: self.of_type(&name("scales"), &groups, None, &[Dtype::U8])?,
                biases: None,
                mode: QuantMode::Mxfp4,
                group_size: BLOCK as i32,
                bits: 4,
            }),
            bias: Some(self.of_type(&name("bias"), &[n, rows], None, FLOATS)?),
        })
    }

    /// Matrices of the same inputs that are stored as one, `[inputs, all outputs]`.
    pub fn transposed<const N: usize>(
        &mut self,
        module: &str,
        outputs: [usize; N],
        inputs: usize,
        bias: bool,
    ) -> Result<[Linear; N]> {
        let total: usize = outputs.iter().sum();
        let (weight, bias_name) = (format!("{module}.weight"), format!("{module}.bias"));
        let values = self.of_type(&weight, &[inputs, total], None, FLOATS)?;
        let mut first = 0;
        let mut linears = Vec::with_capacity(N);
        for n in outputs {
            let own = first..first + n;
            first += n;
            let bias = bias.then(|| {
                let rows = Some(own.clone());
                self.of_type(&bias_name, &[total], rows, FLOATS)
            });
            linears.push(Linear {
                bias: bias.transpose()?,
                weight: Weight::Transposed(TransposedWeight {
                    values: values.clone(),
                    outputs: own,
                }),
            });
        }
        Ok(linears
            .try_into()
            .unwrap_or_else(|_| unreachable!("N were made")))
    }

    pub fn matrix(&mut self, place: &Place<'_>, bias: bool) -> Result<Linear> {
        let module = place.module;
        let scales = format!("{module}.scales");
        let has_scales = self.checkpoint.tensor(&scales).is_some();
        let quantization = self.checkpoint.quantization();
        let name = format!("{module}.weight");
        let blocks = self.checkpoint.tensor(&name).and_then(|t| t.blocks);
        let weight = match (quantization.spec_for(module, has_scales), blocks) {
            (Some(quant), _) => Weight::Quantized(self.quantized(place, quant)?),
            (None, Some(blocks)) => self.blocks(place, blocks)?,
            (None, None) => Weight::Float(self.dense(place)?),
        };
        let bias = bias.then(|| {
            let name = format!("{module}.bias");
            self.of_type(&name, &place.stored(None), place.rows.clone(), FLOATS)
        });
        Ok(Linear {
            weight,
            bias: bias.transpose()?,
        })
    }

    pub fn vector(&mut self, name: &str, length: usize) -> Result<Array> {
        self.of_type(name, &[length], None, FLOATS)
    }

    /// A vector that may be stored as the only row of a matrix.
    pub fn row(&mut self, name: &str, length: usize) -> Result<Array> {
        let is_row = self.checkpoint.required(name)?.shape == [1, length];
        if !is_row {
            return self.vector(name, length);
        }
        let (tensor, dtype) = self.checked(name, &[1, length], FLOATS)?;
        self.array(tensor, tensor.offset, &[length], dtype)
    }

    /// The weights of convolutions of single channels, `[channels, taps]`: publishers have a
    /// dimension between them, mlx-lm behind them.
    pub fn taps(&mut self, name: &str, [channels, taps]: [usize; 2]) -> Result<Array> {
        let (tensor, dtype) = self.checked_taps(name, [channels, taps])?;
        self.array(tensor, tensor.offset, &[channels, taps], dtype)
    }

    fn checked_taps(
        &self,
        name: &str,
        [channels, taps]: [usize; 2],
    ) -> Result<(&'a TensorInfo, Dtype)> {
        let is_behind = self.checkpoint.required(name)?.shape.last() == Some(&1);
        let stored = match is_behind {
            true => [channels, taps, 1],
            false => [channels, 1, taps],
        };
        self.checked(name, &stored, FLOATS)
    }

    /// The same, each channel's times a factor.
    pub fn scaled_taps(&mut self, name: &str, n_taps: usize, factors: &[f32]) -> Result<Array> {
        let shape = [factors.len(), n_taps];
        let (tensor, dtype) = self.checked_taps(name, shape)?;
        let stored = Floats::new(dtype.float()?, self.checkpoint.tensor_bytes(tensor));
        let value = |index: usize| stored.get(index) * factors[index / n_taps];
        let values: Vec<f32> = (0..stored.len()).map(value).collect();
        Array::from_f32(&values, &shape.map(|length| length as i32))
    }

    /// Those of several tensors, one after the other, as float32.
    pub fn joined_taps(&mut self, parts: &[(&str, usize)], n_taps: usize) -> Result<Array> {
        let mut values = Vec::new();
        for (name, channels) in parts {
            let (tensor, dtype) = self.checked_taps(name, [*channels, n_taps])?;
            let stored = Floats::new(dtype.float()?, self.checkpoint.tensor_bytes(tensor));
            values.extend(stored.to_vec());
        }
        let n_channels = values.len() / n_taps;
        Array::from_f32(&values, &[n_channels as i32, n_taps as i32])
    }

    /// The only number of a tensor.
    pub fn scalar(&mut self, name: &str) -> Result<f32> {
        let stored = self.checkpoint.required(name)?.shape.clone();
        if stored.iter().product::<usize>() != 1 {
            return Err(Error::format(format!(
                "tensor {name} has the shape {stored:?}; it should have a single number"
            )));
        }
        let (tensor, dtype) = self.checked(name, &stored, FLOATS)?;
        self.mapped_bytes += tensor.bytes;
        Ok(dtype.float()?.get(self.checkpoint.tensor_bytes(tensor), 0))
    }

    fn dense(&mut self, place: &Place<'_>) -> Result<Array> {
        let module = place.module;
        let name = format!("{module}.weight");
        self.checkpoint.ensure_not_packed(module)?;
        let stored = place.stored(Some(place.columns));
        self.of_type(&name, &stored, place.rows.clone(), FLOATS)
    }

    fn blocks(&mut self, place: &Place<'_>, format: BlockFormat) -> Result<Weight> {
        let name = format!("{}.weight", place.module);
        if !place.columns.is_multiple_of(format.values()) {
            return Err(Error::format(format!(
                "tensor {name} should have rows of {} values, which are no whole {format} blocks",
                place.columns
            )));
        }
        let row_bytes = place.columns / format.values() * format.bytes();
        let stored = place.stored(Some(row_bytes));
        let bytes = self.of_type(&name, &stored, place.rows.clone(), &[Dtype::U8])?;
        if !self.uses_kernels {
            return Err(Error::internal(format!(
                "tensor {name} is still in {format} blocks where MLX computes"
            )));
        }
        Ok(Weight::Blocks(BlockWeight { bytes, format }))
    }

    fn quantized(&mut self, place: &Place<'_>, quant: QuantSpec) -> Result<QuantizedWeight> {
        let (module, columns) = (place.module, place.columns);
        if !columns.is_multiple_of(quant.group_size) {
            return Err(Error::format(format!(
                "{module} has rows of {columns} values, which do not divide into quantization \
                 groups of {}",
                quant.group_size
            )));
        }
        let groups = place.stored(Some(columns / quant.group_size));
        let codes = place.stored(Some(columns * quant.bits / 32));
        let is_affine = quant.mode == Mode::Affine;
        let scale_types = if is_affine { FLOATS } else { &[Dtype::U8] };
        let mut part = |suffix: &str, stored: &[usize], types: &[Dtype]| {
            let name = format!("{module}.{suffix}");
            self.check_quantized_part(&name, types, quant)?;
            self.of_type(&name, stored, place.rows.clone(), types)
        };
        Ok(QuantizedWeight {
            codes: part("weight", &codes, &[Dtype::U32])?,
            scales: part("scales", &groups, scale_types)?,
            biases: is_affine
                .then(|| part("biases", &groups, FLOATS))
                .transpose()?,
            mode: mlx_mode(quant.mode),
            group_size: quant.group_size as i32,
            bits: quant.bits as i32,
        })
    }

    fn check_quantized_part(&self, name: &str, types: &[Dtype], quant: QuantSpec) -> Result<()> {
        let stored = self.checkpoint.required(name)?.dtype;
        if mlx_dtype(stored).is_some_and(|dtype| types.contains(&dtype)) {
            return Ok(());
        }
        Err(Error::format(format!(
            "tensor {name} is stored as {stored}; as a part of the {quant} that config.json says \
             it would be one of {types:?}"
        )))
    }

    /// A tensor of the shape `stored`, or some of its rows.
    fn of_type(
        &mut self,
        name: &str,
        stored: &[usize],
        rows: Option<Range<usize>>,
        types: &[Dtype],
    ) -> Result<Array> {
        let (tensor, dtype) = self.checked(name, stored, types)?;
        let Some(rows) = rows else {
            return self.array(tensor, tensor.offset, stored, dtype);
        };
        let start = tensor.offset + tensor.bytes / stored[0] * rows.start;
        let mut shape = stored.to_vec();
        shape[0] = rows.len();
        self.array(tensor, start, &shape, dtype)
    }

    /// A tensor of the shape `stored`, and which of `types` it has.
    fn checked(
        &self,
        name: &str,
        stored: &[usize],
        types: &[Dtype],
    ) -> Result<(&'a TensorInfo, Dtype)> {
        let tensor = self.checkpoint.required(name)?;
        if tensor.shape != stored {
            return Err(Error::format(format!(
                "tensor {name} has the shape {:?}; config.json implies {stored:?}",
                tensor.shape
            )));
        }
        let dtype = mlx_dtype(tensor.dtype)
            .filter(|dtype| types.contains(dtype))
            .ok_or_else(|| {
                Error::unsupported(format!(
                    "tensor {name} is stored as {}; expected one of {types:?}",
                    tensor.stored()
                ))
            })?;
        Ok((tensor, dtype))
    }

    /// What begins at `start` of a tensor's file.
    fn array(
        &mut self,
        tensor: &TensorInfo,
        start: usize,
        shape: &[usize],
        dtype: Dtype,
    ) -> Result<Array> {
        let shape: Vec<i32> = shape
            .iter()
            .map(|length| i32::try_from(*length))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Error::unsupported(format!("tensor {} is too large", tensor.name)))?;
        let copied_before = self.arrays.copied_bytes();
        let array = self.arrays.array(&TensorView {
            file: self.checkpoint.maps()[tensor.file].as_slice(),
            owner: &self.owner,
            start,
            shape: &shape,
            dtype,
        })?;
        let is_in_place = self.arrays.copied_bytes() == copied_before;
        if is_in_place && !self.checkpoint.is_made(tensor) {
            self.mapped_bytes += array.bytes();
        }
        Ok(array)
    }
}

fn mlx_mode(mode: Mode) -> QuantMode {
    match mode {
        Mode::Affine => QuantMode::Affine,
        Mode::Mxfp4 => QuantMode::Mxfp4,
        Mode::Mxfp8 => QuantMode::Mxfp8,
        Mode::Nvfp4 => QuantMode::Nvfp4,
    }
}

pub fn mlx_dtype(stored: checkpoint::Dtype) -> Option<Dtype> {
    match stored {
        checkpoint::Dtype::U8 => Some(Dtype::U8),
        checkpoint::Dtype::U32 => Some(Dtype::U32),
        checkpoint::Dtype::F16 => Some(Dtype::F16),
        checkpoint::Dtype::BF16 => Some(Dtype::Bf16),
        checkpoint::Dtype::F32 => Some(Dtype::F32),
        _ => None,
    }
}
