//! What the magnitudes of DoRA adapters come to, for the weights that they were made for
//! (Liu et al., 2024): each row of a weight with its update is made as long as they say.

use super::super::weights::{Mixer, MlpWeights, Weights};
use super::Place;
use crate::error::Result;
use crate::mlx::{Array, Gains, Linear, LowRank, Ops};

/// Those of an update of the projections at `place`.
pub fn gains(
    ops: &Ops,
    magnitudes: &Array,
    update: &LowRank,
    (weights, place): (&Weights, Place),
) -> Result<Gains> {
    let outputs = update.outputs();
    let mut values = ops.values_of(magnitudes)?;
    let mut biases = vec![0.0; outputs];
    let mut has_bias = false;
    let (mut column, mut first) = (0, 0);
    for linear in linears_at(weights, place) {
        let is_own = (update.first_column..update.first_column + outputs).contains(&column);
        column += linear.outputs() as usize;
        if !is_own {
            continue;
        }
        let lengths = ops.adapted_lengths(&linear.weight, update, first)?;
        let own = first..first + lengths.len();
        let pairs = values[own.clone()].iter_mut().zip(lengths);
        pairs.for_each(|(value, length)| *value /= length);
        if let Some(bias) = ops.bias_values(linear)? {
            biases[own.clone()].copy_from_slice(&bias);
            has_bias = true;
        }
        first = own.end;
    }
    let shape = [1, outputs as i32];
    let bias = has_bias.then(|| Array::from_f32(&biases, &shape));
    Ok(Gains {
        values: Array::from_f32(&values, &shape)?,
        bias: bias.transpose()?,
        strength: 1.0,
    })
}

/// What is projected there, in the order of its columns.
fn linears_at(weights: &Weights, place: Place) -> Vec<&Linear> {
    match place {
        Place::Head => vec![weights.head()],
        Place::Output(layer) => {
            let mixer = weights.layers[layer].mixer.iter();
            mixer.map(|mixer| &mixer.output).collect()
        }
        Place::QueryKeyValue(layer) => {
            let mixer = weights.layers[layer].mixer.as_ref();
            match mixer.map(|mixer| &mixer.inputs) {
                Some(Mixer::Heads(heads)) => heads.linears.iter().collect(),
                Some(Mixer::Recurrent(recurrent)) => recurrent.linears(),
                Some(Mixer::Latent(_)) | None => Vec::new(),
            }
        }
        Place::GateUp(layer) => match &weights.layers[layer].mlp {
            MlpWeights::Gated(gated) => vec![&gated.gate, &gated.up],
            MlpWeights::Plain { up, .. } => vec![up],
            MlpWeights::Experts(_) | MlpWeights::None => Vec::new(),
        },
        Place::Down(layer) => match &weights.layers[layer].mlp {
            MlpWeights::Gated(gated) => vec![&gated.down],
            MlpWeights::Plain { down, .. } => vec![down],
            MlpWeights::Experts(_) | MlpWeights::None => Vec::new(),
        },
    }
}
