//! The checkpoint's tensors as the decoder's parameters: by name, with the
//! shape that config.json implies, mapped in place.

use std::sync::Arc;

use super::altup::{AltUp, LayerAltUp};
use super::beside::ExpertsBeside;
use super::family::{Fused, MlpNames, QkNorm};
use super::heads::HeadsSpec;
use super::latent::LatentWeights;
use super::layer_inputs::{LayerGate, LayerInputs};
use super::loader::{Loader, Place};
use super::mlp::{DenseForm, DenseSpec, ExpertsSpec, MlpSpec};
use super::prefix::Prefix;
use super::recurrent::{MixerSpec, RecurrentSpec, RecurrentWeights};
use super::spec::DecoderSpec;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::mlx::{
    Activation, Array, CpuOps, ExpertWeights, Experts, GatedLinears, JoinedLinears, Linear,
    SharedExpert, Stream,
};

/// One decoder layer's parameters.
pub struct LayerWeights {
    pub attention_norm: Option<NormWeights>,
    pub mixer: Mixer,
    /// What works beside attention.
    pub beside: Option<Beside>,
    /// `[n_heads]`
    pub sinks: Option<Array>,
    /// Of what the mixer gives.
    pub output: Linear,
    pub after_attention: Option<NormWeights>,
    pub mlp_norm: Option<NormWeights>,
    pub mlp: MlpWeights,
    pub experts_beside: Option<ExpertsBeside>,
    pub after_mlp: Option<NormWeights>,
    pub altup: Option<LayerAltUp>,
    pub input_gate: Option<LayerGate>,
    /// What the layer's result is multiplied with.
    pub factor: f32,
}

/// A recurrent mixer with its projection to the residual stream.
pub struct Beside {
    pub mixer: RecurrentWeights,
    pub output: Linear,
}

/// From hidden states to what mixes tokens: to queries, keys and values, or to what goes
/// into a state.
pub enum Mixer {
    Heads(HeadProjections),
    Latent(Box<LatentWeights>),
    Recurrent(RecurrentWeights),
}

pub struct HeadProjections {
    /// To queries, keys and values, or one to all of them.
    pub linears: Vec<Linear>,
    pub query_norm: Option<NormWeights>,
    pub key_norm: Option<NormWeights>,
}

pub struct NormWeights {
    pub weight: Array,
    pub bias: Option<Array>,
}

pub enum MlpWeights {
    None,
    Gated(GatedLinears),
    Plain {
        up: Linear,
        down: Linear,
        activation: Activation,
    },
    Experts(Arc<Experts>),
}

pub struct Weights {
    /// The token table `[vocab_size, hidden_size]`.
    pub embedding: Linear,
    /// What is added to it, `[max_context, hidden_size]`.
    pub positions: Option<Linear>,
    pub altup: Option<AltUp>,
    pub layer_inputs: Option<LayerInputs>,
    pub layers: Vec<LayerWeights>,
    pub final_norm: NormWeights,
    /// `None`: tied to the embedding.
    head: Option<Linear>,
}

/// What loading found out about memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadedBytes {
    /// Bytes of tensors that are used where their file is mapped.
    pub mapped: usize,
    /// Bytes of tensors that could not be used where they lie.
    pub copied: usize,
}

impl Weights {
    /// `progress(done, total)` is called per layer and may stop the loading.
    pub fn load(
        checkpoint: &Arc<Checkpoint>,
        spec: &DecoderSpec,
        (stream, cpu_ops): (&Stream, CpuOps),
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<(Weights, LoadedBytes)> {
        let mut loader = Loader::new(checkpoint, stream, cpu_ops);
        let names = &spec.names;
        let prefix = Prefix::find(checkpoint, spec);
        let layers_module = prefix.layers(checkpoint, spec);
        let total = spec.n_layers + 1;
        let table = [spec.vocab_size, spec.hidden_size];
        let module = format!("{}{}", prefix.model, names.embedding);
        let embedding = loader.matrix(&Place::whole(&module, table), false)?;
        let positions = names.positions.map(|name| {
            let module = format!("{}{name}", prefix.model);
            let table = [spec.max_context, spec.hidden_size];
            loader.matrix(&Place::whole(&module, table), false)
        });
        let positions = positions.transpose()?;
        let altup = AltUp::load(&mut loader, prefix.model, spec)?;
        let layer_inputs = LayerInputs::load(&mut loader, prefix.model, spec)?;
        let is_transposed = spec.is_transposed(checkpoint);
        let mut layers = Vec::with_capacity(spec.n_layers);
        for index in 0..spec.n_layers {
            progress(index, total)?;
            let mut layer = Layer {
                loader: &mut loader,
                spec,
                prefix: format!("{layers_module}.{index}"),
                is_transposed,
            };
            layers.push(layer.load(index, stream)?);
        }
        let module = format!("{}{}", prefix.model, names.final_norm);
        let final_norm = norm(&mut loader, &module, spec.norm.has_bias, spec.hidden_size)?;
        let module = prefix.head_module(checkpoint, spec);
        let head = match spec.tied_embeddings {
            true => None,
            false => Some(loader.matrix(&Place::whole(&module, table), spec.head_bias)?),
        };
        progress(total, total)?;
        let bytes = LoadedBytes {
            mapped: loader.mapped_bytes(),
            copied: loader.copied_bytes(),
        };
        let weights = Weights {
            embedding,
            positions,
            altup,
            layer_inputs,
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
}

/// A norm without a bias.
pub(super) fn plain_norm(
    loader: &mut Loader<'_>,
    module: &str,
    length: usize,
) -> Result<NormWeights> {
    norm(loader, module, false, length)
}

fn norm(loader: &mut Loader<'_>, module: &str, bias: bool, length: usize) -> Result<NormWeights> {
    let bias = bias.then(|| loader.vector(&format!("{module}.bias"), length));
    Ok(NormWeights {
        bias: bias.transpose()?,
        weight: loader.vector(&format!("{module}.weight"), length)?,
    })
}

/// A layer that is being loaded.
pub(super) struct Layer<'a, 'b> {
    pub loader: &'a mut Loader<'b>,
    pub spec: &'a DecoderSpec,
    /// Of its tensors' names, without the dot.
    prefix: String,
    /// Matrices are stored by input.
    is_transposed: bool,
}

impl Layer<'_, '_> {
    fn load(&mut self, index: usize, stream: &Stream) -> Result<LayerWeights> {
        let (spec, names) = (self.spec, &self.spec.names);
        let sinks = self.name(names.attention.sinks);
        let mixer = &spec.mixers[index];
        Ok(LayerWeights {
            attention_norm: self.norm(names.attention_norm)?,
            mixer: match (mixer, &spec.latent) {
                (MixerSpec::Recurrent(recurrent), _) => Mixer::Recurrent(recurrent.load(self)?),
                (_, Some(latent)) => Mixer::Latent(Box::new(LatentWeights::load(self, latent)?)),
                (_, None) => Mixer::Heads(self.heads(&spec.heads[index])?),
            },
            beside: match mixer {
                MixerSpec::Both(recurrent) => Some(Beside {
                    mixer: recurrent.load(self)?,
                    output: self.recurrent_output(recurrent)?,
                }),
                MixerSpec::Attention | MixerSpec::Recurrent(_) => None,
            },
            sinks: match spec.has_sinks && mixer.attends() {
                true => Some(self.loader.vector(&sinks, spec.heads[index].n_heads)?),
                false => None,
            },
            output: self.output(index)?,
            after_attention: self.norm(names.after_attention)?,
            mlp_norm: self.norm(names.mlp_norm)?,
            mlp: match &spec.mlps[index] {
                MlpSpec::None => MlpWeights::None,
                MlpSpec::Dense(dense) => self.dense(dense)?,
                MlpSpec::Experts(experts) => {
                    let experts = self.experts(experts)?;
                    experts.prepare(stream)?;
                    MlpWeights::Experts(Arc::new(experts))
                }
            },
            experts_beside: match &spec.experts_beside {
                Some(experts) => Some(ExpertsBeside::load(self, experts, stream)?),
                None => None,
            },
            after_mlp: self.norm(names.after_mlp)?,
            altup: LayerAltUp::load(self)?,
            input_gate: LayerGate::load(self)?,
            factor: match names.layer_factor {
                Some(name) => {
                    let name = self.name(name);
                    self.loader.scalar(&name)?
                }
                None => 1.0,
            },
        })
    }

    /// The projection behind the mixer of layer `index`.
    fn output(&mut self, index: usize) -> Result<Linear> {
        let (spec, hidden) = (self.spec, self.spec.hidden_size);
        match &spec.mixers[index] {
            MixerSpec::Attention | MixerSpec::Both(_) => {
                let shape = [hidden, spec.attended_columns(index)];
                self.matrix(spec.names.attention.output, shape, spec.output_bias)
            }
            MixerSpec::Recurrent(recurrent) => self.recurrent_output(recurrent),
        }
    }

    fn recurrent_output(&mut self, recurrent: &RecurrentSpec) -> Result<Linear> {
        let shape = [self.spec.hidden_size, recurrent.mixed_columns()];
        self.matrix(recurrent.output_name(), shape, recurrent.has_output_bias())
    }

    fn heads(&mut self, heads: &HeadsSpec) -> Result<HeadProjections> {
        let (spec, names) = (self.spec, &self.spec.names.attention);
        let hidden = spec.hidden_size;
        let mut rows = heads.columns();
        let queries = rows[0];
        rows[0] *= if spec.gates_attention { 2 } else { 1 };
        Ok(HeadProjections {
            linears: match names.query_key_value {
                Fused::ByHead(name) => {
                    let shape = [rows.iter().sum(), hidden];
                    vec![self.matrix(name, shape, spec.qkv_bias)?]
                }
                Fused::Separate(names) => {
                    let all = names.into_iter().zip(rows).filter(|(_, rows)| *rows > 0);
                    all.map(|(name, rows)| self.matrix(name, [rows, hidden], spec.qkv_bias))
                        .collect::<Result<_>>()?
                }
                fused => self.fused(fused, rows, hidden, spec.qkv_bias)?.into(),
            },
            query_norm: self.head_norm(names.query_norm, heads, queries)?,
            key_norm: match rows[1] {
                0 => None,
                keys => self.head_norm(names.key_norm, heads, keys)?,
            },
        })
    }

    pub fn name(&self, module: &str) -> String {
        format!("{}.{module}", self.prefix)
    }

    /// A norm without a bias.
    pub fn plain_norm(&mut self, module: &str, length: usize) -> Result<NormWeights> {
        let module = self.name(module);
        plain_norm(self.loader, &module, length)
    }

    fn norm(&mut self, module: Option<&str>) -> Result<Option<NormWeights>> {
        let spec = self.spec;
        let load = |module| {
            let module = self.name(module);
            norm(self.loader, &module, spec.norm.has_bias, spec.hidden_size)
        };
        module.map(load).transpose()
    }

    /// The norm of `width` values in heads, if there is one.
    fn head_norm(
        &mut self,
        module: &str,
        heads: &HeadsSpec,
        width: usize,
    ) -> Result<Option<NormWeights>> {
        let length = match self.spec.qk_norm {
            QkNorm::None => return Ok(None),
            QkNorm::Heads => heads.head_dim,
            QkNorm::Rows => width,
        };
        self.plain_norm(module, length).map(Some)
    }

    pub fn matrix(&mut self, module: &str, shape: [usize; 2], bias: bool) -> Result<Linear> {
        let module = self.name(module);
        if self.is_transposed {
            let [rows, columns] = shape;
            let [linear] = self.loader.transposed(&module, [rows], columns, bias)?;
            return Ok(linear);
        }
        self.loader.matrix(&Place::whole(&module, shape), bias)
    }

    /// Matrices that may be parts of one.
    fn fused<const N: usize>(
        &mut self,
        names: Fused<N>,
        rows: [usize; N],
        columns: usize,
        bias: bool,
    ) -> Result<[Linear; N]> {
        if let (Fused::Together(name), true) = (names, self.is_transposed) {
            let module = self.name(name);
            return self.loader.transposed(&module, rows, columns, bias);
        }
        let total = rows.iter().sum();
        let mut first = 0;
        let mut linears = Vec::with_capacity(N);
        for (index, rows) in rows.into_iter().enumerate() {
            linears.push(match names {
                Fused::Separate(names) => self.matrix(names[index], [rows, columns], bias)?,
                Fused::Together(name) | Fused::ByHead(name) => {
                    let module = self.name(name);
                    let place = Place::part(&module, [total, columns], first..first + rows);
                    self.loader.matrix(&place, bias)?
                }
            });
            first += rows;
        }
        Ok(linears
            .try_into()
            .unwrap_or_else(|_| unreachable!("N were made")))
    }

    fn dense(&mut self, dense: &DenseSpec) -> Result<MlpWeights> {
        let (names, hidden) = (self.mlp_names(), self.spec.hidden_size);
        let (inner, bias) = (dense.intermediate_size, dense.has_bias);
        let down = self.matrix(names.down, [hidden, inner], bias)?;
        if let (DenseForm::Plain(activation), Fused::Separate([_, up])) =
            (dense.form, names.gate_up)
        {
            return Ok(MlpWeights::Plain {
                up: self.matrix(up, [inner, hidden], bias)?,
                down,
                activation: self.with_parameters(activation)?,
            });
        }
        let [gate, up] = self.fused(names.gate_up, [inner; 2], hidden, bias)?;
        Ok(MlpWeights::Gated(GatedLinears { gate, up, down }))
    }

    /// Those that the layer has of a dense network's.
    fn mlp_names(&self) -> MlpNames {
        let names = self.spec.names.mlp;
        let is_converted = |[_, _, down]: &[&str; 3]| self.loader.has_module(&self.name(down));
        match names.converted.filter(is_converted) {
            Some([gate, up, down]) => MlpNames {
                gate_up: Fused::Separate([gate, up]),
                down,
                ..names
            },
            None => names,
        }
    }

    /// The activation with the parameters that the layer has for it.
    fn with_parameters(&mut self, activation: Activation) -> Result<Activation> {
        if !matches!(activation, Activation::Xielu { .. }) {
            return Ok(activation);
        }
        let mut parameter = |name| {
            let name = self.name(&format!("mlp.act_fn.{name}"));
            self.loader.scalar(&name)
        };
        let softplus = |x: f32| x.exp().ln_1p();
        let beta = parameter("beta")?;
        Ok(Activation::Xielu {
            positive: softplus(parameter("alpha_p")?),
            negative: beta + softplus(parameter("alpha_n")?),
            beta,
        })
    }

    pub fn experts(&mut self, experts: &ExpertsSpec) -> Result<Experts> {
        let (names, hidden) = (&experts.names, self.spec.hidden_size);
        let n = experts.n_experts;
        let weights = self.routed(experts)?;
        let shared = experts.shared.map(|shared| {
            let module = self.name(shared.name);
            let inner = shared.intermediate_size;
            let share = shared.share_name;
            let share = share.map(|name| self.matrix(name, [1, hidden], false));
            Ok(SharedExpert {
                share: share.transpose()?,
                weights: match shared.fused {
                    None => self.gated(&module, STACKED_NAMES, inner, false, None)?,
                    Some(names) => self.fused_gated(names, inner)?,
                },
            })
        });
        let corrections = experts.corrections.map(|name| {
            let name = self.name(name);
            self.loader.vector(&name, n)
        });
        Ok(Experts {
            corrections: corrections.transpose()?,
            shared: shared.transpose()?,
            weights,
            router: self.matrix(names.router, [n, hidden], experts.has_bias)?,
            logit_factor: 1.0,
            share_factors: None,
            routing: experts.routing,
            gate: experts.gate,
        })
    }

    fn routed(&mut self, experts: &ExpertsSpec) -> Result<ExpertWeights> {
        let (names, bias) = (&experts.names, experts.has_bias);
        let (n, inner) = (experts.n_experts, experts.intermediate_size);
        let stacked = self.name(names.stacked);
        let first = format!("{stacked}.{}", STACKED_NAMES[0]);
        if self.loader.has_module(&first) {
            let stacks = self.gated(&stacked, STACKED_NAMES, inner, bias, Some(n))?;
            return Ok(ExpertWeights::Stacked(stacks));
        }
        if let Some(joined) = self.joined(experts)? {
            return Ok(ExpertWeights::Joined(joined));
        }
        let module = self.name(names.separate);
        let expert = |index: usize| {
            let module = format!("{module}.{index}");
            self.gated(&module, names.linears, inner, bias, None)
        };
        let all = (0..n).map(expert).collect::<Result<_>>()?;
        Ok(ExpertWeights::Separate(all))
    }

    /// Experts with gate and up in one, if the checkpoint has them so.
    fn joined(&mut self, experts: &ExpertsSpec) -> Result<Option<JoinedLinears>> {
        let Some(names) = experts.names.joined else {
            return Ok(None);
        };
        let (gate_up, down) = (self.name(names.gate_up), self.name(names.down));
        let has_blocks = self.loader.has_blocks(&gate_up);
        let is_bare = self.loader.has_tensor(&gate_up);
        if !has_blocks && !is_bare && !self.loader.has_module(&gate_up) {
            return Ok(None);
        }
        let (n, hidden) = (experts.n_experts, self.spec.hidden_size);
        let inner = experts.intermediate_size;
        let mut linear = |module: &str, shape| match (has_blocks, is_bare) {
            (true, _) => self.loader.mxfp4_blocks(module, n, shape),
            (false, true) if !names.by_input => self.loader.bare_stack(module, n, shape),
            (false, true) => self.loader.transposed_stack(module, n, shape),
            (false, false) => {
                let place = Place::stacked(module, n, shape);
                self.loader.matrix(&place, experts.has_bias)
            }
        };
        Ok(Some(JoinedLinears {
            gate_up: linear(&gate_up, [2 * inner, hidden])?,
            down: linear(&down, [hidden, inner])?,
            order: names.order,
        }))
    }

    /// Matrices of which gate and up are one.
    fn fused_gated(
        &mut self,
        [gate_up, down]: [&'static str; 2],
        inner: usize,
    ) -> Result<GatedLinears> {
        let hidden = self.spec.hidden_size;
        let [gate, up] = self.fused(Fused::Together(gate_up), [inner; 2], hidden, false)?;
        let down = self.matrix(down, [hidden, inner], false)?;
        Ok(GatedLinears { gate, up, down })
    }

    /// The matrices of one expert, or of `n_stacked`.
    fn gated(
        &mut self,
        module: &str,
        [gate, up, down]: [&str; 3],
        inner: usize,
        bias: bool,
        n_stacked: Option<usize>,
    ) -> Result<GatedLinears> {
        let hidden = self.spec.hidden_size;
        let mut linear = |name: &str, shape| {
            let module = format!("{module}.{name}");
            let place = match n_stacked {
                Some(n) => Place::stacked(&module, n, shape),
                None => Place::whole(&module, shape),
            };
            self.loader.matrix(&place, bias)
        };
        Ok(GatedLinears {
            gate: linear(gate, [inner, hidden])?,
            up: linear(up, [inner, hidden])?,
            down: linear(down, [hidden, inner])?,
        })
    }
}

const STACKED_NAMES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::{Device, Weight};
    use std::path::Path;

    fn load(fixture: &str) -> (Arc<Checkpoint>, Weights, LoadedBytes) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/models")
            .join(fixture);
        let checkpoint = Arc::new(Checkpoint::open(&path).expect("a checkpoint"));
        let spec = DecoderSpec::from_config(checkpoint.config()).expect("a spec");
        let stream = Stream::acquire(Device::Cpu).expect("a stream");
        let (weights, bytes) = Weights::load(
            &checkpoint,
            &spec,
            (&stream, CpuOps::Kernels),
            &mut |_, _| Ok(()),
        )
        .expect("weights");
        (checkpoint, weights, bytes)
    }

    fn assert_in_place(checkpoint: &Checkpoint, name: &str, array: &Array) {
        let tensor = checkpoint.required(name).expect(name);
        let mapped = checkpoint.tensor_bytes(tensor);
        assert_eq!(
            array.data_address().expect("there"),
            mapped.as_ptr(),
            "{name}"
        );
        assert_eq!(array.bytes(), mapped.len(), "{name}");
    }

    #[test]
    fn weights_are_used_where_the_file_is_mapped() {
        let (checkpoint, weights, bytes) = load("llama3-f32");
        assert_eq!(bytes.copied, 0);
        assert_in_place(&checkpoint, "model.norm.weight", &weights.final_norm.weight);
        let Mixer::Heads(heads) = &weights.layers[1].mixer else {
            panic!("neither latent vectors nor states");
        };
        let Weight::Float(query) = &heads.linears[0].weight else {
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
