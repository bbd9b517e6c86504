//! Model directories, good and bad, through the public interface.

mod damage;
mod directory;
mod mapping;
mod settings;
mod tensors;

use std::path::Path;

use tempfile::TempDir;
use umrt::checkpoint::{Checkpoint, Dtype, Manifest, NewTensor, write_safetensors};
use umrt::error::{Error, Result, Status};

const INDEX: &str = "model.safetensors.index.json";

struct Model {
    directory: TempDir,
}

impl Model {
    fn empty() -> Model {
        Model {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// With a `config.json` and nothing else.
    fn new() -> Model {
        Model::empty().with("config.json", "{}")
    }

    fn with(self, name: &str, content: impl AsRef<[u8]>) -> Model {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    fn with_tensors(self, file: &str, names: &[&str]) -> Model {
        let tensors: Vec<_> = names
            .iter()
            .map(|name| NewTensor {
                name,
                dtype: Dtype::U8,
                shape: &[3],
                bytes: &[1, 2, 3],
            })
            .collect();
        write_safetensors(&self.path().join(file), &tensors, &[]).unwrap();
        self
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn inspect(&self) -> Result<Manifest> {
        Checkpoint::inspect(self.path())
    }

    fn open(&self) -> Result<Checkpoint> {
        Checkpoint::open(self.path())
    }
}

/// A file with this header, padded or not as given, and so much data.
fn raw(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..data_bytes).map(|at| at as u8));
    file
}

fn raw_model(header: &str, data_bytes: usize) -> Model {
    Model::new().with("model.safetensors", raw(header, data_bytes))
}

#[track_caller]
fn assert_fails<T>(result: Result<T>, status: Status, part: &str) {
    let error: Error = result.err().expect("an error");
    assert_eq!(error.status(), status, "{error}");
    assert!(error.message().contains(part), "{error}");
}

fn entry(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}"#)
}
