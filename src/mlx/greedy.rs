//! The choice of the largest logit where the logits are, so that the next step can
//! be built before anybody has seen the token.

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::elementwise::scalar;
use super::ops::Ops;
use crate::error::Result;

/// No logit was above minus infinity.
pub const NO_TOKEN: i32 = -1;

impl Ops {
    /// Whether the next step should be under way before a token is looked at. Our
    /// kernels compute as a step is built, so they have nothing to run ahead with.
    pub fn gains_from_running_ahead(&self) -> bool {
        self.stream().device().is_gpu()
    }

    /// For one row f32 `[1, n]`: the first of the largest, i32 `[1]`, or [`NO_TOKEN`].
    /// NaN is never chosen.
    pub fn greedy_token(&self, logits: &Array) -> Result<Array> {
        let least = scalar(f32::NEG_INFINITY)?;
        let is_nan = self.unary(sys::mlx_isnan, logits)?;
        let logits = self.select(&is_nan, &least, logits)?;
        let best = Array::build(|out| {
            // SAFETY: live handles; mlx-c keeps references of its own.
            unsafe { sys::mlx_argmax_axis(out, logits.raw(), -1, true, self.stream().raw()) }
        })?;
        let value = self.take_along_rows(&logits, &best)?;
        let is_there = self.binary(sys::mlx_greater, &value, &least)?;
        let none = Array::from_i32(&[NO_TOKEN], &[1, 1])?;
        let token = self.select(&is_there, &self.astype(&best, Dtype::I32)?, &none)?;
        self.reshape(&token, &[1])
    }

    fn select(&self, condition: &Array, yes: &Array, no: &Array) -> Result<Array> {
        Array::build(|out| {
            let stream = self.stream().raw();
            // SAFETY: as above.
            unsafe { sys::mlx_where(out, condition.raw(), yes.raw(), no.raw(), stream) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::{CpuOps, Device, Stream};
    use crate::sample::{Logits, Sampler, SamplerParams};

    fn chosen(row: &[f32]) -> i32 {
        let stream = Stream::acquire(Device::Cpu).expect("a stream");
        let ops = Ops::new(stream, CpuOps::Stock, 1);
        let logits = Array::from_f32(row, &[1, row.len() as i32]).expect("an array");
        let token = ops.greedy_token(&logits).expect("nodes");
        ops.stream().eval([&token]).expect("evaluated");
        token.as_i32().expect("a token")[0]
    }

    #[test]
    fn the_choice_is_that_of_the_sampler() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let mut sampler = Sampler::new(SamplerParams::default()).expect("greedy");
        for row in [
            vec![0.0, 3.0, -1.0, 3.0],
            vec![-5.0, -5.0],
            vec![nan, 1.0, nan],
            vec![-inf, -7.0, nan],
            vec![1.0, inf, inf],
            (0..1000).map(|i| ((i * 7919) % 997) as f32).collect(),
        ] {
            let expected = sampler.sample(Logits::F32(&row)).expect("a token");
            assert_eq!(chosen(&row), expected, "{row:?}");
        }
    }

    #[test]
    fn a_row_without_a_token_has_none() {
        assert_eq!(chosen(&[f32::NAN, f32::NEG_INFINITY]), NO_TOKEN);
    }
}
