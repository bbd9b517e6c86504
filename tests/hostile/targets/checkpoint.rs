//! Headers of safetensors files, and the index of several.

use umrt::checkpoint::Checkpoint;
use umrt::error::Result;

use super::files::Folder;
use super::{join, parts, read};

/// Enough for what the seeds say.
const DATA_BYTES: usize = 4096;

/// The whole file.
pub fn run_file(input: &[u8]) -> Result<()> {
    let folder = Folder::new().with("config.json", b"{}");
    check(&folder.with("model.safetensors", input))
}

pub fn file_seeds() -> Vec<Vec<u8>> {
    let mixed = br#"{"__metadata__": {"format": "mlx"}, "b.weight": {"dtype": "U32", "shape": [4, 3], "data_offsets": [0, 48]}, "b.scales": {"dtype": "BF16", "shape": [4, 2], "data_offsets": [48, 64]}, "scalar": {"dtype": "F32", "shape": [], "data_offsets": [64, 68]}, "empty": {"dtype": "U8", "shape": [0, 5], "data_offsets": [68, 68]}}"#;
    let spaced = br#"{"a": {"dtype": "F8_E4M3", "shape": [7], "data_offsets": [9, 16]}, "__padding__.0": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}          "#;
    let file = |header: &[u8], n_bytes: usize| {
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header, &vec![7; n_bytes]].concat()
    };
    vec![file(mixed, 68), file(spaced, 20), file(b"{}", 0)]
}

/// An index and the headers of two files.
pub fn run_index(input: &[u8]) -> Result<()> {
    let [index, first, second] = parts(input);
    let files = ["a.safetensors", "b.safetensors"];
    let folder = Folder::new()
        .with("config.json", b"{}")
        .with_some("model.safetensors.index.json", index)
        .with_weights(files[0], first, b"2", DATA_BYTES)
        .with_weights(files[1], second, b"2", DATA_BYTES);
    check(&folder)
}

pub fn index_seeds() -> Vec<Vec<u8>> {
    let first = br#"{"x.0": {"dtype": "F16", "shape": [2, 8], "data_offsets": [0, 32]}}"#;
    let second = br#"{"x.1": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}, "x.2": {"dtype": "I32", "shape": [1], "data_offsets": [40, 44]}}"#;
    let index = br#"{"metadata": {"total_size": 68}, "weight_map": {"x.0": "a.safetensors", "x.1": "b.safetensors", "x.2": "b.safetensors"}}"#;
    vec![join(&[index, first, second]), join(&[b"", first, second])]
}

/// Every tensor lies inside of its file, apart from the others, and reads as the bytes
/// that are there.
fn check(folder: &Folder) -> Result<()> {
    let checkpoint = Checkpoint::open(folder.path())?;
    let files = checkpoint.files().iter();
    let contents: Vec<_> = files.map(|file| read(&file.path)).collect();
    let mut end = (0, 0);
    for tensor in checkpoint.tensors() {
        let (range, content) = (tensor.range(), &contents[tensor.file]);
        assert!(range.start <= range.end && range.end <= content.len());
        assert!(tensor.bytes == 0 || (tensor.file, range.start) >= end);
        assert!(checkpoint.tensor_bytes(tensor) == &content[range.clone()]);
        end = end.max((tensor.file, range.end));
    }
    Ok(())
}
