//! [`Tiles`]: products of many rows of activations. They are rearranged once
//! into panels of 16 rows; then tiles of a few rows of weights times one or two
//! panels are computed in registers, from blocks that stay in the cache.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use super::ahead::Ahead;
use super::arithmetic::Activations;
use super::panels::{Element, PANEL, Panels};
use super::planes::Resolution;
use super::rows::Rows;
use super::shape::{ProductShape, Stored};
use super::{Block, Job, Matrix, Projection, codes};
use crate::kernels::float::Float;
use crate::kernels::floats::FloatsMut;
use crate::kernels::level::Level;
use crate::kernels::pool::{Buffer, Pool};
use crate::kernels::stop::Stop;

/// Rows of weights in a block, at most: of float32, and of what takes less room.
const BLOCK_ROWS_F32: usize = 48;
const BLOCK_ROWS: usize = 96;
/// Columns of a block.
const BLOCK_COLUMNS: usize = 2048;
/// Words of a tile: two panels of so many stay in the first-level cache while all
/// rows of a block pass by.
const TILE_WORDS: usize = 128;
/// Words behind each row of a block, so that rows do not share cache sets.
const ROW_PADDING: usize = 16;
/// Words from one row of a block of codes to the next.
#[cfg(any(target_arch = "x86_64", test))]
pub const CODES_STRIDE: usize = BLOCK_COLUMNS / 4 + ROW_PADDING;

/// A tile of a block: what a micro kernel multiplies. Columns are counted in
/// words of four bytes.
pub struct Tile {
    /// Rows of weights, `weights_stride` words apart.
    pub weights: *const u32,
    pub weights_stride: usize,
    /// Panels `[words, 16]`, `panel_stride` words apart.
    pub panel: *const u32,
    pub panel_stride: usize,
    pub words: usize,
    /// `[rows, 16]` sums to add to, for each panel, `out_stride` apart.
    pub out: *mut f32,
    pub out_stride: usize,
    /// For codes, per group of `group_words`: by row, `groups_stride` apart.
    pub scales: *const f32,
    pub biases: *const f32,
    pub groups_stride: usize,
    pub group_words: usize,
    /// Words of weights that share a scale of the activations. For each, a panel
    /// has so many words of each plane, the highest first.
    pub part_words: usize,
    pub planes: usize,
    /// Of the weights, if they are codes.
    pub largest_code: u8,
    /// Of a panel: `[parts, 16]` scales, `[groups, 16]` sums, and how far apart
    /// those of two panels are.
    pub x_scales: (*const f32, usize),
    pub x_sums: (*const f32, usize),
}

impl Tile {
    /// One of its panels.
    pub fn panel(&self, index: usize) -> Tile {
        let behind =
            |(from, stride): (*const f32, usize)| (from.wrapping_add(index * stride), stride);
        Tile {
            panel: self.panel.wrapping_add(index * self.panel_stride),
            out: self.out.wrapping_add(index * self.out_stride),
            x_scales: behind(self.x_scales),
            x_sums: behind(self.x_sums),
            ..*self
        }
    }
}

/// A block of weights in scratch memory, and where its sums go.
struct Place {
    /// Which operand of a gate.
    operand: usize,
    padded_rows: usize,
    weights_stride: usize,
    /// Its first word in the whole rows.
    first_word: usize,
    largest_code: u8,
}

/// Rows of activations in the panels that the weights want.
pub struct Tiles<'a> {
    level: Level,
    n: usize,
    columns: usize,
    /// By projection: which of the panels.
    choice: Vec<usize>,
    panels: Vec<Panels>,
    projections: &'a [Projection<'a>],
    stop: Option<Arc<Stop>>,
}

/// All rows in panels, with the scales and sums of their groups.
pub fn panel_bytes(shape: &ProductShape) -> usize {
    let element = stored_element(shape);
    let n_padded = shape.n_rows.next_multiple_of(PANEL);
    let words = shape.columns.div_ceil(element.columns()) * element.planes();
    let factors = element.groups().map_or(0, |(group, part)| {
        shape.columns / group + shape.columns / part
    });
    n_padded * (words + factors) * size_of::<u32>()
}

/// A block of weights, and the sums of both operands of a gate.
pub fn thread_scratch_bytes(shape: &ProductShape) -> usize {
    let n_padded = shape.n_rows.next_multiple_of(PANEL);
    let element = stored_element(shape);
    let weights = weights_stride(element) * size_of::<u32>();
    let sums = 2 * (n_padded + PANEL) * size_of::<f32>();
    block_rows(element) * (weights + sums)
}

/// Rows of weights in a block, at most.
fn block_rows(element: Element) -> usize {
    match element {
        Element::F32 => BLOCK_ROWS_F32,
        Element::Bf16 | Element::Codes { .. } => BLOCK_ROWS,
    }
}

/// In what tiles are computed at most.
fn stored_element(shape: &ProductShape) -> Element {
    let in_halves = Level::detect().has_dot_halves();
    match (shape.weights, shape.float) {
        (Stored::Float(Float::Bf16), Float::Bf16) if in_halves => Element::Bf16,
        (Stored::Codes(format), float @ (Float::F16 | Float::Bf16)) if in_halves => {
            Element::Codes {
                resolution: Resolution::choose(float, format, shape.n_rows, shape.activations),
                group_size: format.group_size(),
            }
        }
        _ => Element::F32,
    }
}

/// Words from one row of a block to the next.
fn weights_stride(element: Element) -> usize {
    BLOCK_COLUMNS / element.columns() + ROW_PADDING
}

thread_local! {
    /// Grows to a block and stays.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    /// Rows of weights in the tiles' type.
    weights: Vec<u32>,
    /// By operand of a gate.
    sums: [Vec<f32>; 2],
    /// Those of a panel, `[16, rows]`.
    panel_sums: [Vec<f32>; 2],
    scales: Vec<f32>,
    biases: Vec<f32>,
    /// Of a row that becomes float32.
    row: Vec<f32>,
}

impl<'a> Tiles<'a> {
    pub fn prepare(
        level: Level,
        pool: &Pool,
        x: &Rows<'_>,
        projections: &'a [Projection<'a>],
        activations: Activations,
    ) -> Tiles<'a> {
        let mut panels: Vec<Panels> = Vec::new();
        let choice = projections
            .iter()
            .map(|projection| {
                let element = Element::choose(level, x, &projection.matrix, activations);
                let same = |made: &Panels| made.element == element;
                panels.iter().position(same).unwrap_or_else(|| {
                    panels.push(Panels::new(level, pool, x, element));
                    panels.len() - 1
                })
            })
            .collect();
        Tiles {
            level,
            n: x.n(),
            columns: x.columns,
            choice,
            panels,
            projections,
            stop: pool.stop(),
        }
    }

    pub fn run(self, pool: &Pool, job: &Job<'_>) {
        let fair = job.width.div_ceil(8 * pool.n_threads());
        let most = self.panels.iter().map(|panels| block_rows(panels.element));
        let most = most.min().unwrap_or(BLOCK_ROWS);
        let blocks = job.blocks(fair.next_multiple_of(12).min(most));
        pool.run(blocks.len(), &|piece| {
            SCRATCH.with_borrow_mut(|scratch| {
                let block = &blocks[piece];
                let projections = job.projections_of(block);
                // Threads take blocks in turns.
                let later = blocks.get(piece + pool.n_threads());
                let later = later.map(|block| (job.projections_of(block).start, &block.rows));
                for (index, projection) in projections.clone().enumerate() {
                    let next = match projection + 1 < projections.end {
                        true => Some((projection + 1, &block.rows)),
                        false => later,
                    };
                    self.multiply(projection, index, &block.rows, next, scratch);
                }
                self.finish(job, block, scratch);
            });
        });
        for panels in self.panels {
            panels.give_back(pool);
        }
    }

    /// Gives the sums to the job, panel by panel.
    fn finish(&self, job: &Job<'_>, block: &Block, scratch: &mut Scratch) {
        let n_rows = block.rows.len();
        let Scratch {
            sums, panel_sums, ..
        } = scratch;
        for values in &mut *panel_sums {
            values.resize(PANEL * n_rows, 0.0);
        }
        for first_token in (0..self.n).step_by(PANEL) {
            let n_tokens = PANEL.min(self.n - first_token);
            let projections = job.projections_of(block).zip(&*sums).zip(&mut *panel_sums);
            for ((projection, sums), values) in projections {
                let padded_rows = n_rows.next_multiple_of(self.tile_rows(projection));
                let panel = &sums[first_token * padded_rows..][..n_rows * PANEL];
                self.level.transpose_panel(panel, values);
            }
            let mut products = panel_sums
                .each_mut()
                .map(|values| &mut values[..n_tokens * n_rows]);
            job.finish(self.level, block, first_token, &mut products);
        }
    }

    /// Rows of a tile of a projection's weights.
    fn tile_rows(&self, projection: usize) -> usize {
        let panels = &self.panels[self.choice[projection]];
        self.level.tile_rows(panels.element.groups().is_some())
    }

    /// Fills `scratch.sums[index]`: `[panels, rows padded to tiles, 16]`. `next` are
    /// the projection and rows that follow.
    fn multiply(
        &self,
        projection: usize,
        index: usize,
        rows: &Range<usize>,
        next: Option<(usize, &Range<usize>)>,
        scratch: &mut Scratch,
    ) {
        let matrix = &self.projections[projection].matrix;
        let panels = &self.panels[self.choice[projection]];
        let n_padded = self.n.next_multiple_of(PANEL);
        let padded_rows = rows.len().next_multiple_of(self.tile_rows(projection));
        scratch.sums[index].clear();
        scratch.sums[index].resize(padded_rows * n_padded, 0.0);
        if let (Matrix::Quantized(weights), Element::Codes { group_size, .. }) =
            (matrix, panels.element)
        {
            let groups = self.columns / group_size;
            scratch.scales.resize(padded_rows * groups, 0.0);
            scratch.biases.resize(padded_rows * groups, 0.0);
            let scales = scratch.scales.chunks_exact_mut(groups);
            let biases = scratch.biases.chunks_exact_mut(groups);
            for (row, (scales, biases)) in rows.clone().zip(scales.zip(biases)) {
                codes::scales(self.level, weights, row, scales, biases);
            }
        }
        let block_from = |first: usize| first..(first + BLOCK_COLUMNS).min(self.columns);
        let ahead = |projection: usize, rows: &Range<usize>, columns| {
            let matrix = &self.projections[projection].matrix;
            Ahead::new(matrix, self.columns, rows.clone(), columns)
        };
        for first in (0..self.columns).step_by(BLOCK_COLUMNS) {
            // With thousands of tokens a block takes tens of milliseconds.
            if self.stop.as_ref().is_some_and(|stop| stop.is_set()) {
                return;
            }
            let columns = block_from(first);
            let ahead = match columns.end < self.columns {
                true => Some(ahead(projection, rows, block_from(columns.end))),
                false => next.map(|(projection, rows)| ahead(projection, rows, block_from(0))),
            };
            self.multiply_columns(matrix, panels, (index, rows), columns, ahead, scratch);
        }
    }

    fn multiply_columns(
        &self,
        matrix: &Matrix<'_>,
        panels: &Panels,
        (index, rows): (usize, &Range<usize>),
        columns: Range<usize>,
        mut ahead: Option<Ahead<'_>>,
        scratch: &mut Scratch,
    ) {
        let element = panels.element;
        let tile_rows = self.level.tile_rows(element.groups().is_some());
        let padded_rows = rows.len().next_multiple_of(tile_rows);
        let words = columns.len().div_ceil(element.columns());
        let weights_stride = weights_stride(element);
        scratch.weights.resize(padded_rows * weights_stride, 0);
        for (at, row) in rows.clone().enumerate() {
            let out = &mut scratch.weights[at * weights_stride..][..words];
            fill(
                self.level,
                element,
                matrix,
                row,
                self.columns,
                &columns,
                &mut scratch.row,
                out,
            );
        }
        let place = Place {
            operand: index,
            padded_rows,
            weights_stride,
            first_word: columns.start / element.columns(),
            largest_code: match matrix {
                Matrix::Quantized(weights) => codes::largest(weights.format).unwrap_or(0),
                Matrix::Float(_) | Matrix::Columns(_) => 0,
            },
        };
        let n_panels = self.n.div_ceil(PANEL);
        let tile_words = TILE_WORDS / element.planes();
        let n_tiles = n_panels.div_ceil(2) * words.div_ceil(tile_words) * padded_rows / tile_rows;
        let lines_per_tile = ahead.as_ref().map_or(0, Ahead::n_lines).div_ceil(n_tiles);
        for panel in (0..n_panels).step_by(2) {
            let n_panels = (n_panels - panel).min(2);
            for first_word in (0..words).step_by(tile_words) {
                let tile_words = first_word..(first_word + tile_words).min(words);
                for row in (0..padded_rows).step_by(tile_rows) {
                    if let Some(ahead) = &mut ahead {
                        ahead.ask(lines_per_tile);
                    }
                    let tile = self.tile(panels, scratch, &place, (row, panel), &tile_words);
                    // SAFETY: the tile's rows, words, panels and groups are inside
                    // of the blocks made above, which nobody else uses.
                    unsafe {
                        match element {
                            Element::F32 => self.level.tile_f32(&tile, n_panels),
                            Element::Bf16 => self.level.tile_bf16(&tile, n_panels),
                            Element::Codes { .. } => self.level.tile_codes(&tile, n_panels),
                        }
                    }
                }
            }
        }
    }

    /// The tile at a row and panel over some words of a block.
    fn tile(
        &self,
        panels: &Panels,
        scratch: &mut Scratch,
        place: &Place,
        (row, panel): (usize, usize),
        words: &Range<usize>,
    ) -> Tile {
        let element = panels.element;
        let row_words = self.columns.div_ceil(element.columns());
        let start = place.first_word + words.start;
        let (group_words, part_words) = element
            .groups()
            .map_or((row_words, row_words), |(group, part)| {
                (group / 4, part / 4)
            });
        let (groups, parts) = (row_words / group_words, row_words / part_words);
        let (group, part) = (start / group_words, start / part_words);
        let of_weights = |all: &[f32]| all.as_ptr().wrapping_add(row * groups + group);
        let of_panels = |all: &Buffer, index: usize, stride: usize| {
            let first: *const f32 = all.as_slice().as_ptr().cast();
            (
                first.wrapping_add((panel * stride + index) * PANEL),
                stride * PANEL,
            )
        };
        Tile {
            weights: &scratch.weights[row * place.weights_stride + words.start],
            weights_stride: place.weights_stride,
            panel: &panels.words.as_slice()[(panel * row_words + start) * element.planes() * PANEL],
            panel_stride: row_words * element.planes() * PANEL,
            words: words.len(),
            out: &mut scratch.sums[place.operand][(panel * place.padded_rows + row) * PANEL],
            out_stride: place.padded_rows * PANEL,
            scales: of_weights(&scratch.scales),
            biases: of_weights(&scratch.biases),
            groups_stride: groups,
            group_words,
            part_words,
            planes: element.planes(),
            largest_code: place.largest_code,
            x_scales: of_panels(&panels.scales, part, parts),
            x_sums: of_panels(&panels.sums, group, groups),
        }
    }
}

/// Writes columns of one row of weights in the tiles' type.
#[expect(clippy::too_many_arguments, reason = "the row's place and its scratch")]
fn fill(
    level: Level,
    element: Element,
    matrix: &Matrix<'_>,
    row: usize,
    row_columns: usize,
    columns: &Range<usize>,
    scratch: &mut Vec<f32>,
    out: &mut [u32],
) {
    match (element, matrix) {
        (Element::Bf16, Matrix::Float(weights)) => {
            let row = weights.row(row, row_columns).bytes();
            let bytes = &row[2 * columns.start..2 * columns.end];
            bytes_of(out)[..bytes.len()].copy_from_slice(bytes);
            if !columns.len().is_multiple_of(2) {
                bytes_of(out)[bytes.len()..].fill(0);
            }
        }
        (Element::Bf16, Matrix::Columns(weights)) => {
            let (bytes, padding) = bytes_of(out).split_at_mut(2 * columns.len());
            weights.copy(row, columns, bytes);
            padding.fill(0);
        }
        (Element::Codes { .. }, Matrix::Quantized(weights)) => {
            codes::as_bytes(level, weights, row, columns, bytes_of(out));
        }
        _ => {
            scratch.resize(columns.len(), 0.0);
            matrix.dequantize(level, row, row_columns, columns, scratch);
            for (out, value) in out.iter_mut().zip(&*scratch) {
                *out = value.to_bits();
            }
        }
    }
}

fn bytes_of(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: any bytes are a u32 and bytes have no alignment.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

impl Matrix<'_> {
    /// As what its elements are stored, if they are floats.
    pub fn float(&self) -> Option<Float> {
        match self {
            Matrix::Float(weights) => Some(weights.float()),
            Matrix::Columns(weights) => Some(weights.float()),
            Matrix::Quantized(_) => None,
        }
    }

    pub fn row_bytes(&self, columns: usize) -> usize {
        match self {
            Matrix::Float(weights) => columns * weights.float().bytes(),
            Matrix::Columns(weights) => columns * weights.float().bytes(),
            Matrix::Quantized(weights) => weights.format.code_bytes(columns),
        }
    }

    /// Some columns of a row as float32.
    pub fn dequantize(
        &self,
        level: Level,
        row: usize,
        row_columns: usize,
        columns: &Range<usize>,
        out: &mut [f32],
    ) {
        match self {
            Matrix::Float(weights) => {
                let (_, from) = weights.row(row, row_columns).split_at(columns.start);
                let (part, _) = from.split_at(columns.len());
                level.convert(part, FloatsMut::from(out));
            }
            Matrix::Columns(weights) => weights.read(row, columns, out),
            Matrix::Quantized(weights) => weights.part(row, columns).dequantize(level, 0, out),
        }
    }
}
