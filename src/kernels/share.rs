//! Rows of outputs shared by the threads of a pool.

use super::floats::FloatsMut;
use super::output::Output;
use super::pool::Pool;

/// Elements that a piece covers at least: about 20 microseconds' worth. Less
/// than two pieces run on the caller's thread.
const PIECE_ELEMENTS: usize = 1 << 16;

/// Calls `compute` once for each row of the outputs, which are rows of `columns`
/// and equally many.
///
/// # Panics
/// If they are not.
pub fn share_rows<const N: usize>(
    pool: &Pool,
    outputs: [FloatsMut<'_>; N],
    columns: usize,
    compute: &(dyn Fn(usize, [FloatsMut<'_>; N]) + Sync),
) {
    let length = outputs[0].len();
    assert!(outputs.iter().all(|output| output.len() == length));
    if length == 0 {
        return;
    }
    assert!(columns > 0 && length.is_multiple_of(columns));
    let n_rows = length / columns;
    let outputs = outputs.map(|output| (output.float(), Output::new(output.into_bytes())));
    let rows_per_piece = PIECE_ELEMENTS.div_ceil(columns);
    pool.run(n_rows.div_ceil(rows_per_piece), &|piece| {
        let first = piece * rows_per_piece;
        for row in first..(first + rows_per_piece).min(n_rows) {
            compute(
                row,
                outputs.each_ref().map(|(float, output)| {
                    let row_bytes = columns * float.bytes();
                    // SAFETY: each row belongs to one piece, which takes it once.
                    let bytes = unsafe { output.part(row * row_bytes..(row + 1) * row_bytes) };
                    FloatsMut::new(*float, bytes)
                }),
            );
        }
    });
}
