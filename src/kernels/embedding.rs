//! Rows of a table by token id.

use super::floats::{Floats, FloatsMut};
use super::level::Level;
use super::pool::Pool;
use super::share::share_rows;

/// Writes row `ids[i]` of a table, times `scale`, into row `i` of `out`.
/// `read_row(index, row)` reads a row of the table as float32, from whatever the
/// table consists of.
///
/// # Panics
/// If an id is not below `n_rows`, or `out` is not `ids.len()` rows of `columns`.
pub fn gather(
    pool: &Pool,
    ids: &[u32],
    (n_rows, columns): (usize, usize),
    read_row: &(dyn Fn(usize, &mut [f32]) + Sync),
    scale: Option<f32>,
    out: FloatsMut<'_>,
) {
    assert!(ids.iter().all(|id| (*id as usize) < n_rows));
    assert_eq!(out.len(), ids.len() * columns);
    let level = Level::detect();
    share_rows(pool, [out], columns, &|row, [out]| {
        let mut values = vec![0.0; columns];
        read_row(ids[row] as usize, &mut values);
        level.scale(Floats::from(&values[..]), scale, out);
    });
}

/// A table of floats for `gather`.
pub fn float_rows(table: Floats<'_>) -> impl Fn(usize, &mut [f32]) + Sync + '_ {
    let level = Level::detect();
    move |index, row| level.convert(table.row(index, row.len()), FloatsMut::from(row))
}

#[cfg(test)]
mod tests;
