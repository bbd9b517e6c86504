//! Inputs as files, and files as inputs.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What the weights consist of; an input says which.
#[derive(Clone, Copy)]
enum Fill {
    Zeros,
    /// NaN in every type of floats, and the largest codes.
    Ones,
    Noise,
}

impl Fill {
    fn of(input: &[u8]) -> Fill {
        match input.first() {
            Some(b'1') => Fill::Ones,
            Some(b'2') => Fill::Noise,
            _ => Fill::Zeros,
        }
    }

    fn bytes(self, n_bytes: usize) -> Vec<u8> {
        match self {
            Fill::Zeros => vec![0; n_bytes],
            Fill::Ones => vec![0xff; n_bytes],
            // Weyl's sequence, of which the middle byte looks random enough.
            Fill::Noise => (0..n_bytes as u32)
                .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8)
                .collect(),
        }
    }
}

/// A folder of files that an input consists of.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn with(self, name: &str, content: &[u8]) -> Folder {
        fs::write(self.path().join(name), content).expect("a file");
        self
    }

    /// Nothing where the input says nothing.
    pub fn with_some(self, name: &str, content: &[u8]) -> Folder {
        match content {
            [] => self,
            content => self.with(name, content),
        }
    }

    /// A safetensors file with this header and so much data.
    pub fn with_weights(self, name: &str, header: &[u8], fill: &[u8], n_bytes: usize) -> Folder {
        let length = (header.len() as u64).to_le_bytes();
        let data = Fill::of(fill).bytes(n_bytes);
        self.with(name, &[&length[..], header, &data].concat())
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

/// The header of a safetensors file without its length.
pub fn header_of(file: &Path) -> Vec<u8> {
    let bytes = super::read(file);
    let length = u64::from_le_bytes(*bytes.first_chunk().expect("a length"));
    bytes[8..8 + length as usize].to_vec()
}
