//! Causal convolutions of each channel with itself over a few tokens (as in Poli et al.,
//! 2023, and Gu and Dao, 2023): `y[t] = sum of weight[tap] * x[t - n_taps + 1 + tap]`.

use std::ops::Range;

use super::state::StateSegment;
use crate::kernels::activation::Activation;
use crate::kernels::float::Float;
use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::lanes::{Kernel, Lanes};
use crate::kernels::level::Level;
use crate::kernels::output::Output;
use crate::kernels::pool::Pool;

/// Tokens that a convolution may look at.
pub const MOST_TAPS: usize = 8;

/// Channels that go through a text together: what they remember of it stays in the
/// nearest cache.
const BLOCK: usize = 128;

/// Vectors of channels that go through the taps side by side.
const VECTORS: usize = 4;

/// Elements that a piece of work covers at least.
const PIECE_ELEMENTS: usize = 1 << 15;

/// A layer's convolution. Inputs are columns of rows that have others too.
#[derive(Clone, Copy)]
pub struct ShortConv<'a> {
    /// Of `columns` each.
    pub rows: Floats<'a>,
    pub columns: usize,
    pub n_channels: usize,
    /// The first column of the inputs.
    pub input: usize,
    /// The first columns of what inputs and outputs are multiplied with.
    pub gates: Option<[usize; 2]>,
    /// `[n_channels, n_taps]`, the token itself last.
    pub weight: Floats<'a>,
    pub bias: Option<Floats<'a>>,
    /// Of what was summed up.
    pub activation: Option<Activation>,
    /// Floats in front of the state: `[n_taps - 1, n_channels]`, the inputs of the last
    /// tokens.
    pub state: usize,
}

impl ShortConv<'_> {
    fn n_taps(&self) -> usize {
        self.weight.len() / self.n_channels
    }

    fn check(&self, segments: &[StateSegment], n_outputs: usize) {
        let (n_channels, n_taps) = (self.n_channels, self.n_taps());
        assert!((1..=MOST_TAPS).contains(&n_taps));
        assert_eq!(self.weight.len(), n_channels * n_taps);
        assert!(self.bias.is_none_or(|bias| bias.len() == n_channels));
        let parts = self.gates.into_iter().flatten().chain([self.input]);
        assert!(
            parts
                .max()
                .is_some_and(|first| first + n_channels <= self.columns)
        );
        let n_rows = self.rows.len() / self.columns;
        assert_eq!(self.rows.len(), n_rows * self.columns);
        assert_eq!(n_outputs, n_rows * n_channels);
        let ends = segments.iter().map(|one| one.first_row + one.n_tokens);
        assert!(ends.max().is_none_or(|end| end <= n_rows));
    }
}

/// Convolves the rows of all segments, and leaves in their states what those behind them
/// will see. The result is `[rows, n_channels]`.
///
/// # Safety
/// Segments have different rows and states. Nobody else uses the layer's state in their
/// memory, or writes it in that which they go on from.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub unsafe fn short_conv(
    pool: &Pool,
    conv: &ShortConv<'_>,
    segments: &[StateSegment],
    out: FloatsMut<'_>,
) {
    conv.check(segments, out.len());
    let level = Level::detect();
    let results = Results {
        float: out.float(),
        n_channels: conv.n_channels,
        out: Output::new(out.into_bytes()),
    };
    let pieces: Vec<_> = segments.iter().flat_map(|one| pieces(conv, one)).collect();
    pool.run(pieces.len(), &|index| {
        let (segment, channels) = &pieces[index];
        let mut buffers = Buffers::ZEROED;
        for first in channels.clone().step_by(BLOCK) {
            let channels = first..(first + BLOCK).min(channels.end);
            // SAFETY: these channels of the segment's rows and state belong to this piece,
            // which takes them once; the rest is the caller's.
            unsafe {
                let mut state = take(conv, segment, &channels);
                let mut block = Block::new(level, conv, channels, &mut buffers, &state);
                block.go_through(segment, &results);
                block.leave(segment.n_tokens, &mut state);
            }
        }
    });
}

/// Where the results of all pieces go.
struct Results<'a> {
    float: Float,
    n_channels: usize,
    out: Output<'a, u8>,
}

impl Results<'_> {
    /// The place of some channels of a row.
    ///
    /// # Safety
    /// Nobody else has it as long as the result is there.
    unsafe fn row(&self, row: usize, channels: &Range<usize>) -> FloatsMut<'_> {
        let start = row * self.n_channels;
        let place = |channel: usize| (start + channel) * self.float.bytes();
        let bytes = place(channels.start)..place(channels.end);
        // SAFETY: the caller's.
        FloatsMut::new(self.float, unsafe { self.out.part(bytes) })
    }
}

/// Parts of the channels of a segment.
fn pieces<'a>(
    conv: &ShortConv<'_>,
    segment: &'a StateSegment,
) -> impl Iterator<Item = (&'a StateSegment, Range<usize>)> + use<'a> {
    let block_elements = segment.n_tokens.max(1) * BLOCK;
    let n_channels = conv.n_channels;
    let per_piece = PIECE_ELEMENTS.div_ceil(block_elements) * BLOCK;
    let firsts = (0..n_channels).step_by(per_piece);
    firsts.map(move |first| (segment, first..(first + per_piece).min(n_channels)))
}

/// The rows of the state, of some channels.
///
/// # Safety
/// As for [`StateSegment::take`].
#[expect(clippy::mut_from_ref, reason = "the caller sees to it")]
unsafe fn take<'a>(
    conv: &ShortConv<'_>,
    segment: &'a StateSegment,
    channels: &Range<usize>,
) -> Vec<&'a mut [f32]> {
    let rows = 0..conv.n_taps() - 1;
    rows.map(|row| {
        let first = conv.state + row * conv.n_channels;
        // SAFETY: the caller's.
        unsafe { segment.take(first + channels.start..first + channels.end) }
    })
    .collect()
}

/// What a thread keeps of some channels, whose number may be smaller.
struct Buffers {
    /// By tap.
    weight: [[f32; BLOCK]; MOST_TAPS],
    bias: [f32; BLOCK],
    /// The inputs of the last tokens: those of token `t` are in row `(t + n_taps - 1) %
    /// n_taps`, where the state's end with token -1.
    window: [[f32; BLOCK]; MOST_TAPS],
}

impl Buffers {
    const ZEROED: Buffers = Buffers {
        weight: [[0.0; BLOCK]; MOST_TAPS],
        bias: [0.0; BLOCK],
        window: [[0.0; BLOCK]; MOST_TAPS],
    };
}

/// Some channels on their way through a text.
struct Block<'a> {
    level: Level,
    conv: &'a ShortConv<'a>,
    channels: Range<usize>,
    n_taps: usize,
    buffers: &'a mut Buffers,
}

impl<'a> Block<'a> {
    fn new(
        level: Level,
        conv: &'a ShortConv<'a>,
        channels: Range<usize>,
        buffers: &'a mut Buffers,
        state: &[&mut [f32]],
    ) -> Block<'a> {
        let n_taps = conv.n_taps();
        let n_channels = channels.len();
        let part = |values: Floats<'a>, width: usize| {
            let (_, from) = values.split_at(channels.start * width);
            from.split_at(n_channels * width).0
        };
        let mut by_channel = [0.0; BLOCK * MOST_TAPS];
        let by_channel = &mut by_channel[..n_channels * n_taps];
        let wide = FloatsMut::from(&mut *by_channel);
        level.convert(part(conv.weight, n_taps), wide);
        for (channel, taps) in by_channel.chunks_exact(n_taps).enumerate() {
            for (weight, tap) in buffers.weight.iter_mut().zip(taps) {
                weight[channel] = *tap;
            }
        }
        if let Some(values) = conv.bias {
            let bias = &mut buffers.bias[..n_channels];
            level.convert(part(values, 1), FloatsMut::from(bias));
        }
        for (window, state) in buffers.window.iter_mut().zip(state) {
            window[..state.len()].copy_from_slice(state);
        }
        Block {
            level,
            conv,
            channels,
            n_taps,
            buffers,
        }
    }

    /// # Safety
    /// The block's channels of the segment's rows are nobody else's.
    unsafe fn go_through(&mut self, segment: &StateSegment, results: &Results<'_>) {
        let conv = self.conv;
        for token in 0..segment.n_tokens {
            let row = segment.first_row + token;
            let columns = conv.rows.row(row, conv.columns);
            let part = |first: usize| {
                let (_, from) = columns.split_at(first + self.channels.start);
                from.split_at(self.channels.len()).0
            };
            self.level.run(Token {
                token,
                n_taps: self.n_taps,
                input: part(conv.input),
                gates: conv.gates.map(|gates| gates.map(part)),
                weight: &self.buffers.weight,
                bias: &self.buffers.bias,
                activation: conv.activation,
                window: &mut self.buffers.window,
                // SAFETY: the caller's.
                out: unsafe { results.row(row, &self.channels) },
            });
        }
    }

    /// The inputs of the last tokens.
    fn leave(&self, n_tokens: usize, state: &mut [&mut [f32]]) {
        for (row, state) in state.iter_mut().enumerate() {
            let window = &self.buffers.window[(n_tokens + row) % self.n_taps];
            state.copy_from_slice(&window[..state.len()]);
        }
    }
}

/// One token of a block.
struct Token<'a> {
    token: usize,
    n_taps: usize,
    input: Floats<'a>,
    gates: Option<[Floats<'a>; 2]>,
    weight: &'a [[f32; BLOCK]; MOST_TAPS],
    bias: &'a [f32; BLOCK],
    activation: Option<Activation>,
    window: &'a mut [[f32; BLOCK]; MOST_TAPS],
    out: FloatsMut<'a>,
}

impl Kernel for Token<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let oldest = self.token % self.n_taps;
        let newest = (oldest + self.n_taps - 1) % self.n_taps;
        for first in (0..self.out.len()).step_by(V::N * VECTORS) {
            let mut x = vectors::<V>(self.input, first);
            if let Some([gate, _]) = self.gates {
                x = times(x, vectors(gate, first));
            }
            let mut window = FloatsMut::from(&mut self.window[newest][..]);
            for (index, x) in x.iter().enumerate() {
                window.set_lanes(first + index * V::N, *x);
            }
            let mut y = vectors::<V>(Floats::from(&self.bias[..]), first);
            for (tap, weight) in self.weight[..self.n_taps].iter().enumerate() {
                let row = match oldest + tap {
                    row if row < self.n_taps => row,
                    row => row - self.n_taps,
                };
                let x = vectors::<V>(Floats::from(&self.window[row][..]), first);
                let weight = vectors::<V>(Floats::from(&weight[..]), first);
                for index in 0..VECTORS {
                    y[index] = x[index].mul_add(weight[index], y[index]);
                }
            }
            if let Some(activation) = self.activation {
                for y in &mut y {
                    *y = activation.of(*y);
                }
            }
            if let Some([_, gate]) = self.gates {
                y = times(y, vectors(gate, first));
            }
            for (index, y) in y.iter().enumerate() {
                let first = first + index * V::N;
                if first < self.out.len() {
                    self.out.set_lanes(first, *y);
                }
            }
        }
    }
}

/// Side by side from `first` on; zeros behind the end.
#[inline(always)]
fn vectors<V: Lanes>(values: Floats<'_>, first: usize) -> [V; VECTORS] {
    let mut vectors = [V::splat(0.0); VECTORS];
    for (index, vector) in vectors.iter_mut().enumerate() {
        let first = first + index * V::N;
        if first < values.len() {
            *vector = values.lanes(first, 0.0);
        }
    }
    vectors
}

#[inline(always)]
fn times<V: Lanes>(mut a: [V; VECTORS], b: [V; VECTORS]) -> [V; VECTORS] {
    for (a, b) in a.iter_mut().zip(&b) {
        *a = *a * *b;
    }
    a
}
