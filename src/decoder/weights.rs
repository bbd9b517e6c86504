//! The checkpoint's tensors as the decoder's parameters: by name, with the
//! shape that config.json implies, mapped in place.

use std::sync::Arc;

use super::spec::DecoderSpec;
use crate::checkpoint::{self, Checkpoint, Mode, QuantSpec, TensorInfo};
use crate::error::{Error, Result};
use crate::mlx::{
    Array, Dtype, Linear, MappedArrays, QuantMode, QuantizedWeight, Stream, TensorView, Weight,
};

const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::Bf16];

/// One decoder layer's parameters.
pub struct LayerWeights {
    pub attention_norm: Array,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub query_norm: Option<Array>,
    pub key_norm: Option<Array>,
    pub output: Linear,
    pub mlp_norm: Array,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

pub struct Weights {
    /// The token table `[vocab_size, hidden_size]`.
    pub embedding: Linear,
    pub layers: Vec<LayerWeights>,
    pub final_norm: Array,
    /// `None`: tied to the embedding.
    head: Option<Linear>,
}

/// What loading found out about memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadedBytes {
    /// Bytes of tensors that the decoder uses.
    pub used: usize,
    /// Those among them that could not be used where they are mapped.
    pub copied: usize,
}

impl Weights {
    /// `progress(done, total)` is called per layer and may stop the loading.
    pub fn load(
        checkpoint: &Arc<Checkpoint>,
        spec: &DecoderSpec,
        stream: &Stream,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<(Weights, LoadedBytes)> {
        let mut loader = Loader {
            checkpoint,
            owner: checkpoint.clone(),
            arrays: MappedArrays::new(stream),
            used_bytes: 0,
        };
        let total = spec.n_layers + 1;
        let table = [spec.vocab_size, spec.hidden_size];
        let embedding = loader.matrix("model.embed_tokens", table, false)?;
        let mut layers = Vec::with_capacity(spec.n_layers);
        for layer in 0..spec.n_layers {
            progress(layer, total)?;
            layers.push(loader.layer(spec, layer)?);
        }
        let final_norm = loader.vector("model.norm.weight", spec.hidden_size)?;
        let head = match spec.tied_embeddings {
            true => None,
            false => Some(loader.matrix("lm_head", [spec.vocab_size, spec.hidden_size], false)?),
        };
        progress(total, total)?;
        let bytes = LoadedBytes {
            used: loader.used_bytes,
            copied: loader.arrays.copied_bytes(),
        };
        let weights = Weights {
            embedding,
            layers,
            final_norm,
            head,
        };
        Ok((weights, bytes))
    }

    /// The output projection.
    pub fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The type in which the decoder computes: that of the embedding's values, or
    /// of the norms where the embedding's scales are no floats.
    pub fn dtype(&self) -> Result<Dtype> {
        match &self.embedding.weight {
            Weight::Float(table) => table.dtype(),
            Weight::Quantized(table) if table.mode == QuantMode::Affine => table.scales.dtype(),
            Weight::Quantized(_) => self.final_norm.dtype(),
        }
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    owner: Arc<dyn std::any::Any + Send + Sync>,
    arrays: MappedArrays<'a>,
    used_bytes: usize,
}

impl Loader<'_> {
    fn layer(&mut self, spec: &DecoderSpec, layer: usize) -> Result<LayerWeights> {
        let hidden = spec.hidden_size;
        let queries = spec.n_heads * spec.head_dim;
        let keys = spec.n_kv_heads * spec.head_dim;
        let prefix = format!("model.layers.{layer}");
        let attention = format!("{prefix}.self_attn");
        let mlp = format!("{prefix}.mlp");
        let head_norm = |loader: &mut Self, name: &str| {
            spec.qk_norm
                .then(|| loader.vector(&format!("{attention}.{name}.weight"), spec.head_dim))
                .transpose()
        };
        Ok(LayerWeights {
            attention_norm: self.vector(&format!("{prefix}.input_layernorm.weight"), hidden)?,
            query: self.matrix(
                &format!("{attention}.q_proj"),
                [queries, hidden],
                spec.qkv_bias,
            )?,
            key: self.matrix(
                &format!("{attention}.k_proj"),
                [keys, hidden],
                spec.qkv_bias,
            )?,
            value: self.matrix(
                &format!("{attention}.v_proj"),
                [keys, hidden],
                spec.qkv_bias,
            )?,
            query_norm: head_norm(self, "q_norm")?,
            key_norm: head_norm(self, "k_norm")?,
            output: self.matrix(
                &format!("{attention}.o_proj"),
                [hidden, queries],
                spec.output_bias,
            )?,
            mlp_norm: self.vector(&format!("{prefix}.post_attention_layernorm.weight"), hidden)?,
            gate: self.matrix(
                &format!("{mlp}.gate_proj"),
                [spec.intermediate_size, hidden],
                spec.mlp_bias,
            )?,
            up: self.matrix(
                &format!("{mlp}.up_proj"),
                [spec.intermediate_size, hidden],
                spec.mlp_bias,
            )?,
            down: self.matrix(
                &format!("{mlp}.down_proj"),
                [hidden, spec.intermediate_size],
                spec.mlp_bias,
            )?,
        })
    }

    fn matrix(&mut self, module: &str, shape: [usize; 2], bias: bool) -> Result<Linear> {
        let has_scales = self
            .checkpoint
            .tensor(&format!("{module}.scales"))
            .is_some();
        let quantization = self.checkpoint.quantization();
        let weight = match quantization.spec_for(module, has_scales) {
            Some(quant) => Weight::Quantized(self.quantized(module, shape, quant)?),
            None => Weight::Float(self.dense(module, &shape)?),
        };
        let bias = bias
            .then(|| self.vector(&format!("{module}.bias"), shape[0]))
            .transpose()?;
        Ok(Linear { weight, bias })
    }

    fn dense(&mut self, module: &str, shape: &[usize]) -> Result<Array> {
        let name = format!("{module}.weight");
        let is_packed = |tensor: &TensorInfo| tensor.dtype == checkpoint::Dtype::U32;
        let is_quantized = self.checkpoint.quantization().default.is_some();
        if is_quantized && self.checkpoint.tensor(&name).is_some_and(is_packed) {
            return Err(Error::format(format!(
                "tensor {name} is packed, but there is no {module}.scales to unpack it with, or \
                 config.json says that {module} is not quantized"
            )));
        }
        self.floats(&name, shape)
    }

    fn quantized(
        &mut self,
        module: &str,
        [rows, columns]: [usize; 2],
        quant: QuantSpec,
    ) -> Result<QuantizedWeight> {
        if !columns.is_multiple_of(quant.group_size) {
            return Err(Error::format(format!(
                "{module} has rows of {columns} values, which do not divide into quantization \
                 groups of {}",
                quant.group_size
            )));
        }
        let groups = [rows, columns / quant.group_size];
        let codes = [rows, columns * quant.bits / 32];
        let is_affine = quant.mode == Mode::Affine;
        let scale_types = if is_affine { FLOATS } else { &[Dtype::U8] };
        let mut part = |suffix: &str, shape: &[usize], types: &[Dtype]| {
            self.quantized_part(&format!("{module}.{suffix}"), shape, types, quant)
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

    fn quantized_part(
        &mut self,
        name: &str,
        shape: &[usize],
        types: &[Dtype],
        quant: QuantSpec,
    ) -> Result<Array> {
        let stored = self.checkpoint.required(name)?.dtype;
        if !mlx_dtype(stored).is_some_and(|dtype| types.contains(&dtype)) {
            return Err(Error::format(format!(
                "tensor {name} is stored as {stored}; as a part of the {quant} that config.json \
                 says it would be one of {types:?}"
            )));
        }
        self.of_type(name, shape, types)
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Array> {
        self.floats(name, &[length])
    }

    fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Array> {
        self.of_type(name, shape, FLOATS)
    }

    fn of_type(&mut self, name: &str, shape: &[usize], types: &[Dtype]) -> Result<Array> {
        let tensor = self.checkpoint.required(name)?;
        if tensor.shape != shape {
            return Err(Error::format(format!(
                "tensor {name} has the shape {:?}; config.json implies {shape:?}",
                tensor.shape
            )));
        }
        let dtype = mlx_dtype(tensor.dtype)
            .filter(|dtype| types.contains(dtype))
            .ok_or_else(|| {
                Error::unsupported(format!(
                    "tensor {name} is stored as {}; expected one of {types:?}",
                    tensor.dtype
                ))
            })?;
        self.used_bytes += tensor.bytes;
        self.array(tensor, dtype)
    }

    fn array(&mut self, tensor: &TensorInfo, dtype: Dtype) -> Result<Array> {
        let shape: Vec<i32> = tensor
            .shape
            .iter()
            .map(|&length| i32::try_from(length))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Error::unsupported(format!("tensor {} is too large", tensor.name)))?;
        self.arrays.array(&TensorView {
            file: self.checkpoint.maps()[tensor.file].as_slice(),
            owner: &self.owner,
            start: tensor.offset,
            shape: &shape,
            dtype,
        })
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

fn mlx_dtype(stored: checkpoint::Dtype) -> Option<Dtype> {
    match stored {
        checkpoint::Dtype::U8 => Some(Dtype::U8),
        checkpoint::Dtype::U32 => Some(Dtype::U32),
        checkpoint::Dtype::F16 => Some(Dtype::F16),
        checkpoint::Dtype::BF16 => Some(Dtype::Bf16),
        checkpoint::Dtype::F32 => Some(Dtype::F32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::Device;
    use std::path::Path;

    fn load(fixture: &str) -> (Arc<Checkpoint>, Weights, LoadedBytes) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/models")
            .join(fixture);
        let checkpoint = Arc::new(Checkpoint::open(&path).expect("a checkpoint"));
        let spec = DecoderSpec::from_config(checkpoint.config()).expect("a spec");
        let stream = Stream::acquire(Device::Cpu).expect("a stream");
        let (weights, bytes) =
            Weights::load(&checkpoint, &spec, &stream, &mut |_, _| Ok(())).expect("weights");
        (checkpoint, weights, bytes)
    }

    fn assert_in_place(checkpoint: &Checkpoint, name: &str, array: &Array) {
        let tensor = checkpoint.required(name).expect(name);
        let mapped = checkpoint.tensor_bytes(tensor);
        assert_eq!(array.data_address(), Some(mapped.as_ptr()), "{name}");
        assert_eq!(array.bytes(), mapped.len(), "{name}");
    }

    #[test]
    fn weights_are_used_where_the_file_is_mapped() {
        let (checkpoint, weights, bytes) = load("llama3-f32");
        assert_eq!(bytes.copied, 0);
        assert_in_place(&checkpoint, "model.norm.weight", &weights.final_norm);
        let Weight::Float(query) = &weights.layers[1].query.weight else {
            panic!("stored as floats");
        };
        assert_in_place(&checkpoint, "model.layers.1.self_attn.q_proj.weight", query);
    }

    #[test]
    fn quantized_weights_are_used_where_the_file_is_mapped() {
        let (checkpoint, weights, bytes) = load("qwen3-q4-g32-bf16");
        assert_eq!(bytes.copied, 0);
        let Weight::Quantized(table) = &weights.embedding.weight else {
            panic!("stored in groups");
        };
        for (part, array) in [
            ("weight", &table.codes),
            ("scales", &table.scales),
            ("biases", table.biases.as_ref().expect("affine")),
        ] {
            assert_in_place(&checkpoint, &format!("model.embed_tokens.{part}"), array);
        }
    }

    #[test]
    fn the_map_lives_until_the_last_weight_is_gone() {
        let (checkpoint, weights, _) = load("llama3-f32");
        let held = Arc::downgrade(&checkpoint);
        drop(checkpoint);
        assert!(held.upgrade().is_some(), "the arrays hold it");
        drop(weights);
        assert!(held.upgrade().is_none(), "nothing holds it any more");
    }
}
