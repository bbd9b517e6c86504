use proptest::prelude::*;

use super::*;
use crate::kernels::testing::{FLOATS, Packed, assert_all_close, normal_cdf_f64, values};
use crate::kernels::{Float, Level, Pool};

const ACTIVATIONS: [Activation; 9] = [
    Activation::Silu,
    Activation::ScaledSilu { factor: 0.7 },
    Activation::Sigmoid,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::ReluSquared,
    Activation::SoftCap { cap: 30.0 },
    Activation::Clamp { limit: 0.5 },
];

/// The functions from their definitions in float64.
fn reference(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::ScaledSilu { factor } => reference(Activation::Silu, f64::from(factor) * x),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Gelu => x * normal_cdf_f64(x),
        Activation::GeluTanh => {
            let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            // x (1 + tanh z) / 2
            x / (1.0 + (-2.0 * z).exp())
        }
        Activation::Relu if x < 0.0 => 0.0,
        Activation::Relu => x,
        Activation::ReluSquared if x < 0.0 => 0.0,
        Activation::ReluSquared => x * x,
        Activation::Xielu {
            positive,
            negative,
            beta,
        } => {
            let curve = match x > 0.0 {
                true => f64::from(positive) * x * x,
                false => f64::from(negative) * (x.exp_m1() - x),
            };
            f64::from(beta) * x + curve
        }
        Activation::SoftCap { cap } => f64::from(cap) * (x / f64::from(cap)).tanh(),
        Activation::Clamp { limit } => x.clamp(f64::from(-limit), f64::from(limit)),
    }
}

#[test]
fn xielu_is_right_on_both_sides_of_zero() {
    // Without its line, which would cancel some of the curve.
    let xielu = Activation::Xielu {
        positive: 0.8,
        negative: 1.3,
        beta: 0.0,
    };
    let lined = Activation::Xielu {
        positive: 0.8,
        negative: 1.3,
        beta: 0.5,
    };
    let sizes = [0.01_f32, 1.0, 10.0, 100.0];
    let xs = sizes
        .iter()
        .flat_map(|size| values(3, 64).into_iter().map(move |x| x * size));
    let x = Packed::of(Float::F32, 0, &xs.collect::<Vec<_>>());
    for level in Level::available() {
        for (activation, errors) in [(xielu, (2e-6, 1e-9)), (lined, (2e-6, 1e-6))] {
            let mut y = Packed::unset(Float::F32, 0, x.floats().len());
            activation.row(level, x.floats(), y.floats_mut());
            let expected = x.f64s().into_iter().map(|x| reference(activation, x));
            assert_all_close(&y, &expected.collect::<Vec<_>>(), errors);
        }
    }
}

/// Relative, and absolute for the tails towards zero, where the rounding of an
/// exponent counts.
const ERRORS: (f64, f64) = (1e-6, 1e-8);

fn clamped_swiglu(alpha: f64, limit: f64, gate: f64, up: f64) -> f64 {
    let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
    gate / (1.0 + (-alpha * gate).exp()) * (up + 1.0)
}

proptest! {
    #[test]
    fn functions_are_right_at_any_length_alignment_and_format(
        columns in 0_usize..300, kinds in (0_usize..3, 0_usize..3, 0_usize..3),
        shift in 0_usize..4, size in prop::sample::select(vec![0.01_f32, 1.0, 6.0, 60.0]),
        seed: u32,
    ) {
        let scaled: Vec<f32> = values(seed, columns).iter().map(|x| x * size).collect();
        let x = Packed::of(FLOATS[kinds.0], shift, &scaled);
        let up = Packed::of(FLOATS[kinds.1], shift, &values(!seed, columns));
        for level in Level::available() {
            for activation in ACTIVATIONS {
                let mut y = Packed::unset(FLOATS[kinds.2], shift, columns);
                activation.row(level, x.floats(), y.floats_mut());
                let expected: Vec<_> =
                    x.f64s().into_iter().map(|x| reference(activation, x)).collect();
                assert_all_close(&y, &expected, ERRORS);

                let gate = Gate::Times(activation);
                gate.row(level, x.floats(), up.floats(), y.floats_mut());
                let expected = expected.iter().zip(up.f64s());
                let expected: Vec<_> = expected.map(|(gate, up)| gate * up).collect();
                assert_all_close(&y, &expected, (ERRORS.0, 2.0 * ERRORS.1));
            }
            let (alpha, limit) = (1.702, 7.0);
            let gate = Gate::ClampedSwiglu { alpha, limit };
            let mut y = Packed::unset(FLOATS[kinds.2], shift, columns);
            gate.row(level, x.floats(), up.floats(), y.floats_mut());
            let pairs = x.f64s().into_iter().zip(up.f64s());
            let (alpha, limit) = (f64::from(alpha), f64::from(limit));
            let expected: Vec<_> =
                pairs.map(|(gate, up)| clamped_swiglu(alpha, limit, gate, up)).collect();
            assert_all_close(&y, &expected, ERRORS);
        }
    }
}

/// What torch 2 answers; at +inf its vectorized exact GELU is not a number, ours
/// is the limit.
#[test]
fn special_values_are_torchs() {
    const INF: f32 = f32::INFINITY;
    const NAN: f32 = f32::NAN;
    let x = [-INF, INF, NAN, -0.0, -1e30, 1e30];
    let expected = [
        (Activation::Silu, [NAN, INF, NAN, 0.0, 0.0, 1e30]),
        (Activation::Gelu, [NAN, INF, NAN, 0.0, 0.0, 1e30]),
        (Activation::GeluTanh, [NAN, INF, NAN, 0.0, 0.0, 1e30]),
        (Activation::Relu, [0.0, INF, NAN, 0.0, 0.0, 1e30]),
        (Activation::ReluSquared, [0.0, INF, NAN, 0.0, 0.0, INF]),
        (
            Activation::SoftCap { cap: 30.0 },
            [-30.0, 30.0, NAN, 0.0, -30.0, 30.0],
        ),
        (
            Activation::Clamp { limit: 8.0 },
            [-8.0, 8.0, NAN, 0.0, -8.0, 8.0],
        ),
    ];
    for level in Level::available() {
        for (activation, expected) in expected {
            let mut y = [-77.0; 6];
            activation.row(level, Floats::from(&x[..]), FloatsMut::from(&mut y[..]));
            let same = |(y, e): (&f32, &f32)| y == e || (y.is_nan() && e.is_nan());
            assert!(
                y.iter().zip(&expected).all(same),
                "{level:?} {activation:?}: {y:?}"
            );
        }
    }
}

#[test]
fn clamped_swiglu_of_special_values_is_torchs() {
    const INF: f32 = f32::INFINITY;
    const NAN: f32 = f32::NAN;
    let gate = [-INF, INF, NAN, 1.0, 1.0, 1.0];
    let up = [1.0, 1.0, 1.0, -INF, INF, NAN];
    let expected = [NAN, 13.999_907, NAN, -5.074_775, 6.766_366, NAN];
    let function = Gate::ClampedSwiglu {
        alpha: 1.702,
        limit: 7.0,
    };
    for level in Level::available() {
        let mut y = Packed::unset(Float::F32, 0, 6);
        function.row(
            level,
            Floats::from(&gate[..]),
            Floats::from(&up[..]),
            y.floats_mut(),
        );
        assert_all_close(&y, &expected.map(f64::from), (1e-6, 0.0));
    }
}

#[test]
fn shared_rows_equal_single_ones() {
    let pool = Pool::new(3);
    let (n_rows, columns) = (300, 701);
    let gate = values(1, n_rows * columns);
    let up = values(2, n_rows * columns);
    let (gate, up) = (Floats::from(&gate[..]), Floats::from(&up[..]));
    let function = Gate::Times(Activation::Silu);
    let (mut together, mut single) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
    function.rows(&pool, gate, up, columns, FloatsMut::from(&mut together[..]));
    function.row(Level::detect(), gate, up, FloatsMut::from(&mut single[..]));
    for (together, single) in together.iter().zip(&single) {
        assert!((together - single).abs() <= 1e-6 * single.abs());
    }
    let mut ungated = vec![0.0; gate.len()];
    Activation::Silu.rows(&pool, gate, columns, FloatsMut::from(&mut ungated[..]));
    let mut expected = vec![0.0; gate.len()];
    Activation::Silu.row(Level::detect(), gate, FloatsMut::from(&mut expected[..]));
    assert_eq!(ungated, expected);
}

#[test]
fn gates_below_the_cutoff_are_closed() {
    let (n_rows, columns) = (3, 37);
    let both = values(5, n_rows * 2 * columns);
    let function = Gate::Times(Activation::GeluTanh);
    let mut found = vec![0.0; n_rows * columns];
    let out = FloatsMut::from(&mut found[..]);
    function.sparse_rows(&Pool::new(2), Floats::from(&both[..]), 0.6, columns, out);
    let mut n_closed = 0;
    for (row, found) in both.chunks(2 * columns).zip(found.chunks(columns)) {
        let (gate, up) = row.split_at(columns);
        let n = columns as f64;
        let mean = gate.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let squares = gate.iter().map(|x| (f64::from(*x) - mean).powi(2));
        let least = mean + 0.6 * (squares.sum::<f64>() / n).sqrt();
        for ((gate, up), found) in gate.iter().zip(up).zip(found) {
            let open = (f64::from(*gate) - least).max(0.0);
            let expected = reference(Activation::GeluTanh, open) * f64::from(*up);
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found} {expected}"
            );
            n_closed += usize::from(open == 0.0);
        }
    }
    assert!(n_closed > n_rows * columns / 2);
}

#[test]
fn what_goes_through_may_be_a_part_of_wider_rows() {
    let (n_rows, columns, width, first) = (4, 9, 30, 13);
    let (gate, wide) = (values(1, n_rows * columns), values(2, n_rows * width));
    let part: Vec<f32> = wide
        .chunks(width)
        .flat_map(|row| row[first..first + columns].to_vec())
        .collect();
    let function = Gate::Times(Activation::Silu);
    let (pool, gate) = (Pool::new(2), Floats::from(&gate[..]));
    let [mut found, mut expected] = [(); 2].map(|()| vec![0.0; gate.len()]);
    let wide = (Floats::from(&wide[..]), width, first);
    function.part_rows(&pool, gate, wide, columns, FloatsMut::from(&mut found[..]));
    let part = Floats::from(&part[..]);
    function.rows(
        &pool,
        gate,
        part,
        columns,
        FloatsMut::from(&mut expected[..]),
    );
    assert_eq!(found, expected);
}
