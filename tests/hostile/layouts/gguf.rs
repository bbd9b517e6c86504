//! GGUF files.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{assert_refused, logits_of, shuffle};
use crate::common::assert_identical;
use crate::common::random::Random;

const FILES: [&str; 3] = ["llama-mixed", "qwen3-bf16", "gemma2"];
const ALIGNMENT: usize = 32;
/// Magic, version, number of tensors, number of entries.
const FIXED_BYTES: usize = 4 + 4 + 8 + 8;

fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    fixtures.join(name).with_extension("gguf")
}

/// A tensor as the table has it, and its data.
#[derive(Clone)]
struct Piece {
    /// Name, shape and type as they are stored.
    description: Vec<u8>,
    offset: u64,
    data: Vec<u8>,
}

impl Piece {
    /// Without the head the output would be that of the embedding, and without factors
    /// rotation would be the plain one.
    fn is_needed(&self) -> bool {
        let name = &self.description[8..];
        !name.starts_with(b"output.") && !name.starts_with(b"rope_freqs.")
    }
}

/// A file, taken apart.
#[derive(Clone)]
struct File {
    metadata: Vec<u8>,
    n_entries: u64,
    pieces: Vec<Piece>,
    /// Behind the table, from where offsets count.
    data: Vec<u8>,
}

/// Goes through a file's numbers and texts.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn u32(&mut self) -> u32 {
        self.at += 4;
        u32::from_le_bytes(
            self.bytes[self.at - 4..self.at]
                .try_into()
                .expect("four bytes"),
        )
    }

    fn u64(&mut self) -> u64 {
        self.at += 8;
        u64::from_le_bytes(
            self.bytes[self.at - 8..self.at]
                .try_into()
                .expect("eight bytes"),
        )
    }

    fn skip_text(&mut self) {
        let length = self.u64() as usize;
        self.at += length;
    }

    /// The numbers of types are those of ggml's `docs/gguf.md`.
    fn skip_value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            10..=12 => self.at += 8,
            8 => self.skip_text(),
            9 => {
                let kind = self.u32();
                for _ in 0..self.u64() {
                    self.skip_value(kind);
                }
            }
            other => panic!("no type {other}"),
        }
    }
}

impl File {
    fn read(name: &str) -> File {
        let bytes = fs::read(fixture(name)).expect("a fixture");
        let mut cursor = Cursor {
            bytes: &bytes,
            at: 8,
        };
        let (n_tensors, n_entries) = (cursor.u64(), cursor.u64());
        for _ in 0..n_entries {
            cursor.skip_text();
            let kind = cursor.u32();
            cursor.skip_value(kind);
        }
        let metadata = bytes[FIXED_BYTES..cursor.at].to_vec();
        let mut pieces: Vec<_> = (0..n_tensors)
            .map(|_| {
                let start = cursor.at;
                cursor.skip_text();
                let rank = cursor.u32() as usize;
                cursor.at += rank * 8 + 4;
                Piece {
                    description: bytes[start..cursor.at].to_vec(),
                    offset: cursor.u64(),
                    data: Vec::new(),
                }
            })
            .collect();
        let data = &bytes[cursor.at.next_multiple_of(ALIGNMENT)..];
        let mut ends: Vec<_> = pieces.iter().map(|piece| piece.offset as usize).collect();
        ends.push(data.len());
        for piece in &mut pieces {
            let begin = piece.offset as usize;
            let end = ends.iter().filter(|end| **end > begin).min();
            piece.data = data[begin..*end.expect("an end")].to_vec();
        }
        File {
            metadata,
            n_entries,
            pieces,
            data: Vec::new(),
        }
    }

    /// Lays the data out in the order of the pieces, with gaps.
    fn lay_out(&mut self, random: &mut Random) {
        self.data.clear();
        for piece in &mut self.pieces {
            let gap = ALIGNMENT * (random.next() % 3) as usize;
            self.data
                .resize(self.data.len().next_multiple_of(ALIGNMENT) + gap, 0xff);
            piece.offset = self.data.len() as u64;
            self.data.extend(&piece.data);
        }
    }

    /// Another order of the data, and another one of the table.
    fn rearranged(name: &str, random: &mut Random) -> File {
        let mut file = File::read(name);
        shuffle(&mut file.pieces, random);
        file.lay_out(random);
        shuffle(&mut file.pieces, random);
        file
    }

    fn write(&self) -> (TempDir, PathBuf) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.pieces.len() as u64).to_le_bytes());
        bytes.extend(self.n_entries.to_le_bytes());
        bytes.extend(&self.metadata);
        for piece in &self.pieces {
            bytes.extend(&piece.description);
            bytes.extend(piece.offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(&self.data);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.gguf");
        fs::write(&path, bytes).expect("a file");
        (folder, path)
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Truncated,
    Overlapping,
    NamedTwice,
    Removed,
    Beyond,
}

impl Damage {
    fn apply(self, file: &mut File, random: &mut Random) {
        let n = file.pieces.len();
        let index = (random.next() % n as u64) as usize;
        let other = (index + 1 + (random.next() % (n as u64 - 1)) as usize) % n;
        match self {
            Damage::Truncated => {
                let last = file.pieces.iter().map(|piece| piece.offset).max();
                let kept = random.next() % (last.expect("pieces") + 1);
                file.data.truncate(kept as usize);
            }
            Damage::Overlapping => file.pieces[index].offset = file.pieces[other].offset,
            Damage::NamedTwice => file.pieces[index] = file.pieces[other].clone(),
            Damage::Removed => {
                let needed: Vec<_> = (0..n)
                    .filter(|index| file.pieces[*index].is_needed())
                    .collect();
                let removed = needed[index % needed.len()];
                file.pieces.remove(removed);
            }
            Damage::Beyond => file.pieces[index].offset = 1 << (20 + random.next() % 43),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn weights_in_any_order_and_with_gaps_are_the_same_model(
        name in prop::sample::select(FILES.to_vec()), seed: u64,
    ) {
        let (_folder, path) = File::rearranged(name, &mut Random(seed)).write();
        let expected = logits_of(&fixture(name)).expect("logits");
        assert_identical(&logits_of(&path).expect("logits"), &expected);
    }

    #[test]
    fn weights_that_do_not_lie_in_the_file_as_it_says_are_refused(
        name in prop::sample::select(FILES.to_vec()),
        damage in prop::sample::select(vec![
            Damage::Truncated,
            Damage::Overlapping,
            Damage::NamedTwice,
            Damage::Removed,
            Damage::Beyond,
        ]),
        seed: u64,
    ) {
        let mut random = Random(seed);
        let mut file = File::rearranged(name, &mut random);
        damage.apply(&mut file, &mut random);
        let (_folder, path) = file.write();
        assert_refused(logits_of(&path));
    }
}
