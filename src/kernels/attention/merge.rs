//! From partial results over parts of the positions to the result.

use super::plan::MAX_PIECES;
use super::tile::{Partial, Piece};
use super::vector::Vector;
use super::{Attention, PADDING};
use crate::kernels::output::Output;

/// Writes the results of a piece's rows. `partials` are those of `n_cuts` pieces
/// with these rows, one piece after the other.
///
/// # Safety
/// As [`Vector`] says; nobody else writes the results of these rows.
#[inline(always)]
pub unsafe fn merge<V: Vector>(
    job: &Attention<'_>,
    piece: &Piece,
    partials: &[f32],
    n_cuts: usize,
    out: &Output<'_, u8>,
) {
    let floats = Partial::floats(job);
    let cut_floats = partials.len() / n_cuts;
    let step = job.step;
    let row_bytes = step.value_dim() * step.rows.float().bytes();
    for (index, row) in piece.rows.clone().enumerate() {
        let (row, head) = job.place(piece.kv_head, row);
        let first = (row * step.n_heads + head) * row_bytes;
        let sink = step.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head]);
        let cuts = partials[index * floats..].chunks(cut_floats);
        // SAFETY: as for this function.
        unsafe {
            let out = out.part(first..first + row_bytes);
            merge_row::<V>(job, cuts, sink, out);
        }
    }
}

#[inline(always)]
unsafe fn merge_row<'a, V: Vector>(
    job: &Attention<'_>,
    cuts: impl Iterator<Item = &'a [f32]> + Clone,
    sink: f32,
    out: &mut [u8],
) {
    let largest = cuts
        .clone()
        .map(|cut| cut[Partial::LARGEST])
        .fold(sink, f32::max);
    let mut factors = [0.0; MAX_PIECES];
    let mut sum = weight(sink, largest);
    for (cut, factor) in cuts.clone().zip(&mut factors) {
        *factor = weight(cut[Partial::LARGEST], largest);
        sum += cut[Partial::SUM] * *factor;
    }
    let float = job.step.rows.float();
    let bytes = float.bytes();
    for column in (0..job.step.value_dim()).step_by(V::LANES) {
        // SAFETY: partial results are padded to whole vectors, `rest` is one.
        unsafe {
            let mut values = V::splat(0.0);
            for (cut, factor) in cuts.clone().zip(factors) {
                let part = V::load(cut[Partial::VALUES + column..].as_ptr());
                values = part.mul_add(V::splat(factor), values);
            }
            let values = values.div(V::splat(sum));
            let out = &mut out[column * bytes..];
            if out.len() >= V::LANES * bytes {
                values.store_as(float, out.as_mut_ptr());
            } else {
                let mut rest = [0; PADDING * size_of::<f32>()];
                values.store_as(float, rest.as_mut_ptr());
                out.copy_from_slice(&rest[..out.len()]);
            }
        }
    }
}

/// What a weight relative to `old` counts relative to `largest`.
fn weight(old: f32, largest: f32) -> f32 {
    if old == f32::NEG_INFINITY {
        0.0
    } else {
        (old - largest).exp()
    }
}
