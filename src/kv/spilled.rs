//! [`Spilled`]: an idle sequence's keys and values on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::saved::{Origin, SavedSequence, saved_bytes, write_sequence};
use super::sequence::Sequence;
use crate::error::{Error, Result, ResultExt};
use crate::memory::{Category, Entry};
use crate::mlx::Ops;

/// Only this process reads it.
const ORIGIN: Origin = Origin {
    model: 0,
    rotation: 0,
};

/// As where files are replaced.
const BUFFER_BYTES: usize = 64 << 10;

/// A file without a name: however the process ends, the system removes it.
pub struct Spilled {
    file: File,
    on_disk: Entry,
}

/// Bytes of disk that spilling a sequence takes.
pub fn spilled_bytes(sequence: &Sequence) -> usize {
    saved_bytes(ORIGIN, sequence)
}

impl Spilled {
    pub(super) fn write(ops: &Ops, sequence: &Sequence, directory: &Path) -> Result<Spilled> {
        let file = nameless(directory)?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, &file);
        write_sequence(ops, ORIGIN, sequence, &mut out)
            .and_then(|()| out.flush())
            .map_err(|error| Error::io("spill a sequence to", directory, &error))?;
        drop(out);
        Ok(Spilled {
            file,
            on_disk: Entry::new(Category::KvSpilled, spilled_bytes(sequence)),
        })
    }

    /// Into the sequence that was written; if that fails, it is as before.
    pub(super) fn read_into(&self, sequence: &mut Sequence) -> Result<()> {
        const PLACE: &str = "a sequence that was spilled to disk";
        let mut input = BufReader::new(&self.file);
        input
            .seek(SeekFrom::Start(0))
            .map_err(|error| Error::io("read", Path::new(PLACE), &error))?;
        let bytes = self.on_disk.bytes() as u64;
        let shape = sequence.shape().clone();
        SavedSequence::open(&mut input, bytes, ORIGIN, &[&shape])
            .and_then(|saved| saved.load_into(sequence))
            .at(PLACE)
    }
}

fn nameless(directory: &Path) -> Result<File> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!(".umrt-{}-{count}.spilled", std::process::id()));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(&path);
    let file = file.map_err(|error| Error::io("create", &path, &error))?;
    fs::remove_file(&path).map_err(|error| Error::io("remove", &path, &error))?;
    Ok(file)
}
