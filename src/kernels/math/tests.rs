use super::*;
use crate::kernels::lanes::Kernel;
use crate::kernels::testing::{is_close, normal_cdf_f64};
use crate::kernels::{Float, Floats, FloatsMut, Level};

#[derive(Clone, Copy, Debug)]
enum Function {
    Exp,
    ExpOrZero,
    Tanh,
    Sigmoid,
    NormalCdf,
}

struct Map<'a> {
    function: Function,
    x: Floats<'a>,
    y: FloatsMut<'a>,
}

impl Kernel for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        for first in (0..self.x.len()).step_by(V::N) {
            let x: V = self.x.lanes(first, 0.0);
            let y = match self.function {
                Function::Exp => exp(x),
                Function::ExpOrZero => exp_or_zero(x),
                Function::Tanh => tanh(x),
                Function::Sigmoid => sigmoid(x),
                Function::NormalCdf => normal_cdf(x),
            };
            self.y.set_lanes(first, y);
        }
    }
}

fn map(level: Level, function: Function, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    level.run(Map {
        function,
        x: Floats::from(x),
        y: FloatsMut::from(&mut y[..]),
    });
    y
}

/// Float32 of all magnitudes and signs, infinities and NaNs among them.
fn all_magnitudes() -> Vec<f32> {
    let special = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -0.0];
    (0..u32::MAX)
        .step_by(20_011)
        .map(f32::from_bits)
        .chain(special)
        .collect()
}

#[track_caller]
fn check(
    function: Function,
    x: &[f32],
    reference: impl Fn(f64) -> f64,
    errors: impl Fn(f64) -> (f64, f64),
) {
    for level in Level::available() {
        for (x, y) in x.iter().zip(map(level, function, x)) {
            let expected = reference(f64::from(*x));
            assert!(
                is_close(Float::F32, f64::from(y), expected, errors(f64::from(*x))),
                "{level:?} {function:?}({x:e}) = {y:e} instead of {expected:e}"
            );
        }
    }
}

#[test]
fn exp_is_right_over_the_whole_range() {
    let dense: Vec<f32> = (-105_000..90_000).map(|x| x as f32 * 1e-3).collect();
    check(Function::Exp, &dense, f64::exp, |_| (2e-7, 0.0));
    check(Function::Exp, &all_magnitudes(), f64::exp, |_| (2e-7, 0.0));
}

#[test]
fn exp_of_special_values() {
    for level in Level::available() {
        let x = [
            f32::NEG_INFINITY,
            f32::INFINITY,
            f32::NAN,
            0.0,
            -0.0,
            -103.0,
            -200.0,
            88.8,
        ];
        let y = map(level, Function::Exp, &x);
        assert_eq!(y[..2], [0.0, f32::INFINITY], "{level:?}");
        assert!(y[2].is_nan(), "{level:?}");
        assert_eq!(y[3..5], [1.0, 1.0], "{level:?}");
        assert!(y[5].is_subnormal(), "{level:?}");
        assert_eq!(y[6..], [0.0, f32::INFINITY], "{level:?}");
    }
}

#[test]
fn exp_or_zero_is_right_up_to_88() {
    let dense: Vec<f32> = (-873_000..880_000).map(|x| x as f32 * 1e-4).collect();
    check(Function::ExpOrZero, &dense, f64::exp, |_| (2e-7, 0.0));
    for level in Level::available() {
        let y = map(
            level,
            Function::ExpOrZero,
            &[f32::NAN, 0.0, -88.1, -1e30, f32::NEG_INFINITY],
        );
        assert!(y[0].is_nan(), "{level:?}");
        assert_eq!(y[1..], [1.0, 0.0, 0.0, 0.0], "{level:?}");
    }
}

#[test]
fn tanh_is_right_over_the_whole_range() {
    let dense: Vec<f32> = (-20_000..20_000).map(|x| x as f32 * 5e-4).collect();
    check(Function::Tanh, &dense, f64::tanh, |_| (2e-7, 0.0));
    check(Function::Tanh, &all_magnitudes(), f64::tanh, |_| {
        (2e-7, 0.0)
    });
}

#[test]
fn sigmoid_is_right_over_the_whole_range() {
    let reference = |x: f64| 1.0 / (1.0 + (-x).exp());
    // Below -88.7, e^-x is infinite in float32.
    let errors = |_| (4e-7, 3e-39);
    let dense: Vec<f32> = (-105_000..20_000).map(|x| x as f32 * 1e-3).collect();
    check(Function::Sigmoid, &dense, reference, errors);
    check(Function::Sigmoid, &all_magnitudes(), reference, errors);
}

#[test]
fn the_normal_distribution_is_right_over_the_whole_range() {
    // In the tail the rounding of x^2 counts, in units of the exponent.
    let errors = |x: f64| (4e-7 + x.min(0.0).powi(2).min(200.0) * 1e-7, 1e-44);
    let dense: Vec<f32> = (-15_000..10_000).map(|x| x as f32 * 1e-3).collect();
    check(Function::NormalCdf, &dense, normal_cdf_f64, errors);
    check(
        Function::NormalCdf,
        &all_magnitudes(),
        normal_cdf_f64,
        errors,
    );
}
