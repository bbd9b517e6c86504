//! Damage at random.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use umrt::convert::QuantizeSettings;
use umrt::error::{Error, Status};
use umrt::runtime::{Batch, Context, ContextOptions, QuantizeWatch, quantize};

use crate::common::damaged::{Damaged, header_bytes};
use crate::common::process::uses_of;
use crate::common::{open, try_open};
use crate::{FLOATS, MXFP4, PROMPT, QUANTIZED, RECURRENT};

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

/// Where, and any byte or another digit in place of a digit, so that numbers stay some.
type Flip = (prop::sample::Index, Option<u8>, u8);

fn flips() -> impl Strategy<Value = Vec<Flip>> {
    let flip = (
        any::<prop::sample::Index>(),
        any::<Option<u8>>(),
        b'0'..=b'9',
    );
    prop::collection::vec(flip, 1..4)
}

fn mutate(bytes: &mut [u8], flips: &[Flip]) {
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

fn damaged_copy(fixture: &str, target: Target, flips: &[Flip]) -> Damaged {
    let damaged = Damaged::copy_of(fixture);
    match target {
        Target::Config => {
            let mut text = fs::read(damaged.config_path()).expect("config.json");
            mutate(&mut text, flips);
            damaged.with_config_text(text)
        }
        Target::Header => damaged.with_weight_bytes(|bytes| {
            let end = 8 + header_bytes(bytes);
            mutate(&mut bytes[..end], flips);
        }),
    }
}

fn targets() -> impl Strategy<Value = Target> {
    prop::sample::select(vec![Target::Config, Target::Header])
}

/// Whether the input is at fault, in words.
fn is_of_the_input(error: &Error) -> bool {
    let is_known = matches!(error.status(), Status::Format | Status::Unsupported);
    is_known && !error.message().is_empty()
}

/// Stored otherwise than quantized copies have it: experts apart or joined, by input,
/// latent heads, filters of convolutions.
const SOURCES: [&str; 8] = [
    FLOATS,
    RECURRENT,
    "mixtral-f32",
    "granitemoe-f32",
    "llama4-f32",
    "gpt-oss-bf16",
    "deepseek-v3-f32",
    "gpt2-f32",
];

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
        target in targets(),
        flips in flips(),
    ) {
        let damaged = damaged_copy(fixture, target, &flips);
        if let Err(error) = use_or_fail(damaged.path()) {
            prop_assert!(is_of_the_input(&error), "{error:?}");
        }
        prop_assert_eq!(uses_of(damaged.path()), 0);
    }

    #[test]
    fn what_is_damaged_is_quantized_to_what_opens_or_not_at_all(
        fixture in prop::sample::select(SOURCES.to_vec()),
        target in targets(),
        flips in flips(),
    ) {
        let damaged = damaged_copy(fixture, target, &flips);
        let parent = tempfile::tempdir().expect("a directory");
        let copy = parent.path().join("copy");
        let settings = QuantizeSettings {
            group_size: Some(32),
            ..QuantizeSettings::default()
        };
        match quantize(damaged.path(), &copy, &settings, QuantizeWatch::default()) {
            Ok(()) => drop(open(&copy)),
            Err(error) => {
                prop_assert!(is_of_the_input(&error), "{error:?}");
                let left = fs::read_dir(parent.path()).expect("a directory").count();
                prop_assert_eq!(left, 0);
            }
        }
        prop_assert_eq!(uses_of(damaged.path()), 0);
    }
}
