use super::*;
use crate::kernels::activation::Activation;
use crate::kernels::linear::Matrix;
use crate::kernels::quantized::{Format, QuantizedRows};
use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};
use proptest::prelude::*;

const N_EXPERTS: usize = 5;

/// How experts have what goes in front of `down`.
#[derive(Clone, Copy, Debug)]
enum Gates {
    Separate,
    InTurn,
    Absent,
}

/// An expert's three matrices in one format of weights.
struct Stored {
    gate: Packed,
    up: Packed,
    down: Packed,
    inner: usize,
    columns: usize,
}

impl Stored {
    fn new(seed: u32, float: Float, shift: usize, (columns, inner): (usize, usize)) -> Stored {
        let matrix = |seed| {
            let weights = values(seed, inner * columns);
            Packed::of(float, shift, &weights)
        };
        Stored {
            gate: matrix(3 * seed + 1),
            up: matrix(3 * seed + 2),
            down: matrix(3 * seed + 3),
            inner,
            columns,
        }
    }

    fn expert(&self) -> Expert<'_> {
        let gate = projection(&self.gate, self.inner);
        let up = projection(&self.up, self.inner);
        Expert {
            gate_up: GateUp::Separate([gate, up]),
            down: projection(&self.down, self.columns),
        }
    }

    /// Rows of gate and up in turn.
    fn joined(&self, float: Float, shift: usize) -> Packed {
        let rows = |packed: &Packed| -> Vec<f32> {
            let values = packed.f64s().into_iter();
            values.map(|value| value as f32).collect()
        };
        let (gate, up) = (rows(&self.gate), rows(&self.up));
        let pairs = gate.chunks_exact(self.columns);
        let pairs = pairs.zip(up.chunks_exact(self.columns));
        let values: Vec<f32> = pairs.flat_map(|(a, b)| [a, b].concat()).collect();
        Packed::of(float, shift, &values)
    }

    /// `down(silu(gate x) * (up x))` in float64.
    fn apply(&self, x: &[f64], gates_are: Gates) -> Vec<f64> {
        let times = |packed: &Packed, x: &[f64]| -> Vec<f64> {
            let weights = packed.f64s();
            let rows = weights.chunks_exact(x.len());
            rows.map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
                .collect()
        };
        let (gates, up) = (times(&self.gate, x), times(&self.up, x));
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let through = |(gate, up): (&f64, f64)| match gates_are {
            Gates::Absent => silu(up),
            Gates::Separate | Gates::InTurn => silu(*gate) * up,
        };
        let gated: Vec<f64> = gates.iter().zip(up).map(through).collect();
        times(&self.down, &gated)
    }
}

fn projection(weights: &Packed, rows: usize) -> Projection<'_> {
    Projection {
        matrix: Matrix::Float(weights.floats()),
        rows,
        bias: None,
    }
}

fn choices(seed: u32, n: usize, n_chosen: usize) -> Vec<Vec<Choice>> {
    let routing = Routing::softmax(n_chosen, true);
    let logits = values(seed, n * N_EXPERTS);
    let rows = logits.chunks_exact(N_EXPERTS);
    rows.map(|logits| routing.choose(logits, None)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn rows_are_mixed_as_the_formula_says(
        n in 0_usize..40,
        n_chosen in 1..=N_EXPERTS,
        columns in 1_usize..50,
        inner in 1_usize..30,
        shift in 0_usize..4,
        weight_float in prop::sample::select(&FLOATS[..]),
        has_addend: bool,
        gates_are in prop::sample::select(vec![Gates::Separate, Gates::InTurn, Gates::Absent]),
        rows_apart: bool,
        shares in prop::sample::select(&[Shares::OfResults, Shares::OfInputs][..]),
        seed in 0_u32..1000,
    ) {
        let stored: Vec<_> = (0..N_EXPERTS as u32)
            .map(|index| Stored::new(seed + index, weight_float, shift, (columns, inner)))
            .collect();
        let x = Packed::of(Float::F32, shift, &values(seed, n * columns));
        let addend = Packed::of(Float::F32, shift, &values(seed + 7, n * columns));
        let choices = choices(seed + 1, n, n_chosen);
        let mut out = Packed::unset(Float::F32, shift, n * columns);
        let joined: Vec<_> = stored
            .iter()
            .map(|stored| stored.joined(weight_float, shift))
            .collect();
        let mut all: Vec<_> = stored.iter().map(Stored::expert).collect();
        for (expert, (joined, stored)) in all.iter_mut().zip(joined.iter().zip(&stored)) {
            match gates_are {
                Gates::Separate => {}
                Gates::InTurn => expert.gate_up = GateUp::InTurn(projection(joined, 2 * inner)),
                Gates::Absent => expert.gate_up = GateUp::Up(projection(&stored.up, inner)),
            }
        }
        let gate = match gates_are {
            Gates::Absent => Gate::Absent(Activation::Silu),
            Gates::Separate | Gates::InTurn => Gate::Times(Activation::Silu),
        };
        let experts = Experts { all: &all, gate, shares, arithmetic: Arithmetic { rows_apart, ..Arithmetic::default() } };
        let addends = has_addend.then(|| addend.floats());
        mix_experts(&Pool::new(2), x.floats(), &choices, experts, addends, out.floats_mut());

        let mut expected = vec![0.0; n * columns];
        if has_addend {
            expected = addend.f64s();
        }
        for (row, choices) in choices.iter().enumerate() {
            let range = row * columns..(row + 1) * columns;
            for choice in choices {
                let (of_input, of_result) = shares.factors(choice.share);
                let input: Vec<f64> = x.f64s()[range.clone()]
                    .iter()
                    .map(|x| f64::from(of_input) * x)
                    .collect();
                let result = stored[choice.expert].apply(&input, gates_are);
                for (sum, value) in expected[range.clone()].iter_mut().zip(result) {
                    *sum += f64::from(of_result) * value;
                }
            }
        }
        let scale = expected.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
        assert_all_close(&out, &expected, (1e-5, 1e-5 * scale * inner as f64));
    }
}

#[test]
fn one_row_and_the_same_among_many_agree_for_codes() {
    check_one_row_among_many(Shares::OfResults);
    check_one_row_among_many(Shares::OfInputs);
}

fn check_one_row_among_many(shares: Shares) {
    let (columns, inner) = (64, 32);
    let codes: Vec<u8> = values(5, N_EXPERTS * inner * columns / 2)
        .iter()
        .map(|value| value.to_bits() as u8)
        .collect();
    let scales = vec![125; N_EXPERTS * inner * columns / 32];
    let matrix = |index: usize, rows: usize, columns: usize| {
        let part = rows * columns;
        Projection {
            matrix: Matrix::Quantized(QuantizedRows {
                codes: &codes[index * part / 2..(index + 1) * part / 2],
                scales: &scales[index * part / 32..(index + 1) * part / 32],
                biases: None,
                format: Format::Mxfp4,
                columns,
            }),
            rows,
            bias: None,
        }
    };
    let expert = |index: usize| Expert {
        gate_up: GateUp::Separate([
            matrix(index, inner, columns),
            matrix((index + 1) % N_EXPERTS, inner, columns),
        ]),
        down: matrix(index, columns, inner),
    };
    let all: Vec<_> = (0..N_EXPERTS).map(expert).collect();
    let experts = Experts {
        all: &all,
        gate: Gate::Times(Activation::Silu),
        shares,
        arithmetic: Arithmetic::default(),
    };
    let (pool, n) = (Pool::new(2), 20);
    // Of this type, one row and several are multiplied alike.
    let x = Packed::of(Float::F16, 1, &values(9, n * columns));
    let choices = choices(11, n, 3);
    let mix = |arithmetic: Arithmetic| {
        let mut together = Packed::unset(Float::F32, 0, n * columns);
        let experts = Experts {
            arithmetic,
            ..experts
        };
        let all = together.floats_mut();
        mix_experts(&pool, x.floats(), &choices, experts, None, all);
        together.f64s()
    };
    let together = mix(Arithmetic::default());
    let apart = mix(Arithmetic {
        rows_apart: true,
        ..Arithmetic::default()
    });
    for row in 0..n {
        let mut alone = Packed::unset(Float::F32, 0, columns);
        let (x, choices) = (x.floats().row(row, columns), &choices[row..=row]);
        mix_experts(&pool, x, choices, experts, None, alone.floats_mut());
        let rows = row * columns..(row + 1) * columns;
        let expected = &together[rows.clone()];
        let largest = expected.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        assert_all_close(&alone, expected, (2e-3, 2e-3 * largest));
        assert_eq!(alone.f64s(), apart[rows], "to the last bit, row {row}");
    }
}

#[test]
fn shares_are_a_softmax_over_all_or_over_the_chosen() {
    let logits = [0.0, 3.0, 1.0, 3.0, -1.0];
    let routing = |normalized| Routing::softmax(3, normalized);
    let chosen = routing(true).choose(&logits, None);
    let order: Vec<_> = chosen.iter().map(|choice| choice.expert).collect();
    assert_eq!(order, [1, 3, 2], "of equal logits the first");
    let total: f32 = chosen.iter().map(|choice| choice.share).sum();
    assert!((total - 1.0).abs() < 1e-6);
    let all: f32 = logits.iter().map(|logit| logit.exp()).sum();
    for (choice, of_chosen) in routing(false).choose(&logits, None).iter().zip(chosen) {
        assert!((choice.share - logits[choice.expert].exp() / all).abs() < 1e-6);
        assert!(choice.share < of_chosen.share);
    }
}

#[test]
fn logits_that_are_no_numbers_choose_without_failing() {
    let routing = Routing::softmax(2, true);
    let logits = [f32::NAN, 1.0, f32::NAN, f32::INFINITY];
    assert_eq!(routing.choose(&logits, None).len(), 2);
    let groups = Groups {
        n: 2,
        n_chosen: 1,
        n_best: 2,
    };
    let routing = Routing {
        groups: Some(groups),
        ..routing
    };
    assert_eq!(routing.choose(&logits, None).len(), 2);
}

#[test]
fn corrections_change_who_is_chosen_but_not_the_shares() {
    let routing = Routing {
        scores: Scores::Sigmoid,
        scale: 2.5,
        ..Routing::softmax(2, false)
    };
    let logits = [0.5, -0.5, 1.5, -1.5];
    let corrections = [0.0, 0.0, 0.0, 1.0];
    let chosen = routing.choose(&logits, Some(&corrections));
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    for (choice, expert) in chosen.iter().zip([3, 2]) {
        assert_eq!(choice.expert, expert);
        assert!((choice.share - 2.5 * sigmoid(logits[expert])).abs() < 1e-6);
    }
}

#[test]
fn only_experts_of_the_best_groups_are_chosen() {
    let routing = |n_best| Routing {
        scores: Scores::Sigmoid,
        groups: Some(Groups {
            n: 3,
            n_chosen: 1,
            n_best,
        }),
        ..Routing::softmax(2, true)
    };
    let logits = [3.0, -3.0, 2.0, 1.0, 0.0, 0.5];
    let experts = |n_best| -> Vec<usize> {
        let chosen = routing(n_best).choose(&logits, None);
        chosen.iter().map(|choice| choice.expert).collect()
    };
    assert_eq!(experts(1), [0, 1], "the group of the best");
    assert_eq!(experts(2), [2, 3], "the group of the best two");
}

#[test]
fn nearest_experts_are_chosen_one_after_the_other_and_share_with_those_near_them() {
    let routing = Routing {
        scores: Scores::Nearest { jitter: 0.1 },
        ..Routing::softmax(2, false)
    };
    // 0.9 and 0.85 are within 20% of 1.0, and 0.75 within 20% of 0.9.
    let chosen = routing.choose(&[0.75, 1.0, -5.0, 0.9, 0.85], None);
    let share = |largest: f32, near: &[f32]| {
        let weight = |x: &f32| (x - largest).exp();
        1.0 / near.iter().map(weight).sum::<f32>()
    };
    let expected = [
        (1, share(1.0, &[1.0, 0.9, 0.85])),
        (3, share(0.9, &[0.9, 0.85, 0.75])),
    ];
    assert_eq!(chosen.len(), 2);
    for (choice, (expert, share)) in chosen.iter().zip(expected) {
        assert_eq!(choice.expert, expert);
        assert!((choice.share - share).abs() < 1e-6, "{choice:?}");
    }
}
