//! Damage at random.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use umrt::error::Status;
use umrt::runtime::{Batch, Context, ContextOptions};

use crate::common::damaged::{Damaged, header_bytes};
use crate::common::process::uses_of;
use crate::common::try_open;
use crate::{FLOATS, MXFP4, PROMPT, QUANTIZED};

/// Opens and uses the model, or gets an error.
fn use_or_fail(path: &Path) -> umrt::error::Result<()> {
    let mut context = Context::new(&try_open(path)?, &ContextOptions::default())?;
    context.eval(&Batch::of(&PROMPT), None)?;
    context.eval(&Batch::of(&[5]), None)?;
    context.logits(0).map(drop)
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Config,
    Header,
}

/// Any bytes, or other digits in place of digits, which stay numbers.
fn flips() -> impl Strategy<Value = Vec<(prop::sample::Index, Option<u8>, u8)>> {
    let flip = (
        any::<prop::sample::Index>(),
        any::<Option<u8>>(),
        b'0'..=b'9',
    );
    prop::collection::vec(flip, 1..4)
}

fn mutate(bytes: &mut [u8], flips: &[(prop::sample::Index, Option<u8>, u8)]) {
    let digits: Vec<usize> = (0..bytes.len())
        .filter(|at| bytes[*at].is_ascii_digit())
        .collect();
    for (at, byte, digit) in flips {
        match byte {
            Some(byte) => bytes[at.index(bytes.len())] = *byte,
            None => bytes[digits[at.index(digits.len())]] = *digit,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 250,
        rng_seed: RngSeed::Fixed(20),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_damage_to_names_and_numbers_is_an_error_or_harmless(
        fixture in prop::sample::select(vec![FLOATS, QUANTIZED, MXFP4, "qwen2-window-f32"]),
        target in prop::sample::select(vec![Target::Config, Target::Header]),
        flips in flips(),
    ) {
        let damaged = Damaged::copy_of(fixture);
        let damaged = match target {
            Target::Config => {
                let mut text = fs::read(damaged.config_path()).expect("config.json");
                mutate(&mut text, &flips);
                damaged.with_config_text(text)
            }
            Target::Header => damaged.with_weight_bytes(|bytes| {
                let end = 8 + header_bytes(bytes);
                mutate(&mut bytes[..end], &flips);
            }),
        };
        if let Err(error) = use_or_fail(damaged.path()) {
            let of_the_input = matches!(error.status(), Status::Format | Status::Unsupported);
            prop_assert!(of_the_input && !error.message().is_empty(), "{error:?}");
        }
        prop_assert_eq!(uses_of(damaged.path()), 0);
    }
}
