//! Idle sequences in fewer bits.

use std::sync::Arc;

use umrt::error::Status;
use umrt::kv::KvType;
use umrt::memory::{Category, PressureLevel, ledger};
use umrt::mlx::CpuOps;
use umrt::runtime::{
    Batch, Context, ContextOptions, Model, TrimSteps, Trimmed, Want, notify, set_spill_place, trim,
};

use super::common::process::isolated;
use super::common::random_model::RandomModel;
use super::common::{
    append, assert_close, assert_fails, assert_identical, context_of, eval_all, open_with,
    relative_difference, rows, token_ids,
};

const SHAPE: RandomModel = RandomModel::WIDE_HEADS;

const ELEMENTS: usize = SHAPE.n_layers * 2 * SHAPE.n_kv_heads * SHAPE.head_dim;
const F32_BYTES: usize = ELEMENTS * 4;
const Q8_BYTES: usize = ELEMENTS + ELEMENTS / 64 * 8;

const fn quantized(bits: usize) -> KvType {
    KvType::Quantized {
        bits,
        group_size: 64,
    }
}

fn with_model(test: &str, run: impl Fn(&Arc<Model>)) {
    isolated(&format!("reducing::{test}"), || {
        let directory = SHAPE.write();
        run(&open_with(directory.path(), CpuOps::Kernels));
    });
}

fn options(pressure_kv_type: Option<KvType>) -> ContextOptions {
    ContextOptions {
        n_ctx: 700,
        n_sequences: 4,
        pressure_kv_type,
        ..ContextOptions::default()
    }
}

fn reducible(model: &Arc<Model>) -> Context {
    context_of(model, options(Some(quantized(8))))
}

fn reduce() -> Trimmed {
    trim(TrimSteps {
        reduced_sequences: true,
        ..TrimSteps::default()
    })
    .expect("a trim")
}

fn tokens(seed: u64, n: usize) -> Vec<i32> {
    token_ids(seed, n, SHAPE.vocab_size)
}

fn in_memory() -> usize {
    ledger().bytes(Category::KvReserved)
}

#[test]
fn it_gives_back_the_bytes_that_it_says_and_only_where_it_may() {
    with_model(
        "it_gives_back_the_bytes_that_it_says_and_only_where_it_may",
        |model| {
            let mut context = reducible(model);
            let mut other = context_of(model, options(None));
            append(&mut other, 0, &tokens(1, 10));
            append(&mut context, 0, &tokens(1, 300));
            append(&mut context, 1, &tokens(2, 20));
            let planned = context.planned_bytes().kv;
            let (before, blocks) = (in_memory(), 3 * 256);
            assert_eq!(context.memory().kv_reserved, blocks * F32_BYTES);
            let reduced = reduce().reduced;
            assert_eq!(reduced.n_sequences, 2);
            assert_eq!(reduced.bytes, blocks * (F32_BYTES - Q8_BYTES));
            assert_eq!(in_memory(), before - reduced.bytes);
            assert_eq!(context.memory().kv_reserved, blocks * Q8_BYTES);
            assert_eq!(context.memory().kv_used, 320 * Q8_BYTES);
            assert_eq!(other.memory().kv_used, 10 * F32_BYTES);
            assert_eq!(context.planned_bytes().kv, planned);
            assert_eq!(reduce().reduced.n_sequences, 0, "they are small already");
            // What comes behind is small too, until the sequence is empty.
            append(&mut context, 1, &tokens(3, 250));
            let memory = context.sequence_memory(1).expect("figures");
            assert_eq!(memory.kv_used, 270 * Q8_BYTES);
            assert_eq!(memory.kv_reserved, 512 * Q8_BYTES);
            context.trim(1, 0).expect("empty");
            append(&mut context, 1, &tokens(3, 10));
            let memory = context.sequence_memory(1).expect("figures");
            assert_eq!(memory.kv_used, 10 * F32_BYTES);
        },
    );
}

#[test]
fn logits_stay_within_the_accuracy_of_the_type_and_come_out_the_same_each_time() {
    with_model(
        "logits_stay_within_the_accuracy_of_the_type_and_come_out_the_same_each_time",
        |model| {
            let (text, behind) = (tokens(1, 300), tokens(2, 8));
            for (kv_type, bound) in [
                (KvType::F16, 3e-4),
                (KvType::Bf16, 3e-3),
                (quantized(8), 5e-3),
                (quantized(4), 1e-1),
            ] {
                let run = |reduces: bool| {
                    let mut context = context_of(model, options(Some(kv_type)));
                    append(&mut context, 0, &text);
                    if reduces {
                        assert_eq!(reduce().reduced.n_sequences, 1);
                    }
                    eval_all(&mut context, &behind)
                };
                let (expected, found) = (run(false), run(true));
                let difference = relative_difference(&found, &expected);
                println!("{kv_type:?}: {difference:.1e}");
                assert!(0.0 < difference && difference <= bound, "{kv_type:?}");
                assert_identical(&run(true), &found);
            }
        },
    );
}

#[test]
fn a_batch_of_different_formats_is_computed_as_each_alone() {
    with_model(
        "a_batch_of_different_formats_is_computed_as_each_alone",
        |model| {
            let fill = || {
                let mut context = reducible(model);
                append(&mut context, 0, &tokens(1, 290));
                append(&mut context, 2, &tokens(2, 30));
                assert_eq!(reduce().reduced.n_sequences, 2);
                append(&mut context, 1, &tokens(3, 260));
                append(&mut context, 3, &tokens(4, 7));
                context
            };
            let one_by_one = |mut context: Context| -> Vec<f32> {
                let one = |sequence| append(&mut context, sequence, &[5 + sequence]);
                (0..4).flat_map(one).collect()
            };
            let expected = one_by_one(fill());
            let mut together = fill();
            let batch = Batch {
                tokens: &[5, 6, 7, 8],
                sequences: Some(&[0, 1, 2, 3]),
                want: Want::Last,
            };
            together.eval(&batch, None).expect("an evaluation");
            assert_close(&rows(&together), &expected);
        },
    );
}

#[test]
fn forks_go_on_sharing_what_they_share() {
    with_model("forks_go_on_sharing_what_they_share", |model| {
        let mut context = reducible(model);
        append(&mut context, 0, &tokens(1, 600));
        context.fork(0, 1).expect("a fork");
        context.fork(0, 2).expect("a fork");
        context.trim(1, 400).expect("shorter");
        append(&mut context, 2, &tokens(2, 5));
        let shared = 3 * 256 - 68;
        let own = 256 - 68;
        assert_eq!(
            context.memory().kv_reserved,
            (shared + own) * F32_BYTES,
            "the last block is another one's own"
        );
        assert_eq!(reduce().reduced.n_sequences, 3);
        assert_eq!(context.memory().kv_reserved, (shared + own) * Q8_BYTES);
        // The shortest one was not what the common blocks were converted for.
        context.fork(0, 3).expect("a fork");
        let expected = append(&mut context, 0, &[1]);
        context.trim(3, 512).expect("shorter");
        let rest = &tokens(1, 600)[512..];
        let found = append(&mut context, 3, &[rest, &[1]].concat());
        assert!(relative_difference(&found, &expected) <= 5e-3);
    });
}

#[test]
fn a_reduced_sequence_is_saved_loaded_and_spilled_as_it_is() {
    with_model(
        "a_reduced_sequence_is_saved_loaded_and_spilled_as_it_is",
        |model| {
            let mut context = reducible(model);
            append(&mut context, 0, &tokens(1, 300));
            reduce();
            let mut saved = vec![0; context.saved_bytes(0).expect("a size")];
            context.save_to(0, &mut saved).expect("saved");
            let directory = tempfile::tempdir().expect("a directory");
            context.fork(0, 1).expect("a fork");
            set_spill_place(Some((directory.path(), usize::MAX))).expect("a directory");
            let spilled = trim(TrimSteps {
                idle_sequences: true,
                ..TrimSteps::default()
            });
            assert_eq!(spilled.expect("a trim").spilled.n_sequences, 2);
            assert_eq!(reduce().reduced.n_sequences, 0, "they are not in memory");
            let expected = append(&mut context, 0, &[7]);
            assert_identical(&append(&mut context, 1, &[7]), &expected);
            // A file says what it is: it goes where this format may be, and only there.
            let mut second = reducible(model);
            second.load_from(0, &saved).expect("loaded");
            assert_eq!(second.memory().kv_used, 300 * Q8_BYTES);
            assert_identical(&append(&mut second, 0, &[7]), &expected);
            let mut plain = context_of(model, options(None));
            let refused = plain.load_from(0, &saved);
            assert_fails(refused, Status::InvalidArgument, &["pressure_kv_type"]);
        },
    );
}

#[test]
fn others_do_not_find_what_was_reduced() {
    with_model("others_do_not_find_what_was_reduced", |model| {
        let with_cache = ContextOptions {
            prefix_cache: true,
            ..options(Some(quantized(8)))
        };
        let text = tokens(1, 520);
        let mut context = context_of(model, with_cache);
        append(&mut context, 0, &text[..256]);
        let plain = append(&mut context_of(model, options(None)), 0, &text);
        // The cache keeps the first block as it was, and none of those behind it.
        reduce();
        append(&mut context, 0, &text[256..]);
        let mut other = context_of(model, with_cache);
        assert_eq!(other.reuse_prefix(0, &text).expect("reused") % 256, 0);
        let n = other.sequence_length(0).expect("a length");
        assert!(n <= 256);
        let found = append(&mut other, 0, &text[n..]);
        assert_close(&found, &plain);
        // The sequence itself goes on from its own.
        assert_eq!(context.reuse_prefix(0, &text).expect("reused"), 519);
        assert_eq!(context.memory().kv_used, 519 * Q8_BYTES);
    });
}

#[test]
fn sequences_get_fewer_bits_before_they_go_to_disk() {
    with_model("sequences_get_fewer_bits_before_they_go_to_disk", |model| {
        let directory = tempfile::tempdir().expect("a directory");
        set_spill_place(Some((directory.path(), usize::MAX))).expect("a directory");
        let mut context = reducible(model);
        append(&mut context, 0, &tokens(1, 30));
        let steps = |level| {
            let trimmed = notify(level).expect("a notice");
            (trimmed.reduced.n_sequences, trimmed.spilled.n_sequences)
        };
        assert_eq!(steps(PressureLevel::Warning), (1, 0));
        assert_eq!(steps(PressureLevel::Warning), (0, 1));
        context.trim(0, 0).expect("empty");
        append(&mut context, 0, &tokens(1, 30));
        assert_eq!(steps(PressureLevel::Critical), (1, 1));
        notify(PressureLevel::Normal).expect("a notice");
    });
}

#[test]
fn what_would_make_no_room_or_needs_our_kernels_is_refused() {
    let directory = SHAPE.write();
    let [kernels, stock] =
        [CpuOps::Kernels, CpuOps::Stock].map(|ops| open_with(directory.path(), ops));
    let larger = ContextOptions {
        kv_type: quantized(4),
        ..options(Some(quantized(8)))
    };
    let result = Context::new(&kernels, &larger);
    assert_fails(result, Status::InvalidArgument, &["no room", "fewer bits"]);
    let odd = options(Some(KvType::Quantized {
        bits: 8,
        group_size: 48,
    }));
    assert_fails(Context::new(&kernels, &odd), Status::Unsupported, &["48"]);
    let result = Context::new(&stock, &options(Some(quantized(8))));
    assert_fails(result, Status::Unsupported, &["pressure_kv_type"]);
}
