//! Safetensors files, of models and of adapters.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{assert_refused, logits_of, logits_with, shuffle};
use crate::common::random::Random;
use crate::common::{assert_identical, fixture, open_fixture};

const MODELS: [&str; 3] = ["llama3-f32", "llama3-q4-g64-f16", "qwen2-window-f32"];
const BASE: &str = "llama3-f32";

#[derive(Clone)]
struct Piece {
    name: String,
    dtype: Value,
    shape: Value,
    bytes: Vec<u8>,
}

fn take_apart(file: &Path) -> Vec<Piece> {
    let content = fs::read(file).expect("weights");
    let length = u64::from_le_bytes(*content.first_chunk().expect("a length")) as usize;
    let (header, data) = content[8..].split_at(length);
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).expect("a header");
    let pieces = header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__");
    let piece = |(name, entry): (String, Value)| {
        let [begin, end] =
            [0, 1].map(|at| entry["data_offsets"][at].as_u64().expect("an offset") as usize);
        Piece {
            name,
            dtype: entry["dtype"].clone(),
            shape: entry["shape"].clone(),
            bytes: data[begin..end].to_vec(),
        }
    };
    pieces.map(piece).collect()
}

/// What a file is put together from: an entry may say anything about the data.
struct Parts {
    entries: Vec<(String, Value)>,
    data: Vec<u8>,
}

impl Parts {
    /// In this order, with gaps in front of some.
    fn of(pieces: &[Piece], random: &mut Random) -> Parts {
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for piece in pieces {
            data.resize(data.len() + gap(random), 0xff);
            let begin = data.len();
            data.extend(&piece.bytes);
            let entry = json!({
                "dtype": piece.dtype,
                "shape": piece.shape,
                "data_offsets": [begin, data.len()],
            });
            entries.push((piece.name.clone(), entry));
        }
        data.resize(data.len() + gap(random), 0xff);
        Parts { entries, data }
    }

    fn write(&self, file: &Path) {
        let entries = self.entries.iter();
        let entries: Vec<_> = entries
            .map(|(name, entry)| format!("{}:{entry}", json!(name)))
            .collect();
        let header = format!("{{{}}}", entries.join(","));
        let length = (header.len() as u64).to_le_bytes();
        fs::write(file, [&length[..], header.as_bytes(), &self.data].concat()).expect("weights");
    }

    /// The begin and the end of an entry's data.
    fn offsets(&self, index: usize) -> [u64; 2] {
        [0, 1].map(|at| {
            self.entries[index].1["data_offsets"][at]
                .as_u64()
                .expect("an offset")
        })
    }
}

/// Multiples of a type's size and others.
fn gap(random: &mut Random) -> usize {
    let gaps = [0, 0, 0, 1, 4, 8, 61, 4096];
    gaps[(random.next() % gaps.len() as u64) as usize]
}

/// Another order in the file, and another one in the header.
fn rearranged(mut pieces: Vec<Piece>, random: &mut Random) -> Parts {
    shuffle(&mut pieces, random);
    let mut parts = Parts::of(&pieces, random);
    shuffle(&mut parts.entries, random);
    parts
}

fn model_of(name: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(
        fixture(name).join("config.json"),
        folder.path().join("config.json"),
    )
    .expect("a copy");
    folder
}

fn model_with(name: &str, parts: &Parts) -> TempDir {
    let folder = model_of(name);
    parts.write(&folder.path().join("model.safetensors"));
    folder
}

fn pieces_of(name: &str) -> Vec<Piece> {
    take_apart(&fixture(name).join("model.safetensors"))
}

/// In several files, with or without an index.
fn scattered(name: &str, n_files: usize, with_index: bool, random: &mut Random) -> TempDir {
    let folder = model_of(name);
    let mut pieces = pieces_of(name);
    shuffle(&mut pieces, random);
    let mut index = BTreeMap::new();
    for (number, pieces) in pieces.chunks(pieces.len().div_ceil(n_files)).enumerate() {
        let file = format!("part-{number}.safetensors");
        rearranged(pieces.to_vec(), random).write(&folder.path().join(&file));
        index.extend(
            pieces
                .iter()
                .map(|piece| (piece.name.clone(), file.clone())),
        );
    }
    if with_index {
        let index = json!({"weight_map": index}).to_string();
        fs::write(folder.path().join("model.safetensors.index.json"), index).expect("an index");
    }
    folder
}

fn adapter_fixture(name: &str) -> std::path::PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fixtures.join("adapters").join(name)
}

fn adapter_with(parts: &Parts) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let config = adapter_fixture("mlx-float").join("adapter_config.json");
    fs::copy(config, folder.path().join("adapter_config.json")).expect("a copy");
    parts.write(&folder.path().join("adapters.safetensors"));
    folder
}

fn adapter_pieces() -> Vec<Piece> {
    take_apart(&adapter_fixture("mlx-float").join("adapters.safetensors"))
}

/// What makes a file invalid, whichever pieces it has.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Truncated,
    Overlapping,
    NamedTwice,
    Removed,
    Resized,
    Reversed,
}

impl Damage {
    fn apply(self, parts: &mut Parts, random: &mut Random) {
        let n = parts.entries.len() as u64;
        let index = (random.next() % n) as usize;
        let other = (index + 1 + (random.next() % (n - 1)) as usize) % n as usize;
        let [begin, end] = parts.offsets(index);
        match self {
            Damage::Truncated => {
                let ends = (0..n as usize).map(|index| parts.offsets(index)[1]);
                let kept = random.next() % ends.max().expect("entries");
                parts.data.truncate(kept as usize);
            }
            Damage::Overlapping => {
                let [other_begin, _] = parts.offsets(other);
                let moved = [other_begin, other_begin + (end - begin)];
                parts.entries[index].1["data_offsets"] = json!(moved);
            }
            Damage::NamedTwice => {
                let name = parts.entries[other].0.clone();
                parts.entries[index].0 = name;
            }
            Damage::Removed => drop(parts.entries.remove(index)),
            Damage::Resized => {
                let longer = [begin, end + 1 + random.next() % 64];
                parts.entries[index].1["data_offsets"] = json!(longer);
            }
            Damage::Reversed => parts.entries[index].1["data_offsets"] = json!([end, begin]),
        }
    }
}

fn damages() -> impl Strategy<Value = Damage> {
    prop::sample::select(vec![
        Damage::Truncated,
        Damage::Overlapping,
        Damage::NamedTwice,
        Damage::Removed,
        Damage::Resized,
        Damage::Reversed,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn weights_in_any_order_and_with_gaps_are_the_same_model(
        name in prop::sample::select(MODELS.to_vec()), seed: u64,
    ) {
        let parts = rearranged(pieces_of(name), &mut Random(seed));
        let folder = model_with(name, &parts);
        let expected = logits_of(&fixture(name)).expect("logits");
        assert_identical(&logits_of(folder.path()).expect("logits"), &expected);
    }

    #[test]
    fn weights_in_any_number_of_files_are_the_same_model(
        name in prop::sample::select(MODELS.to_vec()),
        n_files in 2_usize..9,
        with_index: bool,
        seed: u64,
    ) {
        let folder = scattered(name, n_files, with_index, &mut Random(seed));
        let expected = logits_of(&fixture(name)).expect("logits");
        assert_identical(&logits_of(folder.path()).expect("logits"), &expected);
    }

    #[test]
    fn pieces_that_nobody_asks_for_change_nothing(
        name in prop::sample::select(MODELS.to_vec()), seed: u64,
    ) {
        let mut random = Random(seed);
        let mut pieces = pieces_of(name);
        let copy = pieces[(random.next() % pieces.len() as u64) as usize].clone();
        pieces.push(Piece { name: "model.copy.weight".to_owned(), ..copy });
        let folder = model_with(name, &rearranged(pieces, &mut random));
        let expected = logits_of(&fixture(name)).expect("logits");
        assert_identical(&logits_of(folder.path()).expect("logits"), &expected);
    }

    #[test]
    fn weights_that_do_not_lie_in_a_file_as_it_says_are_refused(
        name in prop::sample::select(MODELS.to_vec()), damage in damages(), seed: u64,
    ) {
        let mut random = Random(seed);
        let mut parts = rearranged(pieces_of(name), &mut random);
        damage.apply(&mut parts, &mut random);
        assert_refused(logits_of(model_with(name, &parts).path()));
    }

    #[test]
    fn matrices_of_another_shape_are_refused(
        name in prop::sample::select(MODELS.to_vec()), seed: u64,
    ) {
        let mut random = Random(seed);
        let mut pieces = pieces_of(name);
        let is_oblong = |piece: &&mut Piece| piece.shape[0] != piece.shape[1] && piece.shape[1] != json!(null);
        let oblong: Vec<_> = pieces.iter_mut().filter(is_oblong).collect();
        let at = (random.next() % oblong.len() as u64) as usize;
        let turned = json!([oblong[at].shape[1], oblong[at].shape[0]]);
        oblong.into_iter().nth(at).expect("a matrix").shape = turned;
        let parts = rearranged(pieces, &mut random);
        assert_refused(logits_of(model_with(name, &parts).path()));
    }

    #[test]
    fn adapters_in_any_order_and_with_gaps_are_the_same(seed: u64) {
        let model = open_fixture(BASE);
        let folder = adapter_with(&rearranged(adapter_pieces(), &mut Random(seed)));
        let expected = logits_with(&model, &adapter_fixture("mlx-float")).expect("logits");
        let found = logits_with(&model, folder.path()).expect("logits");
        assert_identical(&found, &expected);
    }

    #[test]
    fn adapters_that_do_not_lie_in_a_file_as_it_says_are_refused(damage in damages(), seed: u64) {
        let mut random = Random(seed);
        let mut parts = rearranged(adapter_pieces(), &mut random);
        damage.apply(&mut parts, &mut random);
        let model = open_fixture(BASE);
        assert_refused(logits_with(&model, adapter_with(&parts).path()));
    }
}
