//! Files mapped read-only, and what the page cache holds of them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions, UncheckedAdvice};

use super::file::{FileStamp, open_regular};
use crate::error::{Error, Result};

/// What to tell the system about coming accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    Normal,
    /// Don't read ahead.
    Random,
    Sequential,
    /// Start reading from disk now.
    WillNeed,
    /// Unmap the pages; the page cache may keep them, and the next access
    /// brings them back from there or from disk.
    DontNeed,
}

/// A regular file, mapped read-only and shared with the page cache. Clones
/// share one mapping, which lives until the last of them is dropped. No file
/// descriptor stays open.
///
/// The length was taken when the file was opened. If another process truncates
/// the file afterwards, an access beyond its new end raises SIGBUS, and if one
/// writes to it, the bytes change under the reader: no file system offers a way
/// to prevent that, so whoever provides a model directory has to leave it alone
/// while it is in use. [`MappedFile::changed_on_disk`] tells after the fact.
#[derive(Clone, Debug)]
pub struct MappedFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    stamp: FileStamp,
    map: Mmap,
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<MappedFile> {
        let failed = |error: std::io::Error| Error::io("map", path, &error);
        let (file, stamp) = open_regular(path)?;
        let bytes = usize::try_from(stamp.bytes).map_err(|_| {
            let path = path.display();
            Error::unsupported(format!("{path} is larger than the address space"))
        })?;
        // SAFETY: the mapping belongs to this value, is read-only, and as long as
        // the file was when asked. That nobody changes the file is the documented
        // duty of whoever provides it; see the type's documentation.
        let map = unsafe { MmapOptions::new().len(bytes).map(&file) }.map_err(failed)?;
        prefer_large_pages(&map);
        Ok(MappedFile {
            inner: Arc::new(Inner {
                // The process may change its directory while the mapping lives.
                path: std::path::absolute(path).map_err(failed)?,
                stamp,
                map,
            }),
        })
    }

    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    pub fn stamp(&self) -> FileStamp {
        self.inner.stamp
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.inner.map
    }

    /// At the beginning of a page.
    pub fn as_ptr(&self) -> *const u8 {
        self.inner.map.as_ptr()
    }

    pub fn len(&self) -> usize {
        self.inner.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.inner.map.is_empty()
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

    /// How many bytes of the file are in memory now.
    ///
    /// This is the page cache's view, shared by all processes. Linux answers
    /// "all" for a file that the process neither owns nor may write.
    pub fn residency(&self) -> Result<usize> {
        self.residency_of(0..self.len())
    }

    /// The same for the pages that a part of the file touches.
    pub fn residency_of(&self, range: Range<usize>) -> Result<usize> {
        // 256 MiB of file per system call with 4 KiB pages.
        const CHUNK_PAGES: usize = 1 << 16;
        let range = self.check(range)?;
        let page = page_bytes();
        let mut states = vec![0; CHUNK_PAGES.min(self.padded_len() / page)];
        let mut resident = 0;
        let mut start = range.start / page * page;
        while start < range.end {
            let end = range.end.min(start + CHUNK_PAGES * page);
            self.page_states(start..end, &mut states)?;
            for (index, _) in present(&states[..(end - start).div_ceil(page)]) {
                let first = start + index * page;
                resident += range.end.min(first + page) - range.start.max(first);
            }
            start = end;
        }
        Ok(resident)
    }

    pub fn advise(&self, advice: Advice) -> Result<()> {
        self.advise_range(advice, 0..self.len())
    }

    /// For the pages that a part of the file touches.
    pub fn advise_range(&self, advice: Advice, range: Range<usize>) -> Result<()> {
        let range = self.check(range)?;
        if range.is_empty() {
            return Ok(());
        }
        let (map, offset, bytes) = (&self.inner.map, range.start, range.len());
        let told = match advice {
            Advice::Normal => map.advise_range(memmap2::Advice::Normal, offset, bytes),
            Advice::Random => map.advise_range(memmap2::Advice::Random, offset, bytes),
            Advice::Sequential => map.advise_range(memmap2::Advice::Sequential, offset, bytes),
            Advice::WillNeed => map.advise_range(memmap2::Advice::WillNeed, offset, bytes),
            Advice::DontNeed => {
                // SAFETY: the mapping is of a file, shared and read-only, so there
                // is nothing to lose: the next access finds the file's bytes again.
                unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, bytes) }
            }
        };
        told.map_err(|error| Error::io("advise about", self.path(), &error))
    }

    /// One byte of `states` per page of `range`, which starts at a page.
    fn page_states(&self, range: Range<usize>, states: &mut [u8]) -> Result<()> {
        debug_assert!(range.len().div_ceil(page_bytes()) <= states.len());
        let address = self.as_ptr().wrapping_add(range.start).cast_mut();
        // SAFETY: the range lies inside of the mapping and starts at a page;
        // `states` has a byte for each page of it. Nothing is written elsewhere.
        let failed = unsafe {
            libc::mincore(
                address.cast::<libc::c_void>(),
                range.len(),
                states.as_mut_ptr().cast(),
            )
        } != 0;
        if failed {
            let error = std::io::Error::last_os_error();
            return Err(Error::io(
                "ask for the resident pages of",
                self.path(),
                &error,
            ));
        }
        Ok(())
    }

    fn check(&self, range: Range<usize>) -> Result<Range<usize>> {
        if range.start <= range.end && range.end <= self.len() {
            return Ok(range);
        }
        Err(Error::invalid(format!(
            "bytes {} to {} are not inside of {}, which has {}",
            range.start,
            range.end,
            self.path().display(),
            self.len()
        )))
    }
}

/// The pages that are in memory.
fn present(states: &[u8]) -> impl Iterator<Item = (usize, &u8)> {
    // MINCORE_INCORE on macOS, and the only defined bit on Linux.
    const RESIDENT: u8 = 1;
    states
        .iter()
        .enumerate()
        .filter(|(_, state)| **state & RESIDENT != 0)
}

fn page_bytes() -> usize {
    // SAFETY: sysconf reads a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Asks that what has to be read from disk comes in large pages. With small ones
/// translating addresses costs a quarter of the bandwidth. Where that cannot be,
/// nothing changes.
fn prefer_large_pages(map: &Mmap) {
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    #[cfg(not(target_os = "linux"))]
    let _ = map;
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

    #[test]
    fn the_content_comes_back_after_dont_need() {
        let content: Vec<u8> = (0..100_000).map(|at| (at % 251) as u8).collect();
        let file = file_with(&content);
        let mapped = MappedFile::open(file.path()).unwrap();
        for advice in [
            Advice::Normal,
            Advice::Random,
            Advice::Sequential,
            Advice::WillNeed,
            Advice::DontNeed,
        ] {
            mapped.advise(advice).unwrap();
            mapped.advise_range(advice, 4097..99_999).unwrap();
            assert_eq!(mapped.as_slice(), content);
        }
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
                .advise_range(Advice::DontNeed, range.clone())
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
