//! Replaces a file so that there is always the old one or the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Small enough for the emergency store, since nobody probes for it; what is larger is
/// written as it is.
const BUFFER_BYTES: usize = 64 << 10;

/// `write` makes the content, in another file of the same directory, which is
/// synchronized and renamed. Whoever has the former file open or mapped keeps it.
pub fn replace_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let temporary = Temporary::create(path)?;
    let mut buffered = BufWriter::with_capacity(BUFFER_BYTES, &temporary.file);
    let written = write(&mut buffered).and_then(|()| buffered.flush());
    written
        .and_then(|()| temporary.file.sync_all())
        .map_err(|error| Error::io("write", &temporary.path, &error))?;
    drop(buffered);
    temporary.rename_to(path)
}

/// A file that is removed unless it is renamed.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn create(target: &Path) -> Result<Temporary> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let Some(name) = target.file_name() else {
            return Err(Error::invalid(format!(
                "{} is not the name of a file",
                target.display()
            )));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        hidden.push(format!(".{}-{count}.tmp", std::process::id()));
        let path = target.with_file_name(hidden);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| Error::io("create", &path, &error))?;
        Ok(Temporary { path, file })
    }

    fn rename_to(self, target: &Path) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("write", target, &error);
        std::fs::rename(&self.path, target).map_err(failed)?;
        let parent = target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(parent.unwrap_or(Path::new("."))).map_err(failed)?;
        directory.sync_all().map_err(failed)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename there is nothing under this name any more.
        let _ = std::fs::remove_file(&self.path);
    }
}
