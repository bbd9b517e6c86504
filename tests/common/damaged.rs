//! Copies of fixtures with something wrong in them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::fixture;

/// A copy of a single-file checkpoint, to be changed.
pub struct Damaged {
    directory: TempDir,
}

impl Damaged {
    pub fn copy_of(name: &str) -> Damaged {
        let directory = tempfile::tempdir().expect("a directory");
        for file in ["config.json", "model.safetensors"] {
            fs::copy(fixture(name).join(file), directory.path().join(file)).expect("a copy");
        }
        Damaged { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn config_path(&self) -> PathBuf {
        self.path().join("config.json")
    }

    pub fn weights_path(&self) -> PathBuf {
        self.path().join("model.safetensors")
    }

    /// Sets a key of config.json.
    pub fn with_config(self, key: &str, value: Value) -> Damaged {
        let text = fs::read(self.config_path()).expect("config.json");
        let mut config: Value = serde_json::from_slice(&text).expect("JSON");
        config[key] = value;
        self.with_config_text(config.to_string())
    }

    pub fn with_config_text(self, text: impl AsRef<[u8]>) -> Damaged {
        fs::write(self.config_path(), text).expect("config.json");
        self
    }

    /// Changes the weight file.
    pub fn with_weights(self, change: impl FnOnce(&mut Weights)) -> Damaged {
        let mut weights = Weights::read(&self.weights_path());
        change(&mut weights);
        fs::write(self.weights_path(), weights.bytes()).expect("weights");
        self
    }

    /// Changes the bytes of the weight file.
    pub fn with_weight_bytes(self, change: impl FnOnce(&mut Vec<u8>)) -> Damaged {
        let mut bytes = fs::read(self.weights_path()).expect("weights");
        change(&mut bytes);
        fs::write(self.weights_path(), bytes).expect("weights");
        self
    }
}

/// A safetensors file, taken apart.
pub struct Weights {
    pub header: Map<String, Value>,
    /// Spaces behind the header.
    pub n_spaces: usize,
    pub data: Vec<u8>,
}

impl Weights {
    fn read(path: &Path) -> Weights {
        let bytes = fs::read(path).expect("weights");
        let end = 8 + header_bytes(&bytes);
        Weights {
            header: serde_json::from_slice(&bytes[8..end]).expect("a header"),
            n_spaces: 0,
            data: bytes[end..].to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut header = serde_json::to_vec(&self.header).expect("a header");
        header.resize(header.len() + self.n_spaces, b' ');
        let length = header.len() as u64;
        [&length.to_le_bytes()[..], &header, &self.data].concat()
    }

    /// Puts the data at an address that is `remainder` modulo 8.
    pub fn misalign(&mut self, remainder: usize) {
        let length = serde_json::to_vec(&self.header).expect("a header").len();
        self.n_spaces = length.next_multiple_of(8) - length + remainder;
    }

    pub fn remove(&mut self, name: &str) {
        self.header.remove(name).expect(name);
    }

    pub fn entry(&mut self, name: &str) -> &mut Value {
        self.header.get_mut(name).expect(name)
    }

    pub fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let begin = self.data.len();
        self.data.extend(bytes);
        let offsets = [begin, self.data.len()];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        self.header.insert(name.to_owned(), entry);
    }
}

/// How long a safetensors file says that its header is.
pub fn header_bytes(file: &[u8]) -> usize {
    let length = file.first_chunk().expect("at least eight bytes");
    u64::from_le_bytes(*length) as usize
}
