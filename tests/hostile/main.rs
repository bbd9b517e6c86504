//! Hostile input: whatever is read from a file or comes as JSON from a caller works, or
//! is refused with a status that says so. Nothing panics, and nothing else is read.
//!
//! - `targets`: what reads such input, and valid input for it
//! - `mutate`: damage
//! - `layouts`: the same checkpoint in other files, and others in similar ones
//! - `bounds`: what is larger than anything may be
//! - `growth`: templates and tokenizers that make much of little
//!
//! `UMRT_HOSTILE_SECONDS` says how long each target is tried instead of a few times.
//! `cargo xtask fuzz` does the same guided by coverage. Input that did harm goes to
//! `regressions/<target>`.

mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod growth;
mod layouts;
mod mutate;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::random;
use common::random::Random;
use mutate::mutate;
use targets::{TARGETS, Target};

/// That of the library for C, which holds templates to their bound.
#[cfg(not(feature = "capi"))]
#[global_allocator]
static ALLOCATOR: umrt::memory::EmergencyAllocator =
    umrt::memory::EmergencyAllocator(std::alloc::System);

const ROUNDS: usize = 150;
const LIMIT_INPUT_BYTES: usize = 64 << 10;

#[test]
fn seeds_are_accepted() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(seeds.len() >= 2, "{}", target.name);
        for (number, seed) in seeds.iter().enumerate() {
            assert!(seed.len() <= LIMIT_INPUT_BYTES, "{} {number}", target.name);
            let read = target.read(seed);
            read.unwrap_or_else(|error| panic!("{} {number}: {error}", target.name));
        }
    }
}

#[test]
fn what_once_did_harm_does_none() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/regressions");
    for folder in entries(&root) {
        let name = folder.file_name().expect("a name").to_string_lossy();
        let target = Target::named(&name).expect("a folder has the name of a target");
        for file in entries(&folder) {
            println!("{}", file.display());
            let _ = target.read(&fs::read(&file).expect("an input"));
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
}

/// Damages the seeds again and again. What was tried last is in a file, which stays if
/// the process ends.
fn damage(name: &str) {
    let target = Target::named(name).expect("a target");
    let seeds = (target.seeds)();
    let last = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{name}"));
    let mut random = Random(1);
    let (start, mut n_tried, mut n_accepted) = (Instant::now(), 0, 0);
    while !is_enough(n_tried, start.elapsed()) {
        let seed = &seeds[(random.next() % seeds.len() as u64) as usize];
        let input = mutate(seed, &mut random, LIMIT_INPUT_BYTES);
        fs::write(&last, &input).expect("a file");
        n_accepted += usize::from(target.read(&input).is_ok());
        n_tried += 1;
    }
    fs::remove_file(&last).expect("removed");
    println!("{name}: {n_tried} inputs tried, {n_accepted} accepted");
    assert!(n_accepted < n_tried, "nothing was damaged");
}

fn is_enough(n_tried: usize, elapsed: Duration) -> bool {
    let seconds = std::env::var("UMRT_HOSTILE_SECONDS").ok();
    match seconds.and_then(|seconds| seconds.parse().ok()) {
        Some(seconds) => elapsed >= Duration::from_secs(seconds),
        None => n_tried >= ROUNDS,
    }
}

macro_rules! damaged {
    ($($test:ident: $target:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            damage($target);
        })*

        #[test]
        fn every_target_is_damaged() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$($target),*]);
        }
    };
}

damaged! {
    damaged_safetensors_files_are_refused_or_work: "safetensors",
    damaged_indexes_are_refused_or_work: "index",
    damaged_settings_are_refused_or_work: "config",
    damaged_models_are_refused_or_work: "model",
    damaged_models_of_other_tools_are_refused_or_work: "foreign",
    damaged_gguf_files_are_refused_or_work: "gguf",
    damaged_tokenizers_are_refused_or_work: "tokenizer",
    damaged_vocabularies_are_refused_or_work: "vocabulary",
    damaged_templates_and_requests_are_refused_or_work: "chat",
    damaged_constraints_are_refused_or_work: "constraint",
    damaged_adapters_are_refused_or_work: "adapter",
    damaged_saved_sequences_are_refused_or_work: "saved",
    damaged_saved_states_are_refused_or_work: "states",
    damaged_prompt_caches_are_refused_or_work: "imported",
}
