//! Mapped, warm, locked, released; read and direct.

use umrt::checkpoint::{LoadMode, MappedFile};
use umrt::error::Status;
use umrt::runtime::{Cancel, Model, ModelOptions, Residency, ResidencyOptions};

use super::common::process::{anonymous_bytes, isolated};
use super::common::{
    assert_fails, assert_identical, context, eval, is_so_at_last, open, token_ids,
};
use super::{MIB, assert_within, file_bytes, large, mapped_by_process, open_as, set, stats};

const PROMPT: usize = 20;

fn logits(model: &std::sync::Arc<Model>) -> Vec<f32> {
    eval(
        &mut context(model),
        &token_ids(1, PROMPT, large().vocab_size),
    )
}

#[test]
fn a_warm_model_is_in_memory_once() {
    isolated("loading::a_warm_model_is_in_memory_once", || {
        let directory = large().write();
        let bytes = file_bytes(directory.path());
        let model = open(directory.path());
        let dropped = ResidencyOptions {
            drop_cache: true,
            ..ResidencyOptions::default()
        };
        model
            .residence()
            .set(Residency::Released, dropped)
            .expect("a release");
        assert_eq!(model.memory().expect("figures").weights_resident, 0);

        let (anonymous, mapped) = (anonymous_bytes(), mapped_by_process());
        let mut reported = Vec::new();
        let options = ResidencyOptions {
            progress: Some(&mut |done, total| reported.push((done, total))),
            ..ResidencyOptions::default()
        };
        model
            .residence()
            .set(Residency::Warm, options)
            .expect("weights");
        assert!(reported.len() > 3 && reported.is_sorted());
        assert_eq!(reported.last(), Some(&(bytes, bytes)));
        assert_eq!(model.memory().expect("figures").weights_resident, bytes);
        assert_within(mapped_by_process() - mapped, bytes, 2);
        let grown = anonymous_bytes().saturating_sub(anonymous);
        assert!(grown < MIB, "private memory grew by {grown}");
    });
}

#[test]
fn a_released_model_comes_back_by_itself() {
    isolated("loading::a_released_model_comes_back_by_itself", || {
        let directory = large().write();
        let bytes = file_bytes(directory.path());
        let model = open(directory.path());
        let expected = logits(&model);
        set(&model, Residency::Warm).expect("weights");
        let warm = mapped_by_process();
        set(&model, Residency::Released).expect("a release");
        assert_within(warm - mapped_by_process(), bytes, 2);
        assert_identical(&logits(&model), &expected);
        assert!(mapped_by_process() > warm - bytes / 2);
    });
}

#[test]
fn warming_stops_when_it_is_cancelled() {
    isolated("loading::warming_stops_when_it_is_cancelled", || {
        let directory = large().write();
        let model = open(directory.path());
        let cancel = Cancel::new();
        let mut done_last = 0;
        let options = ResidencyOptions {
            progress: Some(&mut |done, _| {
                done_last = done;
                cancel.trigger();
            }),
            cancel: Some(&cancel),
            ..ResidencyOptions::default()
        };
        let result = model.residence().set(Residency::Warm, options);
        assert_fails(result, Status::Cancelled, &[]);
        assert!(done_last > 0 && done_last < file_bytes(directory.path()) / 2);
        logits(&model);
    });
}

fn locked_by_process() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.expect("VmLck in kB") * 1024
}

#[test]
fn a_locked_model_stays_until_it_is_unlocked_or_freed() {
    isolated(
        "loading::a_locked_model_stays_until_it_is_unlocked_or_freed",
        || {
            let directory = large().write();
            let bytes = file_bytes(directory.path()).next_multiple_of(4096);
            let model = open(directory.path());
            if let Err(error) = set(&model, Residency::Locked) {
                assert_eq!(error.status(), Status::OverBudget, "{error}");
                return;
            }
            for unlocked in [Residency::Mapped, Residency::Warm, Residency::Released] {
                set(&model, Residency::Locked).expect("locked");
                assert_eq!(locked_by_process(), bytes);
                assert_eq!(model.memory().expect("figures").weights_locked, bytes);
                assert_eq!(stats().weights.weights_locked, bytes);
                set(&model, unlocked).expect("unlocked");
                assert_eq!(locked_by_process(), 0);
                assert_eq!(stats().weights.weights_locked, 0);
            }
            set(&model, Residency::Locked).expect("locked");
            drop(model);
            assert_eq!(
                (locked_by_process(), stats().weights.weights_locked),
                (0, 0)
            );
        },
    );
}

/// As for a user without privileges.
fn limit_locking(bytes: u64) {
    const CAP_IPC_LOCK: u32 = 14;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    // Effective, permitted, inheritable; twice 32 bits of them.
    let mut sets = [[0_u32; 3]; 2];
    let mut header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: structures of the kernel's, alive through the calls.
    unsafe {
        libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr());
        for set in &mut sets[0] {
            *set &= !(1 << CAP_IPC_LOCK);
        }
        assert_eq!(
            libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()),
            0
        );
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit), 0);
    }
}

#[test]
fn a_limit_of_locked_memory_is_a_status_that_says_so() {
    isolated(
        "loading::a_limit_of_locked_memory_is_a_status_that_says_so",
        || {
            limit_locking(64 << 10);
            let directory = large().write();
            let model = open(directory.path());
            let result = set(&model, Residency::Locked);
            let parts = ["64 KiB", "RLIMIT_MEMLOCK", "ulimit -l"];
            assert_fails(result, Status::OverBudget, &parts);
            assert_eq!(
                (locked_by_process(), stats().weights.weights_locked),
                (0, 0)
            );
            logits(&model);
        },
    );
}

#[test]
fn all_load_modes_give_the_same_logits() {
    isolated("loading::all_load_modes_give_the_same_logits", || {
        let directory = large().write();
        let expected = logits(&open(directory.path()));
        for load in [LoadMode::Read, LoadMode::Direct] {
            let options = ModelOptions {
                load,
                ..ModelOptions::default()
            };
            match Model::open(directory.path(), options) {
                Err(error) if load == LoadMode::Direct => {
                    assert_eq!(error.status(), Status::Unsupported, "{error}");
                }
                model => {
                    let model = model.expect("a model");
                    assert_identical(&logits(&model), &expected);
                    // What is private has nowhere else to go, and stays intact.
                    set(&model, Residency::Released).expect("a hint");
                    assert_identical(&logits(&model), &expected);
                    set(&model, Residency::Warm).expect("weights");
                }
            }
        }
    });
}

#[test]
fn direct_reads_leave_the_page_cache_alone() {
    isolated("loading::direct_reads_leave_the_page_cache_alone", || {
        let directory = large().write();
        let map = MappedFile::open(&directory.path().join("model.safetensors")).expect("weights");
        // What was just written has to reach the disk before it can be dropped.
        let file = std::fs::File::open(map.path()).expect("weights");
        file.sync_all().expect("on disk");
        map.release(true).expect("dropped");
        let before = map.residency().expect("figures");
        let options = ModelOptions {
            load: LoadMode::Direct,
            ..ModelOptions::default()
        };
        let model = match Model::open(directory.path(), options) {
            Err(error) if error.status() == Status::Unsupported => return,
            model => model.expect("a model"),
        };
        logits(&model);
        // The header is read through the cache, ahead.
        let cached = map.residency().expect("figures").saturating_sub(before);
        assert!(cached < 2 * MIB, "{cached} bytes are in the page cache");
        drop(model);

        // The system may drop the pages again at any time.
        let are_cached = is_so_at_last(|| {
            let model = open_as(directory.path(), LoadMode::Read);
            assert_eq!(model.memory().expect("figures").weights_resident, 0);
            map.residency().expect("figures") > map.len() / 10 * 9
        });
        assert!(are_cached);
    });
}

#[test]
fn reading_reports_bytes_and_stops_when_it_is_cancelled() {
    let directory = large().write();
    let cancel = Cancel::new();
    let mut reported = Vec::new();
    let options = ModelOptions {
        load: LoadMode::Read,
        progress: Some(&mut |done, total| {
            reported.push((done, total));
            cancel.trigger();
        }),
        cancel: Some(&cancel),
        ..ModelOptions::default()
    };
    let result = Model::open(directory.path(), options);
    assert_fails(result, Status::Cancelled, &[]);
    assert_eq!(reported, [(0, file_bytes(directory.path()))]);
}
