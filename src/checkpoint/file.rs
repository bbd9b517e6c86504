//! Opening and reading files that may be anything.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};

/// Tells one state of a file on disk from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    /// The length of the file.
    pub bytes: u64,
    modified_s: i64,
    modified_ns: i64,
    device: u64,
    inode: u64,
}

impl FileStamp {
    pub(super) fn of(metadata: &Metadata) -> FileStamp {
        FileStamp {
            bytes: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Whether both are states of one file, and not of two under the same name.
    pub(super) fn is_same_file(&self, other: &FileStamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Opens a regular file; a directory or a pipe is a `Format` error.
pub(crate) fn open_regular(path: &Path) -> Result<(File, FileStamp)> {
    let failed = |error: std::io::Error| Error::io("open", path, &error);
    // Asked before opening, since opening a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        let path = path.display();
        return Err(Error::format(format!("{path} is not a regular file")));
    }
    let file = File::open(path).map_err(failed)?;
    let stamp = FileStamp::of(&file.metadata().map_err(failed)?);
    Ok((file, stamp))
}

/// Reads a whole regular file of at most `limit_bytes`.
pub(crate) fn read_bounded(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let (file, _) = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read", path, &error))?;
    if bytes.len() as u64 > limit_bytes {
        return Err(Error::format(format!(
            "{} is larger than the limit of {limit_bytes} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, "[1,2,3]").unwrap();
        assert_eq!(read_bounded(&path, 7).unwrap(), b"[1,2,3]");
        let error = read_bounded(&path, 6).unwrap_err();
        assert!(error.message().ends_with("limit of 6 bytes"), "{error}");
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_a_writer() {
        use std::os::unix::ffi::OsStrExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: `name` is a C string that outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let error = read_bounded(&path, 100).unwrap_err();
        assert_eq!(error.status(), Status::Format);
        assert!(
            error.message().ends_with("is not a regular file"),
            "{error}"
        );
    }
}
