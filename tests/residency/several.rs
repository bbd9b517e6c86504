//! Several models in one process: who gives way, and switching between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use umrt::runtime::{Context, Model, Policy, Residency, TrimSteps, make_room, trim};

use super::common::process::isolated;
use super::common::{context, eval, is_so_at_last, open};
use super::{MIB, assert_within, file_bytes, large, mapped_by_process, set};

struct Open {
    _directory: tempfile::TempDir,
    model: Arc<Model>,
    context: Context,
}

impl Open {
    fn new() -> Open {
        let directory = large().write();
        let model = open(directory.path());
        Open {
            context: context(&model),
            model,
            _directory: directory,
        }
    }

    fn use_now(&mut self) {
        eval(&mut self.context, &[1]);
        std::thread::sleep(Duration::from_millis(5));
    }

    fn set_policy(&self, policy: Policy) {
        self.model.residence().set_policy(policy).expect("room");
    }
}

/// Makes room for so many models of three that are present, and tells which left.
fn who_leaves(models: &mut [Open; 3], n_needed: usize) -> [bool; 3] {
    let bytes = models[0].model.info().weight_bytes;
    for open in models.iter_mut() {
        set(&open.model, Residency::Warm).expect("weights");
    }
    models.iter_mut().for_each(Open::use_now);
    // For three models and their contexts, with a bit to spare.
    let budget = 3 * bytes + bytes / 2;
    let before = mapped_by_process();
    let released = make_room(n_needed * bytes, budget, None).expect("a release");
    // Pages of programs come and go, and the system's counters lag behind a little.
    let n_bytes = before.abs_diff(mapped_by_process());
    assert!(n_bytes.abs_diff(released.bytes) < MIB, "{n_bytes}");
    let mut left = [false; 3];
    for (open, left) in models.iter().zip(&mut left) {
        let before = mapped_by_process();
        set(&open.model, Residency::Released).expect("a release");
        *left = before - mapped_by_process() < bytes / 2;
    }
    assert_eq!(left.iter().filter(|left| **left).count(), released.n_models);
    left
}

#[test]
fn who_was_not_used_for_longest_gives_way() {
    isolated("several::who_was_not_used_for_longest_gives_way", || {
        let mut models = [Open::new(), Open::new(), Open::new()];
        assert_eq!(who_leaves(&mut models, 0), [false; 3]);
        assert_eq!(who_leaves(&mut models, 1), [true, false, false]);
        assert_eq!(who_leaves(&mut models, 2), [true, true, false]);
        assert_eq!(who_leaves(&mut models, 9), [true; 3]);

        models[0].set_policy(Policy {
            pinned: true,
            ..Policy::default()
        });
        assert_eq!(who_leaves(&mut models, 1), [false, true, false]);
        assert_eq!(who_leaves(&mut models, 9), [false, true, true]);

        models[1].set_policy(Policy {
            priority: 1,
            ..Policy::default()
        });
        assert_eq!(who_leaves(&mut models, 1), [false, false, true]);
        models[0].set_policy(Policy {
            priority: -1,
            ..Policy::default()
        });
        assert_eq!(who_leaves(&mut models, 2), [true, false, true]);
    });
}

#[test]
fn a_model_leaves_when_its_idle_time_is_over() {
    isolated("several::a_model_leaves_when_its_idle_time_is_over", || {
        let mut models = [Open::new(), Open::new()];
        for open in &mut models {
            set(&open.model, Residency::Warm).expect("weights");
        }
        models[0].set_policy(Policy {
            idle_timeout: Some(Duration::from_secs(3600)),
            ..Policy::default()
        });
        let steps = TrimSteps {
            timed_out_models: true,
            ..TrimSteps::default()
        };
        models[0].use_now();
        assert_eq!(trim(steps).expect("a trim").models.n_models, 0);
        models[0].set_policy(Policy {
            idle_timeout: Some(Duration::from_millis(100)),
            ..Policy::default()
        });
        std::thread::sleep(Duration::from_millis(110));
        let released = trim(steps).expect("a trim").models;
        assert_eq!(released.n_models, 1);
        assert_within(released.bytes, models[0].model.info().weight_bytes, 2);

        // Without a trim the other one notices while it computes.
        models[0].use_now();
        set(&models[0].model, Residency::Warm).expect("weights");
        let warm = mapped_by_process();
        std::thread::sleep(Duration::from_millis(300));
        models[1].use_now();
        assert!(mapped_by_process() < warm - models[0].model.info().weight_bytes / 2);
        models[0].use_now();
    });
}

#[test]
fn the_first_token_of_the_other_warm_model_takes_one_forward_pass() {
    let test = "several::the_first_token_of_the_other_warm_model_takes_one_forward_pass";
    isolated(test, || {
        let mut models = [Open::new(), Open::new()];
        for open in &mut models {
            set(&open.model, Residency::Warm).expect("weights");
            open.use_now();
        }
        let time = |open: &mut Open| {
            let began = Instant::now();
            eval(&mut open.context, &[1]);
            began.elapsed()
        };
        let is_one_pass = is_so_at_last(|| {
            let (mut stayed, mut switched) = (Duration::MAX, Duration::MAX);
            for _ in 0..8 {
                for open in &mut models {
                    switched = switched.min(time(open));
                    stayed = stayed.min(time(open));
                }
            }
            let ratio = switched.as_secs_f64() / stayed.as_secs_f64();
            println!("{stayed:?} in one model, {switched:?} after switching: {ratio:.2}");
            ratio < 2.0
        });
        assert!(is_one_pass);
    });
}

#[test]
fn a_model_that_is_freed_is_forgotten() {
    isolated("several::a_model_that_is_freed_is_forgotten", || {
        let directory = large().write();
        let bytes = file_bytes(directory.path());
        let model = open(directory.path());
        set(&model, Residency::Warm).expect("weights");
        drop(model);
        let released = make_room(bytes, bytes, None).expect("nothing to do");
        assert_eq!(released.n_models, 0);
    });
}
