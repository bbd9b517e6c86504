//! What mlx-lm's copies of a checkpoint have otherwise than its publisher's, by name, shape
//! and value.

use super::family::Fused;
use super::mlp::{ExpertsSpec, MlpSpec};
use super::prefix::Prefix;
use super::recurrent::{MixerSpec, RecurrentSpec};
use super::spec::{BranchScales, DecoderSpec};
use crate::checkpoint::{Manifest, TensorInfo};
use crate::error::{Error, Result};
use crate::mlx::NormKind;

impl DecoderSpec {
    /// What the checkpoint has of it. Where mlx-lm turns the filters of convolutions, it
    /// adds offsets of norms to their weights, and multiplies weights with some factors.
    pub fn as_stored(mut self, manifest: &Manifest) -> Result<DecoderSpec> {
        match self.turned_mixer(manifest) {
            Some(RecurrentSpec::Delta(_)) => self.norm.kind = NormKind::Rms { offset: 0.0 },
            Some(RecurrentSpec::Scan(scan))
                if scan.has_factors() || self.branch_scales != BranchScales::ONES =>
            {
                return Err(Error::unsupported(
                    "the weights are multiplied with some of config.json's multipliers, as mlx-lm \
                     does it, and not with all; use the publisher's checkpoint",
                ));
            }
            _ => {}
        }
        Ok(self)
    }

    /// Whether mlx-lm would turn the filters of convolutions and nothing else in their
    /// layers. (Where weights would be multiplied, its copies are not read.)
    pub fn has_unturned_filters(&self, manifest: &Manifest) -> bool {
        let has_factors = |mixer| match mixer {
            RecurrentSpec::Scan(scan) => scan.has_factors(),
            RecurrentSpec::ShortConv(_) | RecurrentSpec::Delta(_) => false,
        };
        match self.first_recurrent(manifest) {
            Some((mixer, is_turned)) => {
                !is_turned && !has_factors(mixer) && self.branch_scales == BranchScales::ONES
            }
            None => false,
        }
    }

    /// Whether publishers leave out a 1 of norms that mlx-lm has in them.
    pub fn has_unraised_norms(&self) -> bool {
        let is_delta = |mixer: &RecurrentSpec| matches!(mixer, RecurrentSpec::Delta(_));
        self.norm.kind == NormKind::Rms { offset: 1.0 } && self.recurrent().any(is_delta)
    }

    /// The experts of the layers that have some.
    pub fn experts(&self) -> Option<&ExpertsSpec> {
        let in_place = self.mlps.iter().find_map(MlpSpec::experts);
        in_place.or(self.experts_beside.as_ref())
    }

    /// What may have the layers by number.
    pub fn layer_modules(&self) -> &'static [&'static str] {
        self.names.layers
    }

    /// Modules and tensors of a layer, and what copies call them.
    pub fn renamed(&self) -> Vec<(&'static str, &'static str)> {
        let mut renamed = Vec::new();
        if let Some(experts) = self.experts() {
            let names = &experts.names;
            renamed.extend(names.converted_router.map(|copied| (names.router, copied)));
            renamed.extend(experts.corrections.zip(experts.converted_corrections));
        }
        let Some([gate, up, down]) = self.renamed_network() else {
            return renamed;
        };
        renamed.push((self.names.mlp.down, down));
        if let Fused::Separate(separate) = self.names.mlp.gate_up {
            renamed.extend(separate.into_iter().zip([gate, up]));
        }
        renamed
    }

    /// The matrix of gate and up of dense networks that copies have apart, and as what.
    pub fn network_apart(&self) -> Option<(&'static str, [&'static str; 2])> {
        let [gate, up, _] = self.renamed_network()?;
        match self.names.mlp.gate_up {
            Fused::Together(both) => Some((both, [gate, up])),
            Fused::Separate(_) | Fused::ByHead(_) => None,
        }
    }

    /// Gate, up and down of dense networks in copies, if they are called otherwise.
    fn renamed_network(&self) -> Option<[&'static str; 3]> {
        let is_dense = |mlp: &MlpSpec| matches!(mlp, MlpSpec::Dense(_));
        self.names
            .mlp
            .converted
            .filter(|_| self.mlps.iter().any(is_dense))
    }

    /// The first recurrent mixer, if its convolution is stored as by mlx-lm.
    fn turned_mixer(&self, manifest: &Manifest) -> Option<RecurrentSpec> {
        let (mixer, is_turned) = self.first_recurrent(manifest)?;
        is_turned.then_some(mixer)
    }

    /// The first recurrent mixer, and whether its convolution is stored as by mlx-lm.
    fn first_recurrent(&self, manifest: &Manifest) -> Option<(RecurrentSpec, bool)> {
        let layers = Prefix::find(manifest, self).layers(manifest, self);
        let recurrent = |mixer: &MixerSpec| mixer.recurrent().copied();
        let mut mixers = self.mixers.iter().map(recurrent).enumerate();
        let (index, mixer) = mixers.find_map(|(index, mixer)| Some((index, mixer?)))?;
        let name = format!("{layers}.{index}.{}", mixer.taps_name());
        let is_turned = manifest.tensor(&name)?.shape.last() == Some(&1);
        Some((mixer, is_turned))
    }

    /// Whether the layers' matrices are stored by input, as the shape of the first one
    /// says.
    pub fn is_transposed(&self, manifest: &Manifest) -> bool {
        let Fused::Together(name) = self.names.attention.query_key_value else {
            return false;
        };
        let layers = Prefix::find(manifest, self).layers(manifest, self);
        let tensor = manifest.tensor(&format!("{layers}.0.{name}.weight"));
        let by_input = [self.hidden_size, self.row_columns(0)];
        let is_by_input = |tensor: &TensorInfo| tensor.shape[..] == by_input;
        self.names.may_be_transposed && tensor.is_some_and(is_by_input)
    }
}
