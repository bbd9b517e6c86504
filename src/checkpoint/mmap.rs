//! The bytes of weight files in memory: mapped and shared with the page cache, or
//! read into private pages.
//!
//! - here: [`MappedFile`], the bytes and which file they came from
//! - `pages`: which of them are in memory, and asking for more or fewer
//! - `reading`: files into private memory, through the page cache or past it

mod pages;
mod reading;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapMut, MmapOptions};

pub use pages::Advice;
pub(super) use pages::page_bytes;

use super::file::{FileStamp, open_regular};
use crate::error::{Error, Result, Status};

/// How the bytes of weight files come into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadMode {
    /// Mapped: each byte is in memory once, in the page cache, when it is first
    /// used. The file must not be changed meanwhile.
    #[default]
    Map,
    /// Read into private memory at once. What happens to the file afterwards
    /// does not matter; the page cache may hold a second copy for a while.
    Read,
    /// The same past the page cache (O_DIRECT): each byte is in memory once.
    Direct,
}

/// A regular file, mapped read-only and shared with the page cache, or read into
/// private memory. Clones share the memory, which lives until the last of them
/// is dropped. No file descriptor stays open.
///
/// The length was taken when the file was opened. If another process truncates a
/// mapped file afterwards, an access beyond its new end raises SIGBUS, and if one
/// writes to it, the bytes change under the reader: no file system offers a way
/// to prevent that, so whoever provides a model directory has to leave it alone
/// while it is in use. [`MappedFile::ensure_unaltered`] tells after the fact, and
/// [`MappedFile::populate`] fails where an access would raise SIGBUS.
#[derive(Clone, Debug)]
pub struct MappedFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    stamp: FileStamp,
    /// Of the file; private memory is longer, in whole pages.
    bytes: usize,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Mapped(Mmap),
    Private(MmapMut),
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<MappedFile> {
        let (file, stamp) = open_regular(path)?;
        let bytes = addressable(path, stamp)?;
        // SAFETY: the mapping belongs to this value, is read-only, and as long as
        // the file was when asked. That nobody changes the file is the documented
        // duty of whoever provides it; see the type's documentation.
        let map = unsafe { MmapOptions::new().len(bytes).map(&file) }
            .map_err(|error| Error::io("map", path, &error))?;
        pages::prefer_large(&map);
        Self::new(path, stamp, bytes, Memory::Mapped(map))
    }

    /// Reads the file into private memory, past the page cache if `direct`.
    /// `progress(bytes)` is called with what was read of it so far and may stop
    /// the reading.
    pub fn read(
        path: &Path,
        direct: bool,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<MappedFile> {
        let (file, stamp) = reading::open(path, direct)?;
        let bytes = addressable(path, stamp)?;
        let memory = reading::read_all(&file, path, bytes, direct, progress)?;
        let now = file.metadata().map(|metadata| FileStamp::of(&metadata));
        if now.map_err(|error| Error::io("read", path, &error))? != stamp {
            return Err(Error::format(format!(
                "{} changed while the model was being opened",
                path.display()
            )));
        }
        Self::new(path, stamp, bytes, Memory::Private(memory))
    }

    /// Private memory of so many bytes, zeros that `fill` changes, that counts as a
    /// part of this file.
    pub(super) fn made_of(
        &self,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<MappedFile> {
        let (path, stamp) = (self.path(), self.stamp());
        let mut memory = MmapMut::map_anon(bytes.next_multiple_of(page_bytes()))
            .map_err(|error| Error::io("make room for", path, &error))?;
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        fill(&mut memory[..bytes])?;
        Self::new(path, stamp, bytes, Memory::Private(memory))
    }

    fn new(path: &Path, stamp: FileStamp, bytes: usize, memory: Memory) -> Result<MappedFile> {
        Ok(MappedFile {
            inner: Arc::new(Inner {
                // The process may change its directory while the mapping lives.
                path: std::path::absolute(path).map_err(|error| Error::io("open", path, &error))?,
                stamp,
                bytes,
                memory,
            }),
        })
    }

    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    pub fn stamp(&self) -> FileStamp {
        self.inner.stamp
    }

    /// Whether the bytes are in private memory instead of the page cache.
    pub fn is_private(&self) -> bool {
        matches!(self.inner.memory, Memory::Private(_))
    }

    pub fn as_slice(&self) -> &[u8] {
        match &self.inner.memory {
            Memory::Mapped(map) => map,
            Memory::Private(memory) => &memory[..self.inner.bytes],
        }
    }

    /// At the beginning of a page.
    pub fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    pub fn len(&self) -> usize {
        self.inner.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The length rounded up to whole pages. The bytes beyond [`Self::len`] are
    /// mapped too, and zero.
    pub fn padded_len(&self) -> usize {
        self.len().next_multiple_of(page_bytes())
    }

    /// Whether the path now leads to other content than was mapped, judged by
    /// length, modification time and inode. A file that is gone counts as
    /// changed, although its mapping stays readable.
    pub fn changed_on_disk(&self) -> bool {
        match std::fs::metadata(self.path()) {
            Ok(metadata) => FileStamp::of(&metadata) != self.inner.stamp,
            Err(_) => true,
        }
    }

    /// Refuses bytes that are no longer those that were opened: `Io` if the mapped
    /// file was shortened or written to. One that was replaced or removed is fine,
    /// since the mapping keeps the old file; what then happens to that cannot be
    /// seen any more.
    pub fn ensure_unaltered(&self) -> Result<()> {
        let now = match std::fs::metadata(self.path()) {
            Ok(metadata) if !self.is_private() => FileStamp::of(&metadata),
            _ => return Ok(()),
        };
        let then = self.inner.stamp;
        if now == then || !now.is_same_file(&then) {
            return Ok(());
        }
        let what = match now.bytes < then.bytes {
            true => format!("shortened from {} to {} bytes", then.bytes, now.bytes),
            false => "written to".to_owned(),
        };
        Err(Error::new(
            Status::Io,
            format!(
                "{} was {what} while the model was open, so its weights cannot be trusted; free \
                 the model and open it again, or open it with the load mode \"read\"",
                self.path().display()
            ),
        ))
    }
}

fn addressable(path: &Path, stamp: FileStamp) -> Result<usize> {
    usize::try_from(stamp.bytes).map_err(|_| {
        let path = path.display();
        Error::unsupported(format!("{path} is larger than the address space"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;
    use std::io::Write;

    fn file_with(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn an_empty_file_maps_to_nothing() {
        let file = file_with(b"");
        let mapped = MappedFile::open(file.path()).unwrap();
        assert!(mapped.is_empty() && mapped.as_slice().is_empty());
        assert_eq!(mapped.padded_len(), 0);
        assert_eq!(mapped.residency().unwrap(), 0);
        mapped.advise(Advice::WillNeed).unwrap();
        assert!(!mapped.changed_on_disk());
    }

    #[test]
    fn residency_grows_with_what_is_touched_up_to_the_whole_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = (64 << 20) + 5;
        // Nothing of a hole is in memory before it is read.
        file.as_file().set_len(bytes).unwrap();
        let mapped = MappedFile::open(file.path()).unwrap();
        mapped.advise(Advice::Random).unwrap();
        assert_eq!(mapped.residency().unwrap(), 0);

        let middle = mapped.len() / 2;
        assert_eq!(mapped.as_slice()[middle], 0);
        assert_eq!(mapped.residency_of(middle..middle + 1).unwrap(), 1);
        let some = mapped.residency().unwrap();
        assert!(0 < some && some < mapped.len(), "{some} bytes");

        let pages = mapped.as_slice().iter().step_by(page_bytes());
        assert_eq!(pages.map(|byte| usize::from(*byte)).sum::<usize>(), 0);
        assert_eq!(mapped.residency().unwrap(), mapped.len());
    }

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at % 251) as u8).collect()
    }

    fn nothing_to_report(_: usize) -> Result<()> {
        Ok(())
    }

    #[test]
    fn the_content_survives_advice_and_comes_back_after_release() {
        let content = content(100_000);
        let file = file_with(&content);
        let mapped = MappedFile::open(file.path()).unwrap();
        for advice in [
            Advice::Normal,
            Advice::Random,
            Advice::Sequential,
            Advice::WillNeed,
        ] {
            mapped.advise(advice).unwrap();
            mapped.advise_range(advice, 4097..99_999).unwrap();
            assert_eq!(mapped.as_slice(), content);
        }
        let private = MappedFile::read(file.path(), false, &mut nothing_to_report).unwrap();
        for file in [mapped, private] {
            for drop_cache in [false, cfg!(target_os = "linux")] {
                file.release(drop_cache).unwrap();
                assert_eq!(file.as_slice(), content);
            }
        }
    }

    #[test]
    fn reading_gives_the_same_bytes_as_mapping() {
        let page = page_bytes();
        for bytes in [0, 1, 511, page - 1, page, page + 1, (8 << 20) + 5, 16 << 20] {
            let content = content(bytes);
            let file = file_with(&content);
            for direct in [false, true] {
                let mut reported = Vec::new();
                let read = MappedFile::read(file.path(), direct, &mut |done| {
                    reported.push(done);
                    Ok(())
                });
                let read = match read {
                    // Not every file system reads past its cache.
                    Err(error) if direct && error.status() == Status::Unsupported => continue,
                    read => read.unwrap(),
                };
                assert!(read.is_private());
                assert!(
                    read.as_slice() == content,
                    "{bytes} bytes, direct: {direct}"
                );
                assert!(reported.is_sorted() && reported.last() == Some(&bytes));
            }
        }
    }

    #[test]
    fn reading_stops_when_its_receiver_says_so() {
        let file = file_with(&content(20 << 20));
        let mut pieces = 0;
        let result = MappedFile::read(file.path(), false, &mut |_| {
            pieces += 1;
            match pieces {
                1 => Ok(()),
                _ => Err(Error::cancelled("enough")),
            }
        });
        assert_eq!(result.unwrap_err().status(), Status::Cancelled);
        assert_eq!(pieces, 2);
    }

    #[test]
    fn populating_brings_everything_into_memory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len((4 << 20) + 7).unwrap();
        let mapped = MappedFile::open(file.path()).unwrap();
        assert_eq!(mapped.residency().unwrap(), 0);
        mapped.populate(0..5000).unwrap();
        assert!(mapped.residency().unwrap() >= 5000);
        mapped.populate(0..mapped.len()).unwrap();
        assert_eq!(mapped.residency().unwrap(), mapped.len());
        mapped.populate(7..7).unwrap();
    }

    #[test]
    fn a_shortened_file_fails_to_populate_instead_of_ending_the_process() {
        let file = file_with(&content(1 << 20));
        let mapped = MappedFile::open(file.path()).unwrap();
        mapped.ensure_unaltered().unwrap();
        file.as_file().set_len(5000).unwrap();
        let error = mapped.populate(0..mapped.len()).unwrap_err();
        assert_eq!(error.status(), Status::Io, "{error}");
        let error = mapped.ensure_unaltered().unwrap_err();
        assert_eq!(error.status(), Status::Io);
        assert!(error.message().contains("shortened"), "{error}");
        mapped.populate(0..4000).unwrap();
    }

    #[test]
    fn only_what_happens_to_the_mapped_file_itself_alters_it() {
        let written = file_with(&content(5000));
        let mapped = MappedFile::open(written.path()).unwrap();
        let private = MappedFile::read(written.path(), false, &mut nothing_to_report).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(written.path(), vec![9; 5000]).unwrap();
        let error = mapped.ensure_unaltered().unwrap_err();
        assert!(error.message().contains("written to"), "{error}");
        private.ensure_unaltered().unwrap();
        assert_eq!(private.as_slice(), content(5000));

        let replaced = file_with(b"content");
        let mapped = MappedFile::open(replaced.path()).unwrap();
        std::fs::rename(file_with(b"CONTENT").into_temp_path(), replaced.path()).unwrap();
        mapped.ensure_unaltered().unwrap();
        std::fs::remove_file(replaced.path()).unwrap();
        mapped.ensure_unaltered().unwrap();
    }

    #[test]
    fn the_page_beyond_the_end_reads_as_zero() {
        let file = file_with(&[7; 100]);
        let mapped = MappedFile::open(file.path()).unwrap();
        assert_eq!(mapped.as_ptr() as usize % page_bytes(), 0);
        assert_eq!(mapped.padded_len(), page_bytes());
        // SAFETY: the last page of a mapping is mapped to its end.
        let padded = unsafe { std::slice::from_raw_parts(mapped.as_ptr(), mapped.padded_len()) };
        assert!(padded[100..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_range_outside_of_the_file_is_refused() {
        let file = file_with(&[7; 100]);
        let mapped = MappedFile::open(file.path()).unwrap();
        #[expect(clippy::reversed_empty_ranges, reason = "it has to be refused")]
        for range in [0..101, 50..40, usize::MAX..usize::MAX] {
            let error = mapped
                .advise_range(Advice::WillNeed, range.clone())
                .unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument);
            assert!(mapped.residency_of(range).is_err());
        }
    }

    #[test]
    fn changes_on_disk_are_noticed() {
        let appended = file_with(b"content");
        let mapped = MappedFile::open(appended.path()).unwrap();
        let clone = mapped.clone();
        assert!(!clone.changed_on_disk());
        appended.as_file().write_all(b"more").unwrap();
        assert!(clone.changed_on_disk());

        let replaced = file_with(b"content");
        let mapped = MappedFile::open(replaced.path()).unwrap();
        std::fs::rename(file_with(b"CONTENT").into_temp_path(), replaced.path()).unwrap();
        assert!(mapped.changed_on_disk());
        assert_eq!(
            mapped.as_slice(),
            b"content",
            "the mapping keeps the old file"
        );

        let removed = file_with(b"content");
        let mapped = MappedFile::open(removed.path()).unwrap();
        removed.close().unwrap();
        assert!(mapped.changed_on_disk());
    }

    #[test]
    fn clones_share_one_mapping() {
        let file = file_with(b"content");
        let mapped = MappedFile::open(file.path()).unwrap();
        let clone = mapped.clone();
        assert_eq!(clone.as_ptr(), mapped.as_ptr());
        drop(mapped);
        assert_eq!(clone.as_slice(), b"content");
    }
}
