use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::kernels::activation::Activation;
use crate::kernels::float::Float;
use crate::kernels::pool::Pool;
use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};

#[derive(Clone, Debug)]
struct Case {
    float: Float,
    shift: usize,
    n_channels: usize,
    n_taps: usize,
    is_gated: bool,
    has_bias: bool,
    has_silu: bool,
    /// Tokens of each sequence, and of the first step of each.
    lengths: Vec<(usize, usize)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let lengths = prop::collection::vec((1_usize..9, 0_usize..9), 1..4);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (
        prop::sample::select(FLOATS.to_vec()),
        0_usize..3,
        1_usize..300,
        1..=MOST_TAPS,
        flags,
        lengths,
    )
        .prop_map(|(float, shift, n_channels, n_taps, flags, lengths)| Case {
            float,
            shift,
            n_channels,
            n_taps,
            is_gated: flags.0,
            has_bias: flags.1,
            has_silu: flags.2,
            lengths,
        })
}

impl Case {
    fn columns(&self) -> usize {
        3 * self.n_channels + 1
    }

    fn layout(&self) -> StateLayout {
        let own = vec![vec![self.n_taps - 1, self.n_channels]];
        StateLayout::new(&[vec![vec![5]], own, vec![vec![3]]])
    }

    fn packed(&self, seed: u32, count: usize) -> Packed {
        Packed::of(self.float, self.shift, &values(seed, count))
    }

    fn activation(&self) -> Option<Activation> {
        self.has_silu.then_some(Activation::Silu)
    }

    /// One sequence at once, by the definition in float64.
    fn expected(&self, rows: &Packed, weight: &Packed, bias: &Packed) -> Vec<f64> {
        let (rows, weight, bias) = (rows.f64s(), weight.f64s(), bias.f64s());
        let (columns, n) = (self.columns(), self.n_channels);
        let x = |token: usize, channel: usize| {
            let row = &rows[token * columns..][..columns];
            let gate = if self.is_gated {
                row[2 * n + channel]
            } else {
                1.0
            };
            row[channel + 1] * gate
        };
        let mut outputs = Vec::new();
        for token in 0..rows.len() / columns {
            for channel in 0..n {
                let mut y = if self.has_bias { bias[channel] } else { 0.0 };
                for tap in 0..self.n_taps {
                    if let Some(at) = (token + tap + 1).checked_sub(self.n_taps) {
                        y += weight[channel * self.n_taps + tap] * x(at, channel);
                    }
                }
                if self.has_silu {
                    y /= 1.0 + (-y).exp();
                }
                let gate = rows[token * columns + n + 1 + channel];
                outputs.push(if self.is_gated { y * gate } else { y });
            }
        }
        outputs
    }
}

/// What steps of these tokens of each sequence give, and the states behind them.
fn convolved(
    case: &Case,
    pool: &Pool,
    (weight, bias): (&Packed, &Packed),
    texts: &[Packed],
    is_cut: bool,
) -> (Vec<Vec<f64>>, Vec<Vec<f32>>) {
    let layout = case.layout();
    let columns = case.columns();
    let memory = || Arc::new(StateMemory::zeroed(&layout).expect("memory"));
    let mut outputs = vec![Vec::new(); texts.len()];
    let mut states: Vec<Option<Arc<StateMemory>>> = vec![None; texts.len()];
    let mut done = vec![0; texts.len()];
    for step in 0..2 {
        let mut rows = Vec::new();
        let mut segments = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let text = text.floats();
            let n = text.len() / columns;
            let end = match step {
                0 if is_cut => case.lengths[index].1.min(n),
                _ => n,
            };
            segments.push(StateSegment {
                first_row: rows.len() / columns,
                n_tokens: end - done[index],
                before: states[index].clone(),
                // One sequence goes on in place.
                after: match &states[index] {
                    Some(state) if index == 0 => state.clone(),
                    _ => memory(),
                },
            });
            for token in done[index]..end {
                rows.extend(text.row(token, columns).to_vec());
            }
            done[index] = end;
        }
        let rows = Packed::of(case.float, case.shift, &rows);
        let conv = ShortConv {
            rows: rows.floats(),
            columns,
            n_channels: case.n_channels,
            input: 1,
            gates: case
                .is_gated
                .then_some([2 * case.n_channels, case.n_channels + 1]),
            weight: weight.floats(),
            bias: case.has_bias.then(|| bias.floats()),
            activation: case.activation(),
            state: layout.layers()[1][0].first,
        };
        let n_rows = rows.floats().len() / columns;
        let mut out = Packed::unset(case.float, case.shift, n_rows * case.n_channels);
        // SAFETY: every segment has memory and rows of its own.
        unsafe { short_conv(pool, &conv, &segments, out.floats_mut()) };
        let out = out.f64s();
        for (index, segment) in segments.into_iter().enumerate() {
            let own = segment.first_row * case.n_channels..;
            outputs[index].extend(&out[own][..segment.n_tokens * case.n_channels]);
            states[index] = Some(segment.after);
        }
    }
    let floats = |state: Option<Arc<StateMemory>>| {
        let mut floats = vec![0.0; layout.n_floats()];
        state.expect("two steps").copy_to(&mut floats);
        floats
    };
    (outputs, states.into_iter().map(floats).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_convolution_is_its_definition_however_its_text_is_cut(case in cases()) {
        let weight = case.packed(7, case.n_channels * case.n_taps);
        let bias = case.packed(8, case.n_channels);
        let seeds = (20..).zip(&case.lengths);
        let texts: Vec<_> = seeds
            .map(|(seed, (n, _))| case.packed(seed, n * case.columns()))
            .collect();
        let pools = [1, 3].map(Pool::new);
        let (whole, whole_states) = convolved(&case, &pools[0], (&weight, &bias), &texts, false);
        for (text, found) in texts.iter().zip(&whole) {
            let expected = case.expected(text, &weight, &bias);
            let found: Vec<f32> = found.iter().map(|y| *y as f32).collect();
            let found = Packed::of(case.float, 0, &found);
            assert_all_close(&found, &expected, (1e-5, 1e-4));
        }
        for pool in &pools {
            let (cut, states) = convolved(&case, pool, (&weight, &bias), &texts, true);
            prop_assert_eq!(&cut, &whole);
            prop_assert_eq!(&states, &whole_states);
        }
    }
}

#[test]
fn a_layout_puts_the_parts_of_all_layers_one_behind_the_other() {
    let layout = StateLayout::new(&[vec![], vec![vec![2, 5], vec![3]], vec![vec![4]]]);
    let ranges = |layer: &[StatePart]| layer.iter().map(StatePart::range).collect::<Vec<_>>();
    assert!(layout.layers()[0].is_empty());
    assert_eq!(ranges(&layout.layers()[1]), [0..10, 10..13]);
    assert_eq!(layout.layers()[2][0].range(), 13..17);
    assert_eq!(layout.bytes(), 17 * 4);
}

/// A state of so many zeros.
pub(super) fn memory(n_floats: usize) -> Arc<StateMemory> {
    let layout = StateLayout::new(&[vec![vec![n_floats]]]);
    Arc::new(StateMemory::zeroed(&layout).expect("memory"))
}

pub(super) fn floats(state: &StateMemory) -> Vec<f32> {
    let mut floats = vec![0.0; state.bytes() / size_of::<f32>()];
    state.copy_to(&mut floats);
    floats
}

/// Lengths of parts of a text, of which many are single tokens.
pub(super) fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(1_usize), 1_usize..40], 1..6)
}

/// Parts of one text, which go on from one memory to the other and back; and where the
/// last one leaves its state.
pub(super) fn traded(cuts: &[usize], n_floats: usize) -> (Vec<StateSegment>, Arc<StateMemory>) {
    let states = [memory(n_floats), memory(n_floats)];
    let segment = |(index, cut): (usize, &[usize])| StateSegment {
        first_row: cut[0],
        n_tokens: cut[1] - cut[0],
        before: Some(states[index % 2].clone()),
        after: states[(index + 1) % 2].clone(),
    };
    let segments = cuts.windows(2).enumerate().map(segment).collect();
    (segments, states[(cuts.len() - 1) % 2].clone())
}

/// Parts of one text, each of which goes on in place from the one before.
pub(super) fn segments(cuts: &[usize], state: &Arc<StateMemory>) -> Vec<StateSegment> {
    let segment = |cut: &[usize]| StateSegment {
        first_row: cut[0],
        n_tokens: cut[1] - cut[0],
        before: Some(state.clone()),
        after: state.clone(),
    };
    cuts.windows(2).map(segment).collect()
}
