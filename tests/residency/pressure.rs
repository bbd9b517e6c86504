//! The steps from too little memory to enough.

use std::sync::{Arc, Mutex};

use umrt::error::Status;
use umrt::memory::PressureLevel;
use umrt::mlx::memory_use;
use umrt::runtime::{
    Context, ContextOptions, Model, ModelOptions, Policy, Residency, TrimSteps, Trimmed, listen,
    notify, trim,
};

use super::common::process::{anonymous_bytes, isolated, n_threads};
use super::common::{assert_fails, context, eval, open, open_fixture, token_ids};
use super::{MIB, assert_within, large, mapped_by_process, set, stats};

fn best(logits: &[f32]) -> i32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(token, _)| token as i32)
}

/// Continues greedily; `between` is called before each step.
fn continue_with(context: &mut Context, mut between: impl FnMut(usize)) -> Vec<i32> {
    let mut token = 1;
    (0..12)
        .map(|step| {
            between(step);
            token = best(&eval(context, &[token]));
            token
        })
        .collect()
}

#[test]
fn sequences_go_on_with_the_same_tokens_after_every_step() {
    isolated(
        "pressure::sequences_go_on_with_the_same_tokens_after_every_step",
        || {
            let directory = large().write();
            let model = open(directory.path());
            let prompt = token_ids(1, 40, large().vocab_size);
            let fresh = || {
                let mut context = context(&model);
                eval(&mut context, &prompt);
                context
            };
            let expected = continue_with(&mut fresh(), |_| ());
            let mlx_cache = TrimSteps {
                mlx_cache: true,
                ..TrimSteps::default()
            };
            let idle_models = TrimSteps {
                idle_models: true,
                ..TrimSteps::default()
            };
            let found = continue_with(&mut fresh(), |step| match step % 4 {
                0 => drop(trim(mlx_cache).expect("a trim")),
                1 => drop(trim(idle_models).expect("a trim")),
                2 => drop(notify(PressureLevel::Warning).expect("a notice")),
                _ => drop(notify(PressureLevel::Critical).expect("a notice")),
            });
            assert_eq!(found, expected);
        },
    );
}

#[test]
fn what_a_step_says_it_gave_back_left_the_ledger_and_the_process() {
    let test = "pressure::what_a_step_says_it_gave_back_left_the_ledger_and_the_process";
    isolated(test, || {
        // So that freed buffers go back to the system one by one: by default the C
        // library keeps them at the ends of threads' heaps.
        // SAFETY: sets a parameter of the allocator.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10) };
        let directory = large().write();
        let model = open(directory.path());
        let mut context = context(&model);
        eval(&mut context, &token_ids(1, 600, large().vocab_size));
        set(&model, Residency::Warm).expect("weights");

        let before = (stats(), anonymous_bytes(), mapped_by_process());
        assert!(before.0.mlx.cache > 2 * MIB, "{}", before.0.mlx.cache);
        let trimmed = notify(PressureLevel::Warning).expect("a notice");
        let after = stats();
        println!("{trimmed:?}");
        assert_eq!(trimmed.mlx_cache, before.0.mlx.cache);
        assert_eq!(after.mlx.cache, 0);
        assert_eq!(after.total(), before.0.total() - trimmed.mlx_cache);
        assert!(trimmed.private >= trimmed.mlx_cache * 9 / 10);
        let left = before.1.saturating_sub(anonymous_bytes());
        assert!(left.abs_diff(trimmed.private) < MIB, "{left}");
        assert_eq!(trimmed.models.n_models, 1);
        assert_within(trimmed.models.bytes, model.info().weight_bytes, 2);
        assert_within(before.2 - mapped_by_process(), trimmed.models.bytes, 2);
    });
}

#[test]
fn pinned_and_locked_models_stay() {
    isolated("pressure::pinned_and_locked_models_stay", || {
        let directory = large().write();
        let model = open(directory.path());
        set(&model, Residency::Warm).expect("weights");
        let pinned = Policy {
            pinned: true,
            ..Policy::default()
        };
        model.residence().set_policy(pinned).expect("room");
        let n_released = || {
            notify(PressureLevel::Critical)
                .expect("a notice")
                .models
                .n_models
        };
        assert_eq!(n_released(), 0);
        model
            .residence()
            .set_policy(Policy::default())
            .expect("less");
        if set(&model, Residency::Locked).is_ok() {
            assert_eq!(n_released(), 0);
            set(&model, Residency::Warm).expect("unlocked");
        }
        assert_eq!(n_released(), 1);
        assert_eq!(n_released(), 0, "it was released already");
    });
}

#[test]
fn nothing_new_begins_while_it_is_critical() {
    isolated("pressure::nothing_new_begins_while_it_is_critical", || {
        let model = open_fixture("llama3-f32");
        let mut there = context(&model);
        notify(PressureLevel::Critical).expect("a notice");
        let another = || Context::new(&model, &ContextOptions::default());
        let path = super::common::fixture("llama3-f32");
        let parts = ["short of memory", "try again"];
        assert_fails(another(), Status::OverBudget, &parts);
        let opened = Model::open(&path, ModelOptions::default());
        assert_fails(opened, Status::OverBudget, &parts);
        eval(&mut there, &[1, 2]);
        notify(PressureLevel::Warning).expect("a notice");
        another().expect("a context");
        notify(PressureLevel::Critical).expect("a notice");
        notify(PressureLevel::Normal).expect("a notice");
        another().expect("a context");
    });
}

#[test]
fn the_receiver_hears_every_notice_until_there_is_none() {
    isolated(
        "pressure::the_receiver_hears_every_notice_until_there_is_none",
        || {
            let heard: Arc<Mutex<Vec<(PressureLevel, Trimmed)>>> = Arc::default();
            let list = heard.clone();
            let receiver = move |level: PressureLevel, trimmed: &Trimmed| {
                list.lock().expect("not poisoned").push((level, *trimmed));
                // It may call back.
                trim(TrimSteps::default()).expect("a trim");
            };
            listen(Some(Arc::new(receiver)), false).expect("a receiver");
            let trimmed = notify(PressureLevel::Warning).expect("a notice");
            notify(PressureLevel::Normal).expect("a notice");
            listen(None, false).expect("none");
            notify(PressureLevel::Critical).expect("a notice");
            let expected = [
                (PressureLevel::Warning, trimmed),
                (PressureLevel::Normal, Trimmed::default()),
            ];
            assert_eq!(*heard.lock().expect("not poisoned"), expected);
            assert_eq!(memory_use().expect("figures").cache, 0);
        },
    );
}

#[test]
fn the_system_is_watched_only_while_somebody_listens() {
    isolated(
        "pressure::the_system_is_watched_only_while_somebody_listens",
        || {
            drop(context(&open_fixture("llama3-f32")));
            let before = n_threads();
            let silent: umrt::runtime::PressureReceiver = Arc::new(|_, _| ());
            match listen(Some(silent.clone()), true) {
                Err(error) => assert_eq!(error.status(), Status::Unsupported, "{error}"),
                Ok(()) => {
                    assert_eq!(n_threads(), before + 1);
                    listen(Some(silent.clone()), true).expect("another");
                    assert_eq!(n_threads(), before + 1);
                }
            }
            listen(Some(silent), false).expect("only notices");
            assert_eq!(n_threads(), before);
            listen(None, false).expect("none");
        },
    );
}
