//! [`Tiles`]: products of many rows of activations. They are rearranged once
//! into panels of 16 rows; then tiles of a few rows of weights times one or two
//! panels are computed in registers, from blocks that stay in the cache.

use std::cell::RefCell;
use std::ops::Range;

use super::rows::Rows;
use super::{Block, Job, Matrix, Projection, codes};
use crate::kernels::float::Float;
use crate::kernels::floats::FloatsMut;
use crate::kernels::level::Level;
use crate::kernels::output::Output;
use crate::kernels::pool::{Buffer, Pool};
use crate::kernels::scratch::{ProductShape, Stored};

/// Rows of activations in a panel.
pub const PANEL: usize = 16;
/// Rows of weights in a block, at most.
const BLOCK_ROWS: usize = 48;
/// Columns of a block.
const BLOCK_COLUMNS: usize = 2048;
/// Words of a tile: two panels of so many stay in the first-level cache while all
/// rows of a block pass by.
const TILE_WORDS: usize = 128;
/// Bytes behind each row of a block, so that rows do not share cache sets.
const ROW_PADDING: usize = 64;

/// In what tiles are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// Weights as float32.
    F32,
    /// Weights and activations that are bfloat16, two columns at a time.
    Bf16,
    /// Activations that are bfloat16 times codes, and the groups' sums times
    /// scales: exact, as codes are bfloat16 numbers.
    Bf16Codes,
}

impl Element {
    fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 | Element::Bf16Codes => 2,
        }
    }

    /// Columns that lie next to each other in a panel.
    fn columns(self) -> usize {
        4 / self.bytes()
    }
}

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
    /// The groups' sums of a panel, `[groups, 16]`, `sums_stride` apart.
    pub sums: *const f32,
    pub sums_stride: usize,
}

impl Tile {
    /// One of its panels.
    pub fn panel(&self, index: usize) -> Tile {
        Tile {
            panel: self.panel.wrapping_add(index * self.panel_stride),
            out: self.out.wrapping_add(index * self.out_stride),
            sums: self.sums.wrapping_add(index * self.sums_stride),
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
}

/// Activations in panels.
struct Panels {
    element: Element,
    /// `[n / 16][columns as words][16]`
    words: Buffer,
    /// Float32 `[n / 16][groups][16]`; for codes.
    sums: Buffer,
    group_size: usize,
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
}

/// All rows in panels, and the sums of their groups.
pub fn panel_bytes(shape: &ProductShape) -> usize {
    let (element, group_size) = stored_element(shape);
    let n_padded = shape.n_rows.next_multiple_of(PANEL);
    let words = shape.columns.div_ceil(element.columns());
    let groups = shape.columns.checked_div(group_size).unwrap_or(0);
    n_padded * (words + groups) * size_of::<u32>()
}

/// A block of weights, and the sums of both operands of a gate.
pub fn thread_scratch_bytes(shape: &ProductShape) -> usize {
    let (element, _) = stored_element(shape);
    let n_padded = shape.n_rows.next_multiple_of(PANEL);
    let columns = shape.columns.min(BLOCK_COLUMNS);
    let weights = BLOCK_ROWS * (columns * element.bytes() + ROW_PADDING);
    weights + 2 * BLOCK_ROWS * n_padded * size_of::<f32>()
}

fn stored_element(shape: &ProductShape) -> (Element, usize) {
    let halves = Level::detect().has_dot_halves() && shape.activations == Float::Bf16;
    match shape.weights {
        Stored::Float(Float::Bf16) if halves => (Element::Bf16, 0),
        Stored::Codes { group_size } if halves => (Element::Bf16Codes, group_size),
        _ => (Element::F32, 0),
    }
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
    scales: Vec<f32>,
    biases: Vec<f32>,
    fill: FillScratch,
}

#[derive(Default)]
struct FillScratch {
    row: Vec<f32>,
    codes: Vec<u8>,
}

impl<'a> Tiles<'a> {
    pub fn prepare(
        level: Level,
        pool: &Pool,
        x: &Rows<'_>,
        projections: &'a [Projection<'a>],
    ) -> Tiles<'a> {
        let mut panels: Vec<Panels> = Vec::new();
        let choice = projections
            .iter()
            .map(|projection| {
                let element = element(level, x.float(), &projection.matrix);
                let group_size = match (&projection.matrix, element) {
                    (Matrix::Quantized(weights), Element::Bf16Codes) => weights.format.group_size(),
                    _ => 0,
                };
                let same = |made: &Panels| made.element == element && made.group_size == group_size;
                panels.iter().position(same).unwrap_or_else(|| {
                    panels.push(Panels::new(level, pool, x, element, group_size));
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
        }
    }

    pub fn run(self, pool: &Pool, job: &Job<'_>) {
        let fair = job.width.div_ceil(8 * pool.n_threads());
        let blocks = job.blocks(fair.next_multiple_of(12).min(BLOCK_ROWS));
        pool.run(blocks.len(), &|piece| {
            SCRATCH.with_borrow_mut(|scratch| {
                let block = &blocks[piece];
                for (index, projection) in job.projections_of(block).enumerate() {
                    self.multiply(projection, index, &block.rows, scratch);
                }
                self.finish(job, block, scratch);
            });
        });
        for panels in self.panels {
            pool.give_back(panels.words);
            pool.give_back(panels.sums);
        }
    }

    /// Gives the sums to the job, panel by panel.
    fn finish(&self, job: &Job<'_>, block: &Block, scratch: &mut Scratch) {
        let n_rows = block.rows.len();
        for first_token in (0..self.n).step_by(PANEL) {
            let n_tokens = PANEL.min(self.n - first_token);
            let mut values = [const { [0.0; PANEL * BLOCK_ROWS] }; 2];
            let projections = job.projections_of(block).enumerate();
            for ((index, projection), values) in projections.zip(&mut values) {
                let padded_rows = n_rows.next_multiple_of(self.tile_rows(projection));
                let panel = &scratch.sums[index][first_token * padded_rows..];
                transpose(panel, n_rows, &mut values[..n_tokens * n_rows]);
            }
            let mut products = values
                .each_mut()
                .map(|values| &mut values[..n_tokens * n_rows]);
            job.finish(self.level, block, first_token, &mut products);
        }
    }

    /// Rows of a tile of a projection's weights.
    fn tile_rows(&self, projection: usize) -> usize {
        let panels = &self.panels[self.choice[projection]];
        self.level.tile_rows(panels.element == Element::Bf16Codes)
    }

    /// Fills `scratch.sums[index]`: `[panels, rows padded to tiles, 16]`
    fn multiply(
        &self,
        projection: usize,
        index: usize,
        rows: &Range<usize>,
        scratch: &mut Scratch,
    ) {
        let matrix = &self.projections[projection].matrix;
        let panels = &self.panels[self.choice[projection]];
        let n_padded = self.n.next_multiple_of(PANEL);
        let padded_rows = rows.len().next_multiple_of(self.tile_rows(projection));
        scratch.sums[index].clear();
        scratch.sums[index].resize(padded_rows * n_padded, 0.0);
        if let (Matrix::Quantized(weights), Element::Bf16Codes) = (matrix, panels.element) {
            let groups = self.columns / panels.group_size;
            scratch.scales.resize(padded_rows * groups, 0.0);
            scratch.biases.resize(padded_rows * groups, 0.0);
            let scales = scratch.scales.chunks_exact_mut(groups);
            let biases = scratch.biases.chunks_exact_mut(groups);
            for (row, (scales, biases)) in rows.clone().zip(scales.zip(biases)) {
                codes::scales(self.level, weights, row, scales, biases);
            }
        }
        for first in (0..self.columns).step_by(BLOCK_COLUMNS) {
            let columns = first..(first + BLOCK_COLUMNS).min(self.columns);
            self.multiply_columns(matrix, panels, (index, rows), padded_rows, columns, scratch);
        }
    }

    fn multiply_columns(
        &self,
        matrix: &Matrix<'_>,
        panels: &Panels,
        (index, rows): (usize, &Range<usize>),
        padded_rows: usize,
        columns: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let element = panels.element;
        let words = columns.len().div_ceil(element.columns());
        let weights_stride = words + ROW_PADDING / 4;
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
                &mut scratch.fill,
                out,
            );
        }
        let place = Place {
            operand: index,
            padded_rows,
            weights_stride,
            first_word: columns.start / element.columns(),
        };
        let n_panels = self.n.div_ceil(PANEL);
        let tile_rows = self.level.tile_rows(element == Element::Bf16Codes);
        for panel in (0..n_panels).step_by(2) {
            let n_panels = (n_panels - panel).min(2);
            for first_word in (0..words).step_by(TILE_WORDS) {
                let tile_words = first_word..(first_word + TILE_WORDS).min(words);
                for row in (0..padded_rows).step_by(tile_rows) {
                    let tile = self.tile(panels, scratch, &place, (row, panel), &tile_words);
                    // SAFETY: the tile's rows, words, panels and groups are inside
                    // of the blocks made above, which nobody else uses.
                    unsafe {
                        match element {
                            Element::F32 => self.level.tile_f32(&tile, n_panels),
                            Element::Bf16 => self.level.tile_bf16(&tile, n_panels),
                            Element::Bf16Codes => self.level.tile_codes(&tile, n_panels),
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
        let row_words = self.columns.div_ceil(panels.element.columns());
        let start = place.first_word + words.start;
        let (group_words, groups, group) = match panels.group_size {
            0 => (1, 0, 0),
            size => (size / 2, self.columns / size, start / (size / 2)),
        };
        let scales = row * groups + group;
        let sums = panels.sums.as_slice().as_ptr().cast::<f32>();
        Tile {
            weights: &scratch.weights[row * place.weights_stride + words.start],
            weights_stride: place.weights_stride,
            panel: &panels.words.as_slice()[(panel * row_words + start) * PANEL],
            panel_stride: row_words * PANEL,
            words: words.len(),
            out: &mut scratch.sums[place.operand][(panel * place.padded_rows + row) * PANEL],
            out_stride: place.padded_rows * PANEL,
            scales: scratch.scales.as_ptr().wrapping_add(scales),
            biases: scratch.biases.as_ptr().wrapping_add(scales),
            groups_stride: groups,
            group_words,
            sums: sums.wrapping_add((panel * groups + group) * PANEL),
            sums_stride: groups * PANEL,
        }
    }
}

fn element(level: Level, float: Float, matrix: &Matrix<'_>) -> Element {
    if !level.has_dot_halves() || float != Float::Bf16 {
        return Element::F32;
    }
    match matrix {
        Matrix::Float(weights) if weights.float() == Float::Bf16 => Element::Bf16,
        Matrix::Quantized(weights) if codes::are_whole(weights) => Element::Bf16Codes,
        _ => Element::F32,
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
    scratch: &mut FillScratch,
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
        (Element::Bf16Codes, Matrix::Quantized(weights)) => {
            codes::as_bf16(
                level,
                weights,
                row,
                columns,
                &mut scratch.codes,
                bytes_of(out),
            );
        }
        _ => {
            scratch.row.resize(columns.len(), 0.0);
            matrix.dequantize(level, row, row_columns, columns, &mut scratch.row);
            for (out, value) in out.iter_mut().zip(&scratch.row) {
                *out = value.to_bits();
            }
        }
    }
}

fn bytes_of(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: any bytes are a u32 and bytes have no alignment.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

/// `[rows, 16]` -> `[tokens, rows]`
fn transpose(from: &[f32], n_rows: usize, to: &mut [f32]) {
    for (token, to) in to.chunks_exact_mut(n_rows).enumerate() {
        for (row, to) in to.iter_mut().enumerate() {
            *to = from[row * PANEL + token];
        }
    }
}

impl Panels {
    fn new(level: Level, pool: &Pool, x: &Rows<'_>, element: Element, group_size: usize) -> Panels {
        let columns = x.columns;
        let n_panels = x.n().div_ceil(PANEL);
        let panel_words = columns.div_ceil(element.columns()) * PANEL;
        let panel_sums = match group_size {
            0 => 0,
            size => columns / size * PANEL,
        };
        let mut words = pool.buffer(n_panels * panel_words);
        let mut sums = pool.buffer(n_panels * panel_sums);
        let all_words = Output::new(words.as_mut_slice());
        let all_sums = Output::new(sums.as_mut_slice());
        pool.run(n_panels, &|panel| {
            // SAFETY: each piece has a panel of its own.
            let words = unsafe { all_words.part(panel * panel_words..(panel + 1) * panel_words) };
            // SAFETY: as above.
            let sums = unsafe { all_sums.part(panel * panel_sums..(panel + 1) * panel_sums) };
            let mut row = vec![0.0; columns];
            for lane in 0..PANEL.min(x.n() - panel * PANEL) {
                x.read(level, panel * PANEL + lane, &mut row);
                if group_size > 0 {
                    for (group, values) in row.chunks_exact(group_size).enumerate() {
                        sums[group * PANEL + lane] = values.iter().sum::<f32>().to_bits();
                    }
                }
                scatter(element, &row, lane, words);
            }
        });
        Panels {
            element,
            words,
            sums,
            group_size,
        }
    }
}

/// Writes a row as one of the sixteen of a panel.
fn scatter(element: Element, row: &[f32], lane: usize, words: &mut [u32]) {
    match element {
        Element::F32 => {
            for (value, words) in row.iter().zip(words.chunks_exact_mut(PANEL)) {
                words[lane] = value.to_bits();
            }
        }
        Element::Bf16 | Element::Bf16Codes => {
            // The values are bfloat16 numbers already: their upper halves.
            let pairs = row.chunks(2).zip(words.chunks_exact_mut(PANEL));
            for (pair, words) in pairs {
                let second = pair.get(1).map_or(0, |value| value.to_bits() & 0xffff_0000);
                words[lane] = pair[0].to_bits() >> 16 | second;
            }
        }
    }
}

impl Matrix<'_> {
    pub fn row_bytes(&self, columns: usize) -> usize {
        match self {
            Matrix::Float(weights) => columns * weights.float().bytes(),
            Matrix::Quantized(weights) => columns * weights.format.bits() / 8,
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
            Matrix::Quantized(weights) => weights.part(row, columns).dequantize(level, 0, out),
        }
    }
}
