//! Sequences that are saved go on as if they had not been.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use umrt::error::Status;
use umrt::kv::KvType;
use umrt::mlx::CpuOps;
use umrt::runtime::{Context, ContextOptions, Model};

use crate::common::process::isolated;
use crate::common::random_model::RandomModel;
use crate::common::{Random, assert_fails, context_of, eval, open_with, token_ids};

const SHAPE: RandomModel = RandomModel {
    dtype: umrt::checkpoint::Dtype::BF16,
    ..RandomModel::WIDE_HEADS
};

fn of(model: &Arc<Model>, kv_type: KvType, n_ctx: usize) -> Context {
    let options = ContextOptions {
        n_ctx,
        n_sequences: 2,
        kv_type,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

fn tokens(seed: u64, n: usize) -> Vec<i32> {
    token_ids(seed, n, SHAPE.vocab_size)
}

#[test]
fn logits_after_loading_are_those_without_to_the_last_bit() {
    let directory = SHAPE.write();
    let files = tempfile::tempdir().expect("a directory");
    let path = files.path().join("sequence");
    let quantized = |bits, group_size| KvType::Quantized { bits, group_size };
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        let model = open_with(directory.path(), cpu_ops);
        for kv_type in [
            KvType::Computed,
            KvType::F32,
            KvType::F16,
            quantized(8, 64),
            quantized(8, 32),
            quantized(4, 64),
            quantized(4, 32),
        ] {
            for n in [1, 256, 270] {
                let mut first = of(&model, kv_type, 300);
                eval(&mut first, &tokens(1, n));
                first.save(0, &path).expect("saved");
                let bytes = first.saved_bytes(0).expect("a size");
                assert_eq!(fs::metadata(&path).expect("a file").len(), bytes as u64);
                let mut buffer = vec![0; bytes];
                first.save_to(0, &mut buffer).expect("saved");
                assert!(fs::read(&path).expect("a file") == buffer);

                let mut second = of(&model, kv_type, 600);
                eval(&mut second, &tokens(2, 40));
                second.load(0, &path).expect("loaded");
                assert_eq!(second.sequence_tokens(0).expect("tokens"), tokens(1, n));
                let per_token = second.kv_bytes_per_token();
                assert_eq!(second.memory().kv_used, n * per_token);
                let mut third = of(&model, kv_type, 300);
                third.load_from(0, &buffer).expect("loaded");
                for seed in 3..6 {
                    let next = tokens(seed, 5);
                    let expected = eval(&mut first, &next);
                    assert!(eval(&mut second, &next) == expected, "{kv_type:?} {n}");
                    assert!(eval(&mut third, &next) == expected, "{kv_type:?} {n}");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_loaded_changes_nothing() {
    let directory = SHAPE.write();
    let other = RandomModel {
        intermediate_size: 192,
        ..SHAPE
    };
    let other = other.write();
    let files = tempfile::tempdir().expect("a directory");
    let path = files.path().join("sequence");
    let model = open_with(directory.path(), CpuOps::Kernels);
    let mut context = of(&model, KvType::Computed, 300);
    eval(&mut context, &tokens(1, 280));
    context.save(0, &path).expect("saved");
    let whole = fs::read(&path).expect("a file");
    let state = |context: &mut Context| {
        let mut state = vec![0; context.saved_bytes(0).expect("a size")];
        context.save_to(0, &mut state).expect("saved");
        state
    };

    let mut second = of(&model, KvType::Computed, 300);
    eval(&mut second, &tokens(2, 30));
    let before = (state(&mut second), second.memory());
    fs::write(&path, &whole[..whole.len() - 1]).expect("a file");
    assert_fails(
        second.load(0, &path),
        Status::Format,
        &["sequence:", "cut off"],
    );
    let mut damaged = whole.clone();
    *damaged.last_mut().expect("bytes") ^= 1;
    assert_fails(second.load_from(0, &damaged), Status::Format, &["damaged"]);
    fs::write(&path, "{}").expect("a file");
    assert_fails(second.load(0, &path), Status::Format, &["sequence:"]);
    let missing = files.path().join("missing");
    assert_fails(second.load(0, &missing), Status::NotFound, &["missing"]);
    assert_fails(
        second.load(0, files.path()),
        Status::Format,
        &["not a regular file"],
    );
    assert_fails(
        second.load_from(2, &whole),
        Status::InvalidArgument,
        &["sequence 2"],
    );
    assert!((state(&mut second), second.memory()) == before);

    let other = open_with(other.path(), CpuOps::Kernels);
    let result = of(&other, KvType::Computed, 300).load_from(0, &whole);
    assert_fails(result, Status::InvalidArgument, &["another model"]);
    let result = of(&model, KvType::Computed, 279).load_from(0, &whole);
    assert_fails(result, Status::NoSpace, &["280 tokens", "n_ctx"]);
}

#[test]
fn loading_keeps_to_what_the_context_reserved() {
    let directory = SHAPE.write();
    let model = open_with(directory.path(), CpuOps::Kernels);
    let options = ContextOptions {
        n_ctx: 300,
        ..ContextOptions::default()
    };
    let mut context = context_of(&model, options);
    eval(&mut context, &tokens(1, 280));
    let mut saved = vec![0; context.saved_bytes(0).expect("a size")];
    context.save_to(0, &mut saved).expect("saved");
    let reserved = context.memory().kv_reserved;
    assert_fails(context.load_from(0, &saved), Status::OverBudget, &["trim"]);
    assert_eq!(context.sequence_length(0).expect("a sequence"), 280);
    context.trim(0, 0).expect("a sequence");
    context.load_from(0, &saved).expect("loaded");
    assert_eq!(context.memory().kv_reserved, reserved);
}

#[test]
fn a_full_disk_leaves_the_former_file() {
    isolated("saving::a_full_disk_leaves_the_former_file", || {
        let directory = SHAPE.write();
        let files = tempfile::tempdir().expect("a directory");
        let path = files.path().join("sequence");
        let model = open_with(directory.path(), CpuOps::Kernels);
        let mut context = of(&model, KvType::Computed, 300);
        eval(&mut context, &tokens(1, 20));
        context.save(0, &path).expect("saved");
        let former = fs::read(&path).expect("a file");
        eval(&mut context, &tokens(2, 200));
        let limit = libc::rlimit {
            rlim_cur: former.len() as u64 * 2,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the system reads the structure; exceeding the limit is then an
        // error and no signal.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
        assert_fails(context.save(0, &path), Status::Io, &["sequence"]);
        assert!(fs::read(&path).expect("a file") == former);
        let names = fs::read_dir(files.path()).expect("a directory").count();
        assert_eq!(names, 1, "what was begun is removed");
        of(&model, KvType::Computed, 300)
            .load(0, &path)
            .expect("loaded");
    });
}

const KILLED_IN: &str = "UMRT_TEST_KILLED_IN";
const KILLED: &str = "saving::a_process_that_is_killed_leaves_the_old_file_or_the_new_one";

/// Saves sequences of two lengths in turns, for as long as it lives.
fn save_forever(directory: &Path) {
    let model = open_with(&directory.join("model"), CpuOps::Kernels);
    let mut context = of(&model, KvType::Computed, 1200);
    eval(&mut context, &tokens(1, 1000));
    context.fork(0, 1).expect("a fork");
    context.trim(1, 700).expect("a sequence");
    loop {
        for sequence in [0, 1] {
            context
                .save(sequence, &directory.join("sequence"))
                .expect("saved");
        }
    }
}

fn saver(directory: &Path) -> Child {
    Command::new(std::env::current_exe().expect("the test binary"))
        .args(["--exact", KILLED, "--nocapture"])
        .env(KILLED_IN, directory)
        .spawn()
        .expect("a process")
}

#[test]
fn a_process_that_is_killed_leaves_the_old_file_or_the_new_one() {
    if let Some(directory) = std::env::var_os(KILLED_IN) {
        return save_forever(Path::new(&directory));
    }
    let files = tempfile::tempdir().expect("a directory");
    let written = SHAPE.write();
    fs::create_dir(files.path().join("model")).expect("a directory");
    for entry in fs::read_dir(written.path()).expect("a model") {
        let entry = entry.expect("a file");
        let copy = files.path().join("model").join(entry.file_name());
        fs::copy(entry.path(), copy).expect("a copy");
    }
    let path = files.path().join("sequence");
    let model = open_with(&files.path().join("model"), CpuOps::Kernels);
    let mut random = Random(7);
    for _ in 0..12 {
        let mut child = saver(files.path());
        while !path.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_micros(random.next() % 80_000));
        child.kill().expect("killed");
        child.wait().expect("ended");
        let mut context = of(&model, KvType::Computed, 1200);
        context.load(0, &path).expect("a whole file");
        let n_tokens = context.sequence_length(0).expect("a sequence");
        assert!([700, 1000].contains(&n_tokens), "{n_tokens}");
        assert_eq!(
            context.sequence_tokens(0).expect("tokens"),
            &tokens(1, 1000)[..n_tokens]
        );
    }
}
