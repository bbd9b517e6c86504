//! Whatever comes from a file or as JSON from a caller, each as a function of bytes:
//! it may succeed or be refused with a status, and nothing else.
//!
//! `tests/fuzz` feeds them what coverage suggests, the tests here what `mutate` makes
//! of the seeds, which are fixtures with everything large taken out.

mod adapter;
mod checkpoint;
mod constraint;
mod files;
mod model;
mod saved;
mod text;

use std::path::{Path, PathBuf};

use umrt::error::{Result, Status};

pub struct Target {
    pub name: &'static str,
    run: fn(&[u8]) -> Result<()>,
    /// Inputs that succeed.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "safetensors",
        run: checkpoint::run_file,
        seeds: checkpoint::file_seeds,
    },
    Target {
        name: "index",
        run: checkpoint::run_index,
        seeds: checkpoint::index_seeds,
    },
    Target {
        name: "config",
        run: model::run_config,
        seeds: model::config_seeds,
    },
    Target {
        name: "model",
        run: model::run,
        seeds: model::seeds,
    },
    Target {
        name: "foreign",
        run: model::run,
        seeds: model::foreign_seeds,
    },
    Target {
        name: "gguf",
        run: model::run_gguf,
        seeds: model::gguf_seeds,
    },
    Target {
        name: "tokenizer",
        run: text::run_tokenizer,
        seeds: text::tokenizer_seeds,
    },
    Target {
        name: "vocabulary",
        run: text::run_vocabulary,
        seeds: text::vocabulary_seeds,
    },
    Target {
        name: "chat",
        run: text::run_chat,
        seeds: text::chat_seeds,
    },
    Target {
        name: "constraint",
        run: constraint::run,
        seeds: constraint::seeds,
    },
    Target {
        name: "adapter",
        run: adapter::run,
        seeds: adapter::seeds,
    },
    Target {
        name: "saved",
        run: saved::run,
        seeds: saved::seeds,
    },
    Target {
        name: "states",
        run: saved::run_states,
        seeds: saved::states_seeds,
    },
    Target {
        name: "imported",
        run: saved::run_imported,
        seeds: saved::imported_seeds,
    },
];

/// A message may quote a name from a file, which has up to 4096 bytes, and escape it.
const LIMIT_MESSAGE_BYTES: usize = 64 << 10;

/// What damaged input may end with.
const REFUSALS: [Status; 6] = [
    Status::InvalidArgument,
    Status::NotFound,
    Status::Format,
    Status::Unsupported,
    Status::OverBudget,
    Status::NoSpace,
];

impl Target {
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// # Panics
    /// If the input was neither accepted nor refused as damaged input is.
    pub fn read(&self, input: &[u8]) -> Result<()> {
        let result = (self.run)(input);
        if let Err(error) = &result {
            let status = error.status();
            assert!(REFUSALS.contains(&status), "{status:?}: {error}");
            assert!(!error.message().is_empty());
            assert!(error.message().len() <= LIMIT_MESSAGE_BYTES, "{error}");
        }
        result
    }
}

/// Between the parts of an input that stands for several files. JSON has no such line.
pub const SEPARATOR: &[u8] = b"\n%%%%\n";

pub fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(SEPARATOR)
}

/// At least one part; those that are missing are empty in `N`.
pub fn split(input: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = input;
    while let Some(at) = find(rest, SEPARATOR) {
        parts.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    parts.push(rest);
    parts
}

fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let found = split(input);
    std::array::from_fn(|index| found.get(index).copied().unwrap_or_default())
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

/// A folder of tests/fixtures.
fn fixtures(folder: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let roots = package
        .ancestors()
        .map(|folder| folder.join("tests/fixtures"));
    let root = { roots }.find(|root| root.is_dir());
    root.expect("the repository's fixtures").join(folder)
}

fn fixture_folders(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures(folder)).expect("fixtures");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
