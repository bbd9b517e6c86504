//! Reads rows of the source, quantizes them and writes them where they belong, so
//! that nothing but a few rows of each thread is ever in private memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use super::plan::{Form, Output, Part, Plan};
use crate::checkpoint::{Checkpoint, Mode, NewFile, QuantSpec};
use crate::error::Result;
use crate::kernels::{
    Float, Floats, FloatsMut, Format, Level, Pool, quantize, quantize_small_floats,
};

/// A file, and which output's which tensor each of its tensors is.
pub struct Shard {
    pub file: NewFile,
    pub tensors: Vec<(usize, usize)>,
}

/// Bytes of the source that a thread takes at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces between two calls of `progress`.
const PIECES_PER_STEP: usize = 32;

/// Writes all tensors of the plan.
pub fn fill(
    checkpoint: &Checkpoint,
    plan: &Plan,
    shards: Vec<Shard>,
    pool: &Pool,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<()> {
    let places = places(&shards);
    let total = plan.source_bytes();
    let mut done = 0;
    progress(done, total)?;
    for (index, output) in plan.outputs.iter().enumerate() {
        let pieces = pieces(output);
        for step in pieces.chunks(PIECES_PER_STEP) {
            let failure = Mutex::new(None);
            let destination = Destination {
                shards: &shards,
                places: &places,
                output: index,
            };
            pool.run(step.len(), &|piece| {
                if let Err(error) = convert(checkpoint, output, &step[piece], &destination) {
                    *failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
                }
            });
            checkpoint.ensure_unaltered()?;
            if let Some(error) = failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
                return Err(error);
            }
            let n_rows: usize = step.iter().map(|piece| piece.rows.len()).sum();
            done += n_rows * output.row_bytes();
            progress(done, total)?;
        }
    }
    shards.into_iter().try_for_each(|shard| shard.file.finish())
}

/// Where the tensors of outputs are: file and number.
type Places = HashMap<(usize, usize), (usize, usize)>;

fn places(shards: &[Shard]) -> Places {
    let mut places = HashMap::new();
    for (file, shard) in shards.iter().enumerate() {
        for (number, tensor) in shard.tensors.iter().enumerate() {
            places.insert(*tensor, (file, number));
        }
    }
    places
}

/// The tensors of one output.
struct Destination<'a> {
    shards: &'a [Shard],
    places: &'a Places,
    output: usize,
}

impl Destination<'_> {
    fn write(&self, tensor: usize, offset: usize, bytes: &[u8]) -> Result<()> {
        let (file, number) = self.places[&(self.output, tensor)];
        self.shards[file].file.write(number, offset, bytes)
    }
}

/// Some rows of an output.
struct Piece {
    /// Where they are in the source.
    part: Part,
    rows: Range<usize>,
}

fn pieces(output: &Output) -> Vec<Piece> {
    let step = (PIECE_BYTES / output.row_bytes().max(1)).max(1);
    let mut pieces = Vec::new();
    let mut first = 0;
    for part in &output.parts {
        for start in (0..part.n_rows).step_by(step) {
            let rows = start..part.n_rows.min(start + step);
            pieces.push(Piece {
                part: Part {
                    start: part.start + start * part.row_step * output.dtype.size(),
                    n_rows: rows.len(),
                    ..*part
                },
                rows: first + rows.start..first + rows.end,
            });
        }
        first += part.n_rows;
    }
    pieces
}

/// The rows of a part, one behind the other.
fn rows<'a>(map: &'a [u8], part: &Part, output: &Output) -> Cow<'a, [u8]> {
    let (columns, size) = (output.columns(), output.dtype.size());
    let source = &map[part.start..];
    if (part.row_step, part.column_step) == (columns, 1) {
        return Cow::Borrowed(&source[..part.n_rows * output.row_bytes()]);
    }
    let mut gathered = vec![0; part.n_rows * output.row_bytes()];
    match size {
        2 => gather::<2>(source, part, columns, &mut gathered),
        4 => gather::<4>(source, part, columns, &mut gathered),
        size => unreachable!("rows of floats are apart, not of {size} bytes"),
    }
    Cow::Owned(gathered)
}

/// Column by column, since neighbours in the source are then read together.
fn gather<const SIZE: usize>(source: &[u8], part: &Part, columns: usize, rows: &mut [u8]) {
    let (source, _) = source.as_chunks::<SIZE>();
    let (rows, _) = rows.as_chunks_mut::<SIZE>();
    for column in 0..columns {
        for row in 0..part.n_rows {
            rows[row * columns + column] = source[row * part.row_step + column * part.column_step];
        }
    }
}

fn convert(
    checkpoint: &Checkpoint,
    output: &Output,
    piece: &Piece,
    to: &Destination<'_>,
) -> Result<()> {
    let map = checkpoint.maps()[piece.part.file].as_slice();
    let source = &*rows(map, &piece.part, output);
    let bytes = source.len();
    let level = Level::detect();
    match output.form {
        Form::Same => to.write(0, piece.rows.start * bytes / piece.rows.len(), source),
        Form::Cast { from, to: float } => {
            let mut cast = vec![0; bytes / from.bytes() * float.bytes()];
            level.convert(Floats::new(from, source), FloatsMut::new(float, &mut cast));
            to.write(0, piece.rows.start * cast.len() / piece.rows.len(), &cast)
        }
        Form::Raised { from, to: float } => {
            let mut raised = Floats::new(from, source).to_vec();
            raised.iter_mut().for_each(|value| *value += 1.0);
            level.round(&mut raised, from);
            let mut cast = vec![0; raised.len() * float.bytes()];
            let rounded = FloatsMut::new(float, &mut cast);
            level.convert(Floats::from(&raised[..]), rounded);
            to.write(0, piece.rows.start * cast.len() / piece.rows.len(), &cast)
        }
        Form::Quantized { from, float, spec } => {
            let rows = Floats::new(from, source);
            let mut parts = QuantizedPiece::new(spec, float, output.columns(), piece.rows.len());
            parts.fill(level, rows);
            parts.write(piece.rows.start, to)
        }
    }
}

/// Codes, scales and biases of some rows.
struct QuantizedPiece {
    spec: QuantSpec,
    float: Float,
    columns: usize,
    codes: Rows,
    scales: Rows,
    biases: Rows,
}

struct Rows {
    row_bytes: usize,
    bytes: Vec<u8>,
}

impl Rows {
    fn new(n_rows: usize, row_bytes: usize) -> Rows {
        Rows {
            row_bytes,
            bytes: vec![0; n_rows * row_bytes],
        }
    }

    fn row(&mut self, index: usize) -> &mut [u8] {
        &mut self.bytes[index * self.row_bytes..][..self.row_bytes]
    }
}

impl QuantizedPiece {
    fn new(spec: QuantSpec, float: Float, columns: usize, n_rows: usize) -> QuantizedPiece {
        let groups = columns / spec.group_size;
        let (scale_bytes, bias_bytes) = match spec.mode {
            Mode::Affine => (float.bytes(), float.bytes()),
            _ => (1, 0),
        };
        QuantizedPiece {
            spec,
            float,
            columns,
            codes: Rows::new(n_rows, columns * spec.bits / 8),
            scales: Rows::new(n_rows, groups * scale_bytes),
            biases: Rows::new(n_rows, groups * bias_bytes),
        }
    }

    fn fill(&mut self, level: Level, rows: Floats<'_>) {
        let mut values = vec![0.0; self.columns];
        for index in 0..rows.len() / self.columns {
            let row = rows.row(index, self.columns);
            level.convert(row, FloatsMut::from(&mut values[..]));
            level.round(&mut values, self.float);
            let codes = self.codes.row(index);
            let scales = self.scales.row(index);
            let format = match self.spec.mode {
                Mode::Affine => {
                    let sizes = (self.spec.bits, self.spec.group_size);
                    let scales = FloatsMut::new(self.float, scales);
                    let biases = FloatsMut::new(self.float, self.biases.row(index));
                    quantize(level, &values, sizes, codes, scales, biases);
                    continue;
                }
                Mode::Mxfp4 => Format::Mxfp4,
                Mode::Mxfp8 => Format::Mxfp8,
                Mode::Nvfp4 => Format::Nvfp4,
            };
            quantize_small_floats(level, format, self.float, &values, codes, scales);
        }
    }

    fn write(&self, first_row: usize, to: &Destination<'_>) -> Result<()> {
        let parts = [&self.codes, &self.scales, &self.biases];
        for (tensor, rows) in parts.into_iter().enumerate() {
            if !rows.bytes.is_empty() {
                to.write(tensor, first_row * rows.row_bytes, &rows.bytes)?;
            }
        }
        Ok(())
    }
}
