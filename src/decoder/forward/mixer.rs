//! What tokens know of those in front of them: attention and recurrent mixers.

use super::Decoder;
use crate::decoder::attention::{Segment, StepPlaces, attend};
use crate::decoder::family::QkNorm;
use crate::decoder::weights::{Beside, HeadProjections, Mixer};
use crate::error::Result;
use crate::mlx::{Array, AttentionLayer, LowRank, Norm, Ops, Projected, Rotation};

impl Decoder {
    /// What each segment's tokens know of its sequence, as the output projection takes
    /// it.
    pub(super) fn mix(
        &self,
        (ops, updates): (&Ops, &[LowRank]),
        (index, mixer): (usize, &Mixer),
        hidden: &Array,
        segments: &mut [Segment<'_>],
        step: &StepPlaces,
        rotation: Option<&Rotation<'_>>,
    ) -> Result<Array> {
        let (spec, layer) = (&self.spec, &self.weights.layers[index]);
        let norm = layer.attention_norm.as_ref().map(|norm| self.norm(norm));
        let heads = &spec.heads[index];
        let mut gates = None;
        let (projected, [query_norm, key_norm]) = match mixer {
            Mixer::Recurrent(weights) => {
                let projected = ops.project(hidden, norm, &weights.linears())?;
                let projected = ops.adapt(projected, hidden, norm, updates)?;
                return weights.mix(ops, index, &projected, segments, step);
            }
            Mixer::Latent(weights) => (weights.project(ops, hidden, norm)?, [None; 2]),
            Mixer::Heads(weights) => {
                let linears: Vec<_> = weights.linears.iter().collect();
                let projected = ops.project(hidden, norm, &linears)?;
                let mut projected = ops.adapt(projected, hidden, norm, updates)?;
                if spec.gates_attention {
                    let n_heads = (heads.n_heads, heads.n_kv_heads);
                    let (others, rows, layer) = match spec.has_gates_behind_queries() {
                        true => ops.apart_from_gates(projected, n_heads, heads.head_dim)?,
                        false => ops.apart_from_last_gates(projected, n_heads, heads.head_dim)?,
                    };
                    (projected, gates) = (others, Some((rows, layer)));
                }
                let rotates = rotation.is_some();
                let (projected, norms) = self.normalize_heads(ops, weights, projected, rotates)?;
                match spec.qkv_limit {
                    Some(limit) => (ops.clamped(projected, limit)?, norms),
                    None => (projected, norms),
                }
            }
        };
        let parameters = AttentionLayer {
            index: heads.cache_layer,
            contents: heads.contents,
            n_heads: heads.n_heads,
            n_kv_heads: heads.n_kv_heads,
            head_dim: heads.head_dim,
            rows_by_head: spec.has_rows_by_head(),
            values_in_keys: spec.latent.map(|latent| latent.shape.rank),
            query_norm,
            key_norm,
            norms_behind_rotation: spec.qk_norm == QkNorm::HeadsBehindRotation,
            value_norm: spec.value_norm.then(|| self.norm_of(None)),
            rotation,
            scale: spec.attention_scale_of(index),
            position_scale: spec.position_scales[index],
            reach: spec.reaches[index],
            soft_cap: spec.score_cap,
            sinks: layer.sinks.as_ref(),
        };
        let seen = attend(ops, &projected, &parameters, segments, step)?;
        drop(projected);
        match (mixer, gates) {
            (Mixer::Latent(weights), _) => weights.expand(ops, &seen),
            (_, Some((rows, gates))) => ops.gate_heads(&seen, &rows, &gates),
            (_, None) => Ok(seen),
        }
    }

    /// `sum` plus what a recurrent mixer makes of the same `hidden` states as attention.
    pub(super) fn add_beside(
        &self,
        ops: &Ops,
        index: usize,
        beside: &Beside,
        (hidden, sum): (&Array, &Array),
        segments: &mut [Segment<'_>],
        step: &StepPlaces,
    ) -> Result<Array> {
        let norm = self.weights.layers[index].attention_norm.as_ref();
        let norm = norm.map(|norm| self.norm(norm));
        let projected = ops.project(hidden, norm, &beside.mixer.linears())?;
        let mixed = beside.mixer.mix(ops, index, &projected, segments, step)?;
        let scale = self.spec.branch_scales.beside;
        self.project_onto(ops, sum, &mixed, (&beside.output, &[]), (None, scale))
    }

    /// Normalizes rows of queries and keys; norms of single heads are left to
    /// attention.
    fn normalize_heads<'a>(
        &self,
        ops: &Ops,
        heads: &'a HeadProjections,
        projected: Projected,
        rotates: bool,
    ) -> Result<(Projected, [Option<Norm<'a>>; 2])> {
        let norms = [&heads.query_norm, &heads.key_norm];
        let norms = norms.map(|norm| norm.as_ref().map(|norm| self.norm(norm)));
        match self.spec.qk_norm {
            QkNorm::None | QkNorm::Heads | QkNorm::HeadsBehindRotation => Ok((projected, norms)),
            QkNorm::Unweighted => {
                let norm = rotates.then(|| self.norm_of(None));
                Ok((projected, [norm; 2]))
            }
            QkNorm::Rows => Ok((ops.normalize_parts(projected, norms)?, [None; 2])),
        }
    }
}
