//! [`Plan`]: how the work of one segment is cut.

use super::Attention;
use super::tile::{Piece, TILE};

/// Query rows of a piece at most: keys are prepared for all of them at once, and
/// scratch memory stays within the second-level cache.
pub const TILE_ROWS: usize = 64;

/// Pieces that positions are cut for, at most.
pub const MAX_PIECES: usize = 64;

/// Products of one query and one key element that a piece costs at least: about
/// 50 microseconds' worth.
const PIECE_PRODUCTS: usize = 1 << 22;

/// Preparing a position costs as much as this many query rows.
const POSITION_ROWS: usize = 8;

/// What a tile of rows costs.
fn tile_products(tile_rows: usize, row_products: usize, n_visible: usize) -> usize {
    (tile_rows + POSITION_ROWS)
        .saturating_mul(row_products)
        .saturating_mul(n_visible)
}

fn n_cuts(tile_products: usize, n_tiles: usize) -> usize {
    (tile_products / PIECE_PRODUCTS).clamp(1, (MAX_PIECES / n_tiles).max(1))
}

/// Query rows that pieces have partial results of, if one segment has so many rows of
/// each key-value head and sees all of `n_positions`.
pub fn partial_rows(
    n_rows: usize,
    n_kv_heads: usize,
    row_products: usize,
    n_positions: usize,
) -> usize {
    let tile_rows = n_rows.min(TILE_ROWS);
    let n_tiles = n_rows.div_ceil(TILE_ROWS) * n_kv_heads;
    let n_cuts = n_cuts(
        tile_products(tile_rows, row_products, n_positions),
        n_tiles.max(1),
    );
    match n_cuts {
        1 => 0,
        _ => n_tiles * n_cuts * tile_rows,
    }
}

/// So many rows of each key-value head are so many tiles that none of them is cut.
pub fn uncut_rows(n_kv_heads: usize) -> usize {
    (MAX_PIECES / 2).div_ceil(n_kv_heads.max(1)) * TILE_ROWS + 1
}

/// Tiles of rows, and each of them by positions. Neither the number of threads nor
/// other segments matter, so that results don't depend on them.
pub struct Plan {
    tile_rows: usize,
    /// Tiles of one key-value head.
    pub n_row_tiles: usize,
    n_kv_heads: usize,
    pub n_cuts: usize,
    /// What a piece costs, in products of one query and one key element.
    pub piece_products: usize,
}

impl Plan {
    pub fn new(job: &Attention<'_>) -> Self {
        let step = job.step;
        let tile_rows = job.rows().min(TILE_ROWS);
        let n_row_tiles = job.rows().div_ceil(tile_rows);
        let n_tiles = n_row_tiles * step.n_kv_heads();
        let row_products = step.key_dim() + step.value_dim();
        let start = job.segment.start;
        let n_visible = step.reach.most(start..start + job.segment.n_tokens);
        let products = tile_products(tile_rows, row_products, n_visible);
        let n_cuts = n_cuts(products, n_tiles);
        Plan {
            tile_rows,
            n_row_tiles,
            n_kv_heads: step.n_kv_heads(),
            n_cuts,
            piece_products: products / n_cuts,
        }
    }

    pub fn n_tiles(&self) -> usize {
        self.n_row_tiles * self.n_kv_heads
    }

    pub fn tile_rows(&self) -> usize {
        self.tile_rows
    }

    /// Cut `cut` of tile `tile`. The first tiles see most, so that the threads
    /// end together. Cuts are where tiles of positions meet.
    pub fn piece(&self, job: &Attention<'_>, tile: usize, cut: usize) -> Piece {
        let row_tile = self.n_row_tiles - 1 - tile / self.n_kv_heads;
        let first = row_tile * self.tile_rows;
        let rows = first..(first + self.tile_rows).min(job.rows());
        let group = job.step.group();
        let seen_first = job.visible(rows.start / group).start;
        let seen_end = job.visible((rows.end - 1) / group).end;
        let first_tile = seen_first / TILE;
        let n_tiles = seen_end.div_ceil(TILE) - first_tile;
        let bound = |cut: usize| {
            let tile = first_tile + n_tiles * cut / self.n_cuts;
            (tile * TILE).clamp(seen_first, seen_end)
        };
        Piece {
            kv_head: tile % self.n_kv_heads,
            rows,
            positions: bound(cut)..bound(cut + 1),
        }
    }
}
