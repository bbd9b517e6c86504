//! A draw from what temperature, top-k, top-p and min-p leave of a row.
//!
//! Weights become whole numbers before they are added up: such sums are exact in
//! whatever order a device adds, so they neither depend on the device nor lose
//! unlikely tokens beside likely ones. What is left of rounding is that of the
//! weights themselves, float32, where the CPU's sampler computes them in float64.

use mlx_sys as sys;

use super::super::array::{Array, Dtype};
use super::super::elementwise::scalar;
use super::super::ops::Ops;
use crate::error::Result;

/// The stages behind the penalties, each off at 0 but for the temperature, which is
/// above; and at which share of the weights, in [0, 1), the token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub unit: f64,
}

impl Draw {
    /// How many candidates of `n` are left of top-k.
    fn n_kept(&self, n: i32) -> i32 {
        match i32::try_from(self.top_k) {
            Ok(k) if k > 0 => k.min(n),
            _ => n,
        }
    }

    fn has_top_p(&self) -> bool {
        self.top_p > 0.0 && self.top_p < 1.0
    }
}

/// Which way products are rounded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Down,
    Up,
}

/// Sums of whole weights are below 2^63.
const SUM_BITS: u32 = 62;
/// A factor from 0 to 1 is two numbers of this many bits.
const LIMB_BITS: u32 = 31;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;

impl Ops {
    /// From `[n]` without NaN, of which `[1]` is the largest: the token, `[1]`. If all
    /// are minus infinity it is one of them.
    pub(super) fn drawn_token(
        &self,
        logits: &Array,
        largest: &Array,
        draw: &Draw,
    ) -> Result<Array> {
        let n = logits.dim(0);
        let n_kept = draw.n_kept(n);
        let ranking = match n_kept < n || draw.has_top_p() {
            true => Some(self.ranking(logits, n_kept)?),
            false => None,
        };
        let weights = match &ranking {
            Some(ids) => self.weights(&self.take_along_rows(logits, ids)?, largest, draw)?,
            None => self.weights(logits, largest, draw)?,
        };
        let sums = self.running_sums(&self.narrowed(&weights, draw)?)?;
        let target = self.share(&self.last(&sums)?, draw.unit, Rounding::Down)?;
        let place = self.first_largest(&self.binary(sys::mlx_greater, &sums, &target)?)?;
        match &ranking {
            Some(ids) => self.take_along_rows(ids, &place),
            None => Ok(place),
        }
    }

    /// The ids of the first `n_kept` by rank, i32: largest logit first, lowest id among
    /// equals. Keys of logit and id are all different, so any way to sort will do.
    fn ranking(&self, logits: &Array, n_kept: i32) -> Result<Array> {
        let zero = scalar(0.0)?;
        // There are two zeros, which are equal.
        let is_zero = self.binary(sys::mlx_equal, logits, &zero)?;
        let logits = self.select(&is_zero, &zero, logits)?;
        let bits = self.view(&logits, Dtype::U32)?;
        let falling = self.binary(sys::mlx_bitwise_xor, &bits, &u32_scalar(0x7fff_ffff)?)?;
        let is_negative = self.binary(sys::mlx_less, &logits, &zero)?;
        let rank = self.astype(&self.select(&is_negative, &bits, &falling)?, Dtype::U64)?;
        let high = self.binary(sys::mlx_left_shift, &rank, &u64_scalar(32)?)?;
        let keys = self.binary(sys::mlx_bitwise_or, &high, &self.ids(logits.dim(0))?)?;
        let sorted = self.slice(&self.sorted(&keys)?, &[0], &[n_kept])?;
        let low = self.binary(
            sys::mlx_bitwise_and,
            &sorted,
            &u64_scalar(u64::from(u32::MAX))?,
        )?;
        self.astype(&low, Dtype::I32)
    }

    /// `exp((logit - largest) / temperature)`; infinitely large logits have 1 and the
    /// others nothing.
    fn weights(&self, logits: &Array, largest: &Array, draw: &Draw) -> Result<Array> {
        let below = self.binary(sys::mlx_subtract, logits, largest)?;
        let scaled = self.binary(sys::mlx_divide, &below, &scalar(draw.temperature)?)?;
        let weights = self.unary(sys::mlx_exp, &scaled)?;
        let is_largest = self.binary(sys::mlx_equal, logits, largest)?;
        self.select(&is_largest, &scalar(1.0)?, &weights)
    }

    /// Whole weights, 0 for what top-p and min-p drop.
    fn narrowed(&self, weights: &Array, draw: &Draw) -> Result<Array> {
        let none = u64_scalar(0)?;
        let one = (1u64 << whole_bits(weights.dim(0))) as f32;
        let whole = self.binary(sys::mlx_multiply, weights, &scalar(one)?)?;
        let mut whole = self.astype(&whole, Dtype::U64)?;
        if draw.has_top_p() {
            let sums = self.running_sums(&whole)?;
            let wanted = self.share(&self.last(&sums)?, f64::from(draw.top_p), Rounding::Up)?;
            let before = self.binary(sys::mlx_subtract, &sums, &whole)?;
            let is_kept = self.binary(sys::mlx_less, &before, &wanted)?;
            whole = self.select(&is_kept, &whole, &none)?;
        }
        if draw.min_p > 0.0 {
            let is_kept = self.binary(sys::mlx_greater_equal, weights, &scalar(draw.min_p)?)?;
            whole = self.select(&is_kept, &whole, &none)?;
        }
        Ok(whole)
    }

    /// `fraction`, from 0 to 1, of a sum of whole weights.
    fn share(&self, sum: &Array, fraction: f64, rounding: Rounding) -> Result<Array> {
        let times = |a: &Array, b: u64| self.binary(sys::mlx_multiply, a, &u64_scalar(b)?);
        let limb = u64_scalar(u64::from(LIMB_BITS))?;
        let upper = |a: &Array| self.binary(sys::mlx_right_shift, a, &limb);
        let scaled = fraction * (LIMB_MASK + 1) as f64;
        let coarse = scaled as u64;
        let fine = ((scaled - coarse as f64) * (LIMB_MASK + 1) as f64) as u64;
        let high = upper(sum)?;
        let low = self.binary(sys::mlx_bitwise_and, sum, &u64_scalar(LIMB_MASK)?)?;
        let mut low = times(&low, coarse)?;
        if rounding == Rounding::Up {
            low = self.add(&low, &u64_scalar(LIMB_MASK)?)?;
        }
        let share = self.add(&times(&high, coarse)?, &upper(&low)?)?;
        match fine {
            0 => Ok(share),
            fine => self.add(&share, &upper(&times(&high, fine)?)?),
        }
    }

    fn running_sums(&self, whole: &Array) -> Result<Array> {
        let own_type = sys::mlx_optional_dtype {
            value: Dtype::U64.raw(),
            has_value: false,
        };
        let stream = self.stream().raw();
        // SAFETY: live handles; mlx-c keeps references of its own.
        Array::build(|out| unsafe {
            sys::mlx_cumsum(out, whole.raw(), false, true, own_type, stream)
        })
    }

    /// The last of `[n]`, `[1]`.
    fn last(&self, values: &Array) -> Result<Array> {
        let n = values.dim(0);
        self.slice(values, &[n - 1], &[n])
    }

    fn sorted(&self, keys: &Array) -> Result<Array> {
        // SAFETY: as above.
        Array::build(|out| unsafe { sys::mlx_sort_axis(out, keys.raw(), 0, self.stream().raw()) })
    }

    fn ids(&self, n: i32) -> Result<Array> {
        let (stream, dtype) = (self.stream().raw(), Dtype::U64.raw());
        // SAFETY: as above.
        Array::build(|out| unsafe { sys::mlx_arange(out, 0.0, f64::from(n), 1.0, dtype, stream) })
    }

    fn view(&self, values: &Array, dtype: Dtype) -> Result<Array> {
        let stream = self.stream().raw();
        // SAFETY: as above.
        Array::build(|out| unsafe { sys::mlx_view(out, values.raw(), dtype.raw(), stream) })
    }
}

/// Bits of a whole weight of 1, so that `n` of them fit into a sum.
fn whole_bits(n: i32) -> u32 {
    SUM_BITS - (n as u32).next_power_of_two().trailing_zeros()
}

fn u32_scalar(value: u32) -> Result<Array> {
    Array::copy_of(&value.to_ne_bytes(), &[], Dtype::U32)
}

fn u64_scalar(value: u64) -> Result<Array> {
    Array::copy_of(&value.to_ne_bytes(), &[], Dtype::U64)
}
