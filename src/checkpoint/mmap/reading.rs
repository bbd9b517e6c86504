//! Files into private memory, through the page cache or past it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::MmapMut;

use crate::checkpoint::file::{FileStamp, open_regular};
use crate::error::{Error, Result};

/// Read at a time: large enough for the bandwidth of disks, small enough for
/// progress and for stopping soon.
const PIECE: usize = 8 << 20;
/// Offsets and lengths of direct reads are multiples of the disk's blocks.
const BLOCK: usize = 4096;

pub(super) fn open(path: &Path, direct: bool) -> Result<(File, FileStamp)> {
    let (file, stamp) = open_regular(path)?;
    if !direct {
        return Ok((file, stamp));
    }
    let direct = open_direct(path).map_err(|error| refused(path, error))?;
    let metadata = direct
        .metadata()
        .map_err(|error| Error::io("open", path, &error))?;
    Ok((direct, FileStamp::of(&metadata)))
}

/// The whole file, followed by zeros up to the end of a block.
pub(super) fn read_all(
    file: &File,
    path: &Path,
    bytes: usize,
    direct: bool,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<MmapMut> {
    let padded = bytes.next_multiple_of(BLOCK).max(BLOCK);
    let mut memory =
        MmapMut::map_anon(padded).map_err(|error| Error::io("make room for", path, &error))?;
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    let mut done = 0;
    while done < bytes {
        progress(done)?;
        let piece = &mut memory[done..padded.min(done + PIECE)];
        let read = match file.read_at(piece, done as u64) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if direct => return Err(refused(path, error)),
            Err(error) => return Err(Error::io("read", path, &error)),
            Ok(read) => read,
        };
        done = match done + read {
            end if end >= bytes => bytes,
            // A direct read starts at a block.
            end => end / BLOCK * BLOCK,
        };
        if read < BLOCK && done < bytes {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(Error::io("read all of", path, &error));
        }
    }
    progress(bytes)?;
    Ok(memory)
}

fn refused(path: &Path, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Error::unsupported(format!(
            "the file system of {} does not read past its cache; use the load mode \"read\"",
            path.display()
        )),
        _ => Error::io("read", path, &error),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

#[cfg(target_vendor = "apple")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    let file = File::open(path)?;
    // SAFETY: changes how this descriptor reads.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_NOCACHE, 1) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(file),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn open_direct(_: &Path) -> io::Result<File> {
    Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}
