//! [`regroup`]: the parts of heads next to each other.

use super::parts::HeadParts;
use crate::kernels::floats::FloatsMut;
use crate::kernels::level::Level;
use crate::kernels::pool::Pool;
use crate::kernels::share::share_rows;

/// Copies of each row some parts of all of its heads: those of the first kind in the
/// order of their heads, then those of the next kind.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub fn regroup(pool: &Pool, kinds: &[(HeadParts<'_>, usize)], out: FloatsMut<'_>) {
    let columns = kinds.iter().map(|(parts, n)| n * parts.place.length).sum();
    for (parts, n_heads) in kinds {
        parts.place.check(*n_heads);
        let n_rows = parts.rows.len() / parts.place.columns;
        assert_eq!(out.len(), n_rows * columns);
    }
    let level = Level::detect();
    share_rows(pool, [out], columns, &|row, [out]| {
        let mut out = out;
        for (parts, n_heads) in kinds {
            for head in 0..*n_heads {
                let (own, behind) = out.split_at(parts.place.length);
                level.convert(parts.part(row, head), own);
                out = behind;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::parts::PartPlace;
    use super::*;
    use crate::kernels::testing::{FLOATS, Packed, values};

    #[test]
    fn parts_of_a_kind_come_next_to_each_other() {
        for float in FLOATS {
            // Two heads of 3 + 2 columns behind another one.
            let place = |first, length| PartPlace {
                columns: 11,
                first,
                stride: 5,
                length,
            };
            let rows = Packed::of(float, 1, &values(1, 22));
            let parts = [(1, 3), (4, 2)].map(|(first, length)| {
                let rows = rows.floats();
                let place = place(first, length);
                (HeadParts { rows, place }, 2)
            });
            let mut out = Packed::unset(float, 1, 20);
            regroup(&Pool::new(2), &parts, out.floats_mut());
            let order = [1, 2, 3, 6, 7, 8, 4, 5, 9, 10];
            let given = rows.f64s();
            let expected = [0, 11].map(|row| order.map(|column| given[row + column]));
            assert_eq!(out.f64s(), expected.concat());
        }
    }
}
