//! Idle sequences on disk.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use umrt::error::Status;
use umrt::memory::{Category, PressureLevel, ledger};
use umrt::mlx::CpuOps;
use umrt::runtime::{
    Context, ContextOptions, Model, ModelOptions, TrimSteps, Trimmed, notify, set_spill_place, trim,
};

use super::common::process::isolated;
use super::common::random_model::RandomModel;
use super::common::{Random, append, assert_fails, context_of, token_ids};

fn spill() -> Trimmed {
    trim(TrimSteps {
        idle_sequences: true,
        ..TrimSteps::default()
    })
    .expect("a trim")
}

fn in_both_ways(test: impl Fn(&Arc<Model>, &Path)) {
    let directory = RandomModel::default().write();
    let place = tempfile::tempdir().expect("a directory");
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        let options = ModelOptions {
            cpu_ops,
            ..ModelOptions::default()
        };
        set_spill_place(Some((place.path(), usize::MAX))).expect("a directory");
        let model = Model::open(directory.path(), options).expect("a model");
        test(&model, place.path());
        assert_eq!(on_disk(), 0);
        let n_files = fs::read_dir(place.path()).expect("a directory").count();
        assert_eq!(n_files, 0, "files have no names");
    }
}

fn with_sequences(model: &Arc<Model>, n_sequences: usize) -> Context {
    let options = ContextOptions {
        n_ctx: 700,
        n_sequences,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

fn tokens(seed: u64, n: usize) -> Vec<i32> {
    token_ids(seed, n, RandomModel::default().vocab_size)
}

fn on_disk() -> usize {
    ledger().bytes(Category::KvSpilled)
}

#[test]
fn a_text_goes_on_with_the_same_logits_wherever_its_sequences_were() {
    let test = "spilling::a_text_goes_on_with_the_same_logits_wherever_its_sequences_were";
    isolated(test, || {
        in_both_ways(|model, path| {
            let run = |disturbs: bool| {
                let mut context = with_sequences(model, 3);
                let mut random = Random(5);
                let mut found = append(&mut context, 0, &tokens(1, 300));
                context.fork(0, 1).expect("a fork");
                for step in 0..12 {
                    let sequence = (random.next() % 3) as i32;
                    let new = tokens(step, 1 + (random.next() % 20) as usize);
                    if disturbs && step % 2 == 0 {
                        assert!(spill().spilled.n_sequences > 0);
                        assert_eq!(context.memory().kv_reserved, 0);
                    }
                    match step {
                        4 => context.fork(1, 2).expect("a fork"),
                        6 => context.trim(0, 260).expect("a sequence"),
                        8 => {
                            let path = path.join("saved");
                            context.save(1, &path).expect("saved");
                            context.trim(2, 0).expect("a sequence");
                            context.load(2, &path).expect("loaded");
                            fs::remove_file(path).expect("a file");
                        }
                        _ => {}
                    }
                    found.extend(append(&mut context, sequence, &new));
                }
                found
            };
            assert!(run(true) == run(false));
        });
    });
}

#[test]
fn what_left_memory_left_the_ledger() {
    isolated("spilling::what_left_memory_left_the_ledger", || {
        in_both_ways(|model, _| {
            let mut context = with_sequences(model, 2);
            append(&mut context, 0, &tokens(1, 300));
            append(&mut context, 1, &tokens(2, 20));
            let saved = |sequence| context.saved_bytes(sequence).expect("a size");
            let expected = saved(0) + saved(1);
            let before = context.memory().kv_reserved;
            assert_eq!(ledger().bytes(Category::KvReserved), before);
            let trimmed = spill();
            assert_eq!(trimmed.spilled.n_sequences, 2);
            assert_eq!(trimmed.spilled.bytes, before);
            assert_eq!(ledger().bytes(Category::KvReserved), 0);
            assert_eq!(ledger().bytes(Category::KvUsed), 0);
            assert_eq!(on_disk(), expected);
            assert_eq!(spill().spilled.n_sequences, 0, "they are there already");
            append(&mut context, 0, &[1]);
            assert_eq!(on_disk(), context.saved_bytes(1).expect("a size"));
            context.trim(1, 0).expect("a sequence");
            assert_eq!(on_disk(), 0);
        });
    });
}

#[test]
fn sequences_go_to_disk_only_where_they_may_and_as_far_as_they_fit() {
    let test = "spilling::sequences_go_to_disk_only_where_they_may_and_as_far_as_they_fit";
    isolated(test, || {
        in_both_ways(|model, path| {
            set_spill_place(None).expect("none");
            let mut context = with_sequences(model, 3);
            append(&mut context, 0, &tokens(1, 300));
            append(&mut context, 1, &tokens(2, 20));
            let steps = TrimSteps {
                idle_sequences: true,
                ..TrimSteps::default()
            };
            assert_fails(
                trim(steps),
                Status::InvalidArgument,
                &["umrt_memory_spill_set"],
            );
            let trimmed = notify(PressureLevel::Warning).expect("a notice");
            assert_eq!(trimmed.spilled.n_sequences, 0);

            let small = context.saved_bytes(1).expect("a size");
            set_spill_place(Some((path, small))).expect("a directory");
            let trimmed = notify(PressureLevel::Warning).expect("a notice");
            assert_eq!(trimmed.spilled.n_sequences, 1, "only the short one fits");
            assert_eq!(on_disk(), small);

            let missing = path.join("missing");
            assert_fails(
                set_spill_place(Some((&missing, 1))),
                Status::NotFound,
                &["missing"],
            );
        });
    });
}

#[test]
fn a_context_that_computes_is_left_alone() {
    isolated("spilling::a_context_that_computes_is_left_alone", || {
        in_both_ways(|model, _| {
            let run = |disturbs: bool| {
                let mut context = with_sequences(model, 1);
                append(&mut context, 0, &tokens(1, 100));
                let is_over = std::sync::atomic::AtomicBool::new(!disturbs);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                            spill();
                        }
                    });
                    let found: Vec<_> = (0..40)
                        .flat_map(|step| append(&mut context, 0, &tokens(step, 3)))
                        .collect();
                    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
                    found
                })
            };
            assert!(run(true) == run(false));
        });
    });
}
