//! A layer's parameters on their way from the checkpoint.

use std::sync::Arc;

use super::{
    Beside, HeadProjections, LayerMixer, LayerWeights, Mixer, MlpWeights, NormWeights, norm,
    plain_norm,
};
use crate::decoder::altup::LayerAltUp;
use crate::decoder::beside::ExpertsBeside;
use crate::decoder::family::{Fused, Names, QkNorm};
use crate::decoder::heads::HeadsSpec;
use crate::decoder::latent::LatentWeights;
use crate::decoder::layer_inputs::LayerGate;
use crate::decoder::loader::{Loader, Place};
use crate::decoder::mlp::MlpSpec;
use crate::decoder::recurrent::{MixerSpec, RecurrentSpec};
use crate::decoder::spec::DecoderSpec;
use crate::error::Result;
use crate::mlx::{Linear, Stream};

/// A layer that is being loaded.
pub(in crate::decoder) struct Layer<'a, 'b> {
    pub loader: &'a mut Loader<'b>,
    pub spec: &'a DecoderSpec,
    /// Of its tensors' names, without the dot.
    pub(super) prefix: String,
    /// Matrices are stored by input.
    pub(super) is_transposed: bool,
}

impl Layer<'_, '_> {
    pub(super) fn load(&mut self, index: usize, stream: &Stream) -> Result<LayerWeights> {
        let spec = self.spec;
        let names = &self.stored_names(index);
        let sinks = self.name(names.attention.sinks);
        let mixer = &spec.mixers[index];
        Ok(LayerWeights {
            attention_norm: match mixer {
                MixerSpec::None => None,
                _ => self.norm(names.attention_norm)?,
            },
            mixer: self.mixer(index)?,
            beside: match mixer {
                MixerSpec::Both(recurrent) => Some(Beside {
                    mixer: recurrent.load(self)?,
                    output: self.recurrent_output(recurrent)?,
                }),
                MixerSpec::None | MixerSpec::Attention | MixerSpec::Recurrent(_) => None,
            },
            sinks: match spec.has_sinks && mixer.attends() {
                true => Some(self.loader.vector(&sinks, spec.heads[index].n_heads)?),
                false => None,
            },
            after_attention: self.norm(names.after_attention)?,
            mlp_norm: match &spec.mlps[index] {
                MlpSpec::None => None,
                _ => self.norm(names.mlp_norm)?,
            },
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

    /// Those of the norms that the checkpoint has.
    fn stored_names(&self, index: usize) -> Names {
        let all = self.spec.layer_names(index);
        let is_there = |names: &&Names| {
            let norm = names.attention_norm.unwrap_or_default();
            self.loader.has_module(&self.name(norm))
        };
        *all.iter().find(is_there).unwrap_or(&all[0])
    }

    fn mixer(&mut self, index: usize) -> Result<Option<LayerMixer>> {
        let spec = self.spec;
        let inputs = match (&spec.mixers[index], &spec.latent) {
            (MixerSpec::None, _) => return Ok(None),
            (MixerSpec::Recurrent(recurrent), _) => {
                return Ok(Some(LayerMixer {
                    inputs: Mixer::Recurrent(recurrent.load(self)?),
                    output: self.recurrent_output(recurrent)?,
                }));
            }
            (_, Some(latent)) => Mixer::Latent(Box::new(LatentWeights::load(self, latent)?)),
            (_, None) => Mixer::Heads(self.heads(&spec.heads[index])?),
        };
        let shape = [spec.hidden_size, spec.attended_columns(index)];
        let output = self.matrix(spec.names.attention.output, shape, spec.output_bias)?;
        Ok(Some(LayerMixer { inputs, output }))
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
        rows[0] *= if spec.has_gates_behind_queries() {
            2
        } else {
            1
        };
        let gates = names.gate.map(|name| (name, queries));
        Ok(HeadProjections {
            linears: match names.query_key_value {
                Fused::ByHead(name) => {
                    let shape = [rows.iter().sum(), hidden];
                    vec![self.matrix(name, shape, spec.qkv_bias)?]
                }
                Fused::Separate(names) => {
                    let all = names.into_iter().zip(rows).filter(|(_, rows)| *rows > 0);
                    let all = all.chain(gates);
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
            norm(self.loader, &module, spec.norm.parts(), spec.hidden_size)
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
            QkNorm::None | QkNorm::Unweighted => return Ok(None),
            QkNorm::Heads | QkNorm::HeadsBehindRotation => heads.head_dim,
            QkNorm::Rows => width,
        };
        let module = self.name(module);
        let parts = [self.spec.norm.has_weight, false];
        norm(self.loader, &module, parts, length).map(Some)
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
    pub(super) fn fused<const N: usize>(
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
}
