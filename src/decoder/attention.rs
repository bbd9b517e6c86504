//! Attention: the tokens of a step over the caches of their sequences.

use std::sync::Arc;

use crate::error::Result;
use crate::kv::Sequence;
use crate::mlx::{
    Array, AttentionLayer, Ops, Place, Projected, RowContents, StepBlocks, StepStates,
};

/// The next tokens of one sequence.
pub struct Segment<'a> {
    pub n_tokens: usize,
    /// Has room for them.
    pub cache: &'a mut Sequence,
}

/// Where the tokens of a step are, for all of its layers.
pub struct StepPlaces {
    places: Vec<Place>,
    /// For our kernels.
    blocks: Option<Arc<StepBlocks>>,
    states: Option<Arc<StepStates>>,
}

impl StepPlaces {
    pub fn new(ops: &Ops, segments: &[Segment<'_>]) -> StepPlaces {
        let mut first_row = 0;
        let place = |segment: &Segment<'_>| {
            let place = Place {
                first_row,
                n: segment.n_tokens,
                start: segment.cache.length(),
            };
            first_row += segment.n_tokens;
            place
        };
        let places: Vec<Place> = segments.iter().map(place).collect();
        let caches = segments.iter().map(|segment| segment.cache.blocks());
        let caches: Option<Vec<_>> = caches.collect();
        let blocks = caches.map(|caches| {
            let sequences = places.iter().copied().zip(caches).collect();
            Arc::new(StepBlocks::new(ops, sequences))
        });
        StepPlaces {
            states: states(segments, &places),
            places,
            blocks,
        }
    }

    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Of recurrent layers, for our kernels.
    pub fn states(&self) -> Option<&Arc<StepStates>> {
        self.states.as_ref()
    }

    /// The position of each token.
    pub fn positions(&self) -> impl Iterator<Item = usize> {
        let places = self.places.iter();
        places.flat_map(|place| place.start..place.start + place.n)
    }
}

fn states(segments: &[Segment<'_>], places: &[Place]) -> Option<Arc<StepStates>> {
    let layout = segments.first()?.cache.shape().states().clone();
    let own = segments.iter().zip(places);
    let own = own.map(|(segment, place)| segment.cache.state_segment(place.first_row, place.n));
    let own: Option<Vec<_>> = own.collect();
    own.map(|segments| Arc::new(StepStates::new(layout, segments)))
}

/// What each token sees of its sequence, `[n, n_heads * head_dim]`; new keys and
/// values are appended to the caches.
pub fn attend(
    ops: &Ops,
    projected: &Projected,
    layer: &AttentionLayer<'_>,
    segments: &mut [Segment<'_>],
    step: &StepPlaces,
) -> Result<Array> {
    let parts = match (projected, &step.blocks) {
        (Projected::Joined(rows), Some(blocks)) => {
            return ops.attend_in_blocks(rows, layer, blocks);
        }
        (Projected::Joined(_), None) => unreachable!("our kernels cache in blocks"),
        (Projected::Separate(parts), _) if layer.rows_by_head => {
            &ops.apart_by_kind(&parts[0], layer)?
        }
        (Projected::Separate(parts), _) => parts,
    };
    let mut outputs = Vec::with_capacity(segments.len());
    for (segment, &place) in segments.iter_mut().zip(&step.places) {
        let format = segment.cache.shape().layout().format();
        let cache = segment
            .cache
            .update(layer.index, |cache| match layer.contents {
                RowContents::Queries => Ok(cache),
                _ => ops.extend_cache(parts, layer, place, format, cache),
            })?;
        outputs.push(ops.attend(&parts[0], layer, place, format, cache)?);
    }
    match outputs.len() {
        1 => Ok(outputs.remove(0)),
        _ => ops.concatenate(&outputs, 0),
    }
}
