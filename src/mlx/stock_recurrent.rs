//! Mixers with states by MLX's operations, one sequence at a time. States are float32.

use super::array::{Array, Dtype};
use super::ops::Ops;
use super::recurrent::ConvLayer;
use crate::error::Result;

impl Ops {
    /// Convolves a sequence's rows behind its state; gives the result, `[n, n_channels]`,
    /// and the state behind them.
    pub fn convolve(
        &self,
        rows: &Array,
        conv: &ConvLayer<'_>,
        state: &Array,
    ) -> Result<(Array, Array)> {
        let (n, n_channels) = (rows.dim(0), conv.n_channels as i32);
        let wide = |first: usize| {
            let first = first as i32;
            let part = self.slice(rows, &[0, first], &[n, first + n_channels])?;
            self.astype(&part, Dtype::F32)
        };
        let mut x = wide(conv.input)?;
        if let Some([gate, _]) = conv.gates {
            x = self.multiply(&x, &wide(gate)?)?;
        }
        let window = self.concatenate(&[state.clone(), x], 0)?;
        let mut y = self.weighted_window(&window, conv, n)?;
        if let Some(activation) = conv.activation {
            y = self.stock_activation(activation, &y)?;
        }
        if let Some([_, gate]) = conv.gates {
            y = self.multiply(&y, &wide(gate)?)?;
        }
        let last = self.slice(&window, &[n, 0], window.shape())?;
        // A slice would hold the whole window.
        Ok((self.astype(&y, rows.dtype()?)?, self.dense(&last)?))
    }

    /// The sum over the taps, and the bias.
    fn weighted_window(&self, window: &Array, conv: &ConvLayer<'_>, n: i32) -> Result<Array> {
        let n_channels = conv.n_channels as i32;
        let weight = self.astype(conv.weight, Dtype::F32)?;
        let mut sum = match conv.bias {
            Some(bias) => Some(self.astype(bias, Dtype::F32)?),
            None => None,
        };
        for tap in 0..conv.weight.dim(1) {
            let x = self.slice(window, &[tap, 0], &[tap + n, n_channels])?;
            let factors = self.slice(&weight, &[0, tap], &[n_channels, tap + 1])?;
            let factors = self.reshape(&factors, &[1, n_channels])?;
            let product = self.multiply(&x, &factors)?;
            sum = Some(match sum {
                Some(sum) => self.add(&sum, &product)?,
                None => product,
            });
        }
        Ok(sum.expect("a convolution has taps"))
    }
}
