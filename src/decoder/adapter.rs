//! [`Adapted`]: an adapter's pairs of matrices as updates of the decoder's
//! projections, checked against them and mapped in place.

mod gains;

use std::any::Any;
use std::sync::Arc;

use super::family::Fused;
use super::loader::{FLOATS, mlx_dtype};
use super::mlp::{DenseForm, MlpSpec};
use super::prefix::{PREFIXES, Prefix};
use super::recurrent::{MixerSpec, RecurrentSpec};
use super::spec::DecoderSpec;
use super::weights::{LoadedBytes, Weights};
use crate::checkpoint::{AdapterFiles, AdapterFormat, AdapterPair, TensorInfo};
use crate::error::{Error, Result, ResultExt};
use crate::mlx::{Array, Dtype, Gains, LowRank, MappedArrays, Ops, Stream, TensorView};

/// What adapters add to a decoder's projections.
#[derive(Clone, Default)]
pub struct Adapted {
    /// One for each layer; empty: nothing at all.
    layers: Vec<LayerUpdates>,
    pub(super) head: Vec<LowRank>,
}

/// What they add to one layer's, by what is projected together.
#[derive(Clone, Default)]
pub struct LayerUpdates {
    pub query_key_value: Vec<LowRank>,
    pub output: Vec<LowRank>,
    /// Of a network without a gate only what is in the place of `up`.
    pub gate_up: Vec<LowRank>,
    pub down: Vec<LowRank>,
}

/// What updates add to a step's intermediate results.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdaptedColumns {
    /// Of each token in a layer; float32 counts as two of a half.
    pub layer: usize,
    /// Of each row of logits, in float32.
    pub head: usize,
}

/// A projection that can be adapted.
#[derive(Clone, Copy)]
struct Target {
    place: Place,
    first_column: usize,
    outputs: usize,
    inputs: usize,
}

#[derive(Clone, Copy)]
enum Place {
    QueryKeyValue(usize),
    Output(usize),
    GateUp(usize),
    Down(usize),
    Head,
}

impl Adapted {
    /// `ops` makes what measures weights, which DoRA needs.
    pub fn load(
        files: &AdapterFiles,
        (spec, weights): (&DecoderSpec, &Weights),
        (stream, ops): (&Stream, &dyn Fn() -> Result<Ops>),
    ) -> Result<(Adapted, LoadedBytes)> {
        let mut loader = AdapterLoader {
            files,
            owner: Arc::new(files.map().clone()),
            arrays: MappedArrays::new(stream),
            mapped_bytes: 0,
            gain_bytes: 0,
        };
        let has_gains = files.pairs().iter().any(|pair| pair.magnitudes.is_some());
        let ops = has_gains.then(ops).transpose()?;
        let mut adapted = Adapted {
            layers: vec![LayerUpdates::default(); spec.n_layers],
            head: Vec::new(),
        };
        for pair in files.pairs() {
            let target = target(spec, pair).at(files.path().display())?;
            let mut update = loader.update(pair, &target).at(files.path().display())?;
            if let (Some(magnitudes), Some(ops)) = (&pair.magnitudes, &ops) {
                let magnitudes = loader
                    .magnitudes(magnitudes, pair)
                    .at(files.path().display())?;
                let gains = gains::gains(ops, &magnitudes, &update, (weights, target.place))?;
                loader.gain_bytes += Adapted::gain_bytes(pair);
                update.gains = Some(gains);
            }
            adapted.at(target.place).push(update);
        }
        let bytes = LoadedBytes {
            mapped: loader.mapped_bytes,
            copied: loader.arrays.copied_bytes() + loader.gain_bytes,
        };
        Ok((adapted, bytes))
    }

    /// What gains and biases of a pair with magnitudes take, at most.
    pub fn gain_bytes(pair: &AdapterPair) -> usize {
        2 * pair.outputs * size_of::<f32>()
    }

    /// All of them at once, each times its scale; those times zero are left out.
    pub fn combine<'a>(parts: impl IntoIterator<Item = (&'a Adapted, f32)>) -> Adapted {
        let mut all = Adapted::default();
        for (part, scale) in parts {
            if scale == 0.0 {
                continue;
            }
            all.layers
                .resize_with(part.layers.len(), LayerUpdates::default);
            append(&mut all.head, &part.head, scale);
            for (all, part) in all.layers.iter_mut().zip(&part.layers) {
                for (all, part) in all.groups_mut().into_iter().zip(part.groups()) {
                    append(all, part, scale);
                }
            }
        }
        all
    }

    pub(super) fn layer(&self, index: usize) -> &LayerUpdates {
        static NOTHING: LayerUpdates = LayerUpdates {
            query_key_value: Vec::new(),
            output: Vec::new(),
            gate_up: Vec::new(),
            down: Vec::new(),
        };
        self.layers.get(index).unwrap_or(&NOTHING)
    }

    pub fn columns(&self, spec: &DecoderSpec, dtype: Dtype, by_kernels: bool) -> AdaptedColumns {
        let recurrent = spec.recurrent().map(RecurrentSpec::row_columns);
        let row_columns = recurrent.max().unwrap_or(0).max(spec.widest_rows());
        let wide = size_of::<f32>() / dtype.bytes();
        let of_layer = |layer: &LayerUpdates| {
            let widths = [
                row_columns,
                spec.hidden_size,
                4 * spec.intermediate_size,
                spec.hidden_size,
            ];
            let groups = layer.groups().into_iter().zip(widths);
            groups
                .map(|(updates, width)| columns_of(updates, width, wide, by_kernels))
                .sum()
        };
        AdaptedColumns {
            layer: self.layers.iter().map(of_layer).max().unwrap_or(0),
            head: columns_of(&self.head, spec.vocab_size, 1, by_kernels),
        }
    }

    fn at(&mut self, place: Place) -> &mut Vec<LowRank> {
        match place {
            Place::QueryKeyValue(layer) => &mut self.layers[layer].query_key_value,
            Place::Output(layer) => &mut self.layers[layer].output,
            Place::GateUp(layer) => &mut self.layers[layer].gate_up,
            Place::Down(layer) => &mut self.layers[layer].down,
            Place::Head => &mut self.head,
        }
    }
}

impl LayerUpdates {
    fn groups(&self) -> [&Vec<LowRank>; 4] {
        [
            &self.query_key_value,
            &self.output,
            &self.gate_up,
            &self.down,
        ]
    }

    fn groups_mut(&mut self) -> [&mut Vec<LowRank>; 4] {
        [
            &mut self.query_key_value,
            &mut self.output,
            &mut self.gate_up,
            &mut self.down,
        ]
    }
}

fn append(all: &mut Vec<LowRank>, part: &[LowRank], scale: f32) {
    all.extend(part.iter().map(|update| LowRank {
        scale: update.scale * scale,
        gains: update.gains.clone().map(|gains| Gains {
            strength: gains.strength * scale,
            ..gains
        }),
        ..update.clone()
    }));
}

pub(super) fn have_gains(updates: &[LowRank]) -> bool {
    updates.iter().any(|update| update.gains.is_some())
}

/// Our kernels make one more array of the projections' `width`; MLX's operations
/// make the inner values and the addends of each update, as float32, and the sum.
/// `wide` is how many columns a float32 counts for.
fn columns_of(updates: &[LowRank], width: usize, wide: usize, by_kernels: bool) -> usize {
    let of_update = |update: &LowRank| match (by_kernels, wide) {
        (true, _) => wide * update.rank(),
        (false, 1) => 2 * update.rank() + 2 * update.outputs(),
        (false, _) => {
            wide * (update.inputs() + 2 * update.rank() + update.outputs()) + 2 * update.outputs()
        }
    };
    // With gains the product is apart from the sum; MLX makes arrays of their own of the
    // product, its excess and the addend.
    let of_gains = |update: &LowRank| match (by_kernels, &update.gains) {
        (_, None) => 0,
        (true, Some(_)) => width,
        (false, Some(_)) => width + 6 * wide * update.outputs(),
    };
    let total: usize = updates
        .iter()
        .map(|one| of_update(one) + of_gains(one))
        .sum();
    match (updates, by_kernels) {
        ([], _) => 0,
        (_, true) => width + total,
        (_, false) => total,
    }
}

/// The projection that a pair is for, if their shapes agree.
fn target(spec: &DecoderSpec, pair: &AdapterPair) -> Result<Target> {
    let target = find(spec, &pair.module)?;
    if (target.outputs, target.inputs) != (pair.outputs, pair.inputs) {
        return Err(Error::format(format!(
            "{} is adapted from {} values to {}, but the model's goes from {} to {}; the adapter \
             was made for another model",
            pair.module, pair.inputs, pair.outputs, target.inputs, target.outputs
        )));
    }
    Ok(target)
}

fn find(spec: &DecoderSpec, module: &str) -> Result<Target> {
    let hidden = spec.hidden_size;
    let is_head = |prefix: &Prefix| {
        module.strip_prefix(prefix.head) == Some(spec.names.head) && !spec.tied_embeddings
    };
    if PREFIXES.iter().any(is_head) {
        return Ok(Target {
            place: Place::Head,
            first_column: 0,
            outputs: spec.vocab_size,
            inputs: hidden,
        });
    }
    let in_layers = |prefix: &Prefix| {
        let rest = module.strip_prefix(prefix.model)?;
        let layers = |layers: &&str| rest.strip_prefix(layers)?.strip_prefix('.');
        let rest = spec.names.layers.iter().find_map(layers)?;
        let (index, name) = rest.split_once('.')?;
        Some((index.parse::<usize>().ok()?, name))
    };
    let found = PREFIXES.iter().find_map(in_layers);
    let (index, name) = found.ok_or_else(|| unknown(spec, module))?;
    if index >= spec.n_layers {
        return Err(Error::format(format!(
            "{module} is of layer {index}, but the model has {}; the adapter was made for \
             another model",
            spec.n_layers
        )));
    }
    let in_layer = in_mixer(spec, index, name).or_else(|| in_mlp(spec, index, name));
    in_layer.ok_or_else(|| unknown(spec, module))
}

fn unknown(spec: &DecoderSpec, module: &str) -> Error {
    let has_experts = |mlp: &MlpSpec| matches!(mlp, MlpSpec::Experts(_));
    let is_of_experts = module.contains(".mlp.") && spec.mlps.iter().any(has_experts);
    let is_latent = module.contains(".self_attn.") && spec.latent.is_some();
    let is_outer = module.ends_with(spec.names.embedding) || module.ends_with(spec.names.head);
    if is_outer || is_of_experts || is_latent {
        return Error::unsupported(format!(
            "{module} is adapted, which this version does not support: it has LoRA and DoRA on the \
             projections of attention, dense feed-forward networks and an output of its own, not \
             on embeddings, experts and the projections to latent vectors"
        ));
    }
    Error::format(format!(
        "{module} is adapted, but {} has no projection of that name; the adapter was made for \
         another model",
        spec.model_type
    ))
}

fn in_mixer(spec: &DecoderSpec, layer: usize, name: &str) -> Option<Target> {
    // Beside attention, recurrent mixers stay as they are.
    let recurrent = match &spec.mixers[layer] {
        MixerSpec::None => return None,
        MixerSpec::Attention | MixerSpec::Both(_) => return in_attention(spec, layer, name),
        MixerSpec::Recurrent(recurrent) => recurrent,
    };
    let hidden = spec.hidden_size;
    if name == recurrent.output_name() {
        return Some(Target {
            place: Place::Output(layer),
            first_column: 0,
            outputs: hidden,
            inputs: recurrent.mixed_columns(),
        });
    }
    let mut first_column = 0;
    for (input, outputs) in recurrent.inputs() {
        if name == input {
            return Some(Target {
                place: Place::QueryKeyValue(layer),
                first_column,
                outputs,
                inputs: hidden,
            });
        }
        first_column += outputs;
    }
    None
}

fn in_attention(spec: &DecoderSpec, layer: usize, name: &str) -> Option<Target> {
    let (names, hidden) = (&spec.names.attention, spec.hidden_size);
    let [queries, keys, values] = spec.heads[layer].columns();
    let behind = if spec.has_gates_behind_queries() {
        queries
    } else {
        0
    };
    if names.gate == Some(name) {
        return Some(Target {
            place: Place::QueryKeyValue(layer),
            first_column: queries + keys + values,
            outputs: queries,
            inputs: hidden,
        });
    }
    if name == names.output {
        return Some(Target {
            place: Place::Output(layer),
            first_column: 0,
            outputs: hidden,
            inputs: spec.attended_columns(layer),
        });
    }
    if spec.latent.is_some() {
        return None;
    }
    let found = in_fused(
        names.query_key_value,
        name,
        [queries + behind, keys, values],
    );
    found.map(|(first_column, outputs)| Target {
        place: Place::QueryKeyValue(layer),
        first_column,
        outputs,
        inputs: hidden,
    })
}

fn in_mlp(spec: &DecoderSpec, layer: usize, name: &str) -> Option<Target> {
    let MlpSpec::Dense(dense) = &spec.mlps[layer] else {
        return None;
    };
    let (names, hidden) = (&spec.names.mlp, spec.hidden_size);
    let inner = dense.intermediate_size;
    if name == names.down {
        return Some(Target {
            place: Place::Down(layer),
            first_column: 0,
            outputs: hidden,
            inputs: inner,
        });
    }
    let found = match (dense.form, names.gate_up) {
        (DenseForm::Plain(_), Fused::Separate([_, up])) => {
            in_fused(Fused::Separate([up]), name, [inner])
        }
        (_, gate_up) => in_fused(gate_up, name, [inner; 2]),
    };
    found.map(|(first_column, outputs)| Target {
        place: Place::GateUp(layer),
        first_column,
        outputs,
        inputs: hidden,
    })
}

/// The first column and the width of one of several projections of the same inputs,
/// or of all of them together.
fn in_fused<const N: usize>(
    names: Fused<N>,
    name: &str,
    outputs: [usize; N],
) -> Option<(usize, usize)> {
    match names {
        Fused::Together(together) | Fused::ByHead(together) => {
            (together == name).then(|| (0, outputs.iter().sum()))
        }
        Fused::Separate(names) => {
            let index = names.iter().position(|one| *one == name)?;
            Some((outputs[..index].iter().sum(), outputs[index]))
        }
    }
}

struct AdapterLoader<'a> {
    files: &'a AdapterFiles,
    owner: Arc<dyn Any + Send + Sync>,
    arrays: MappedArrays<'a>,
    mapped_bytes: usize,
    /// Reserved for what is computed from magnitudes and weights.
    gain_bytes: usize,
}

impl AdapterLoader<'_> {
    fn update(&mut self, pair: &AdapterPair, target: &Target) -> Result<LowRank> {
        Ok(LowRank {
            down: self.array(&pair.down)?,
            up: self.array(&pair.up)?,
            by_input: self.files.format() == AdapterFormat::MlxLm,
            first_column: target.first_column,
            scale: pair.scale,
            gains: None,
        })
    }

    fn magnitudes(&mut self, tensor: &TensorInfo, pair: &AdapterPair) -> Result<Array> {
        let n_values: usize = tensor.shape.iter().product();
        match n_values == pair.outputs {
            true => self.array(tensor),
            false => Err(Error::format(format!(
                "tensor {} has the shape {:?}; expected {} values",
                tensor.name, tensor.shape, pair.outputs
            ))),
        }
    }

    fn array(&mut self, tensor: &TensorInfo) -> Result<Array> {
        let is_float = |dtype: &Dtype| FLOATS.contains(dtype);
        let dtype = mlx_dtype(tensor.dtype).filter(is_float).ok_or_else(|| {
            Error::unsupported(format!(
                "tensor {} is stored as {}; expected one of {FLOATS:?}",
                tensor.name, tensor.dtype
            ))
        })?;
        // Dimensions were bounded when the header was read.
        let shape: Vec<i32> = tensor.shape.iter().map(|&length| length as i32).collect();
        let copied_before = self.arrays.copied_bytes();
        let array = self.arrays.array(&TensorView {
            file: self.files.map().as_slice(),
            owner: &self.owner,
            start: tensor.offset,
            shape: &shape,
            dtype,
        })?;
        if self.arrays.copied_bytes() == copied_before {
            self.mapped_bytes += array.bytes();
        }
        Ok(array)
    }
}
