//! Which pages of a file are in memory, and asking for more or fewer of them.

use std::io;
use std::ops::Range;

use memmap2::Mmap;

use super::MappedFile;
use crate::checkpoint::file::open_regular;
use crate::error::{Error, Result, Status};

/// What to tell the system about coming accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    Normal,
    /// Don't read ahead.
    Random,
    Sequential,
    /// Start reading from disk now.
    WillNeed,
}

impl MappedFile {
    /// How many bytes of the file are in memory now.
    ///
    /// This is the page cache's view, shared by all processes. Linux answers
    /// "all" for a file that the process neither owns nor may write. Of private
    /// memory it is what was not swapped out.
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
        let advice = match advice {
            Advice::Normal => libc::MADV_NORMAL,
            Advice::Random => libc::MADV_RANDOM,
            Advice::Sequential => libc::MADV_SEQUENTIAL,
            Advice::WillNeed => libc::MADV_WILLNEED,
        };
        // SAFETY: these only change when pages are read, not what is in them.
        unsafe { self.madvise(advice, range) }
            .map_err(|error| Error::io("advise about", self.path(), &error))
    }

    /// Brings the pages that a part of the file touches into memory. Fails with
    /// `Io` where the disk does, or where the file was shortened: an access to
    /// those pages would end the process.
    pub fn populate(&self, range: Range<usize>) -> Result<()> {
        let range = self.check(range)?;
        if range.is_empty() {
            return Ok(());
        }
        match self.populate_read(range.clone()) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => match self.is_private() {
                // What is private was read once and comes back from swap.
                true => Ok(()),
                false => self.read_through(range),
            },
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                Err(Error::io("read", self.path(), &error))
            }
            Err(error) => Err(Error::new(
                Status::Io,
                format!(
                    "bytes {} to {} of {} cannot be read: the disk failed or the file was \
                     shortened ({error})",
                    range.start,
                    range.end,
                    self.path().display()
                ),
            )),
        }
    }

    #[cfg(target_os = "linux")]
    fn populate_read(&self, range: Range<usize>) -> io::Result<()> {
        loop {
            // SAFETY: reads pages in, and changes nothing in them.
            match unsafe { self.madvise(libc::MADV_POPULATE_READ, range.clone()) } {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn populate_read(&self, _: Range<usize>) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// For systems that cannot populate a mapping: reading the file puts it into
    /// the page cache, and errors come as such.
    fn read_through(&self, range: Range<usize>) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let failed = |error: io::Error| Error::io("read", self.path(), &error);
        let (file, stamp) = open_regular(self.path())?;
        if stamp != self.stamp() {
            return Err(Error::new(
                Status::Io,
                format!("{} is another file now", self.path().display()),
            ));
        }
        let mut buffer = vec![0; 256 << 10];
        let mut start = range.start;
        while start < range.end {
            let part = buffer.len().min(range.end - start);
            file.read_exact_at(&mut buffer[..part], start as u64)
                .map_err(failed)?;
            start += part;
        }
        Ok(())
    }

    /// Keeps the pages of the whole file in memory until [`Self::unlock`].
    pub fn lock(&self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is the whole mapping; locking changes nothing in it.
        let failed = unsafe { libc::mlock(self.as_ptr().cast(), self.padded_len()) } != 0;
        if !failed {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        let status = match error.raw_os_error() {
            Some(libc::ENOMEM | libc::EPERM) => Status::OverBudget,
            _ => Status::Io,
        };
        let limit = match lock_limit_bytes() {
            Some(bytes) => format!(
                "this process may lock {} KiB (RLIMIT_MEMLOCK); raise that with `ulimit -l` or \
                 LimitMEMLOCK=, or keep the model warm instead",
                bytes >> 10
            ),
            None => "keep the model warm instead".to_owned(),
        };
        Err(Error::new(
            status,
            format!(
                "cannot lock {} KiB of {} in memory ({error}); {limit}",
                self.padded_len() >> 10,
                self.path().display()
            ),
        ))
    }

    pub fn unlock(&self) {
        if !self.is_empty() {
            // SAFETY: the range is the whole mapping. It can only fail for ranges
            // that are not mapped.
            unsafe { libc::munlock(self.as_ptr().cast(), self.padded_len()) };
        }
    }

    /// Takes the pages out of this process; the next access brings them back,
    /// from the page cache or from disk. With `drop_cache` the page cache is asked
    /// to forget them too, which it does with those that nobody else has mapped.
    ///
    /// Private memory has no other place to come back from. It is only marked as
    /// what the system should swap out first.
    pub fn release(&self, drop_cache: bool) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let failed = |error: io::Error| Error::io("release", self.path(), &error);
        if self.is_private() {
            #[cfg(target_os = "linux")]
            // SAFETY: the pages keep their content, in swap if need be.
            unsafe { self.madvise(libc::MADV_COLD, 0..self.len()) }.or_else(unknown_is_fine)?;
            return Ok(());
        }
        // SAFETY: the mapping is of a file, shared and read-only, so there is
        // nothing to lose: the next access finds the file's bytes again.
        unsafe { self.madvise(libc::MADV_DONTNEED, 0..self.len()) }.map_err(failed)?;
        match drop_cache {
            true => self.drop_cache(),
            false => Ok(()),
        }
    }

    #[cfg(target_os = "linux")]
    fn drop_cache(&self) -> Result<()> {
        use std::os::fd::AsRawFd;
        let (file, stamp) = open_regular(self.path())?;
        if stamp != self.stamp() {
            return Ok(());
        }
        // SAFETY: advice about an open file; 0 bytes mean to its end.
        let code =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        match code {
            0 => Ok(()),
            code => {
                let error = io::Error::from_raw_os_error(code);
                Err(Error::io("drop from the page cache", self.path(), &error))
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn drop_cache(&self) -> Result<()> {
        Err(Error::unsupported(
            "only Linux can be asked to drop files from its page cache",
        ))
    }

    /// # Safety
    /// The advice keeps the content of the pages.
    unsafe fn madvise(&self, advice: libc::c_int, range: Range<usize>) -> io::Result<()> {
        let start = range.start / page_bytes() * page_bytes();
        let address = self.as_ptr().wrapping_add(start).cast_mut();
        // SAFETY: from the beginning of a page, inside of the mapping.
        match unsafe { libc::madvise(address.cast(), range.end - start, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
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
            let error = io::Error::last_os_error();
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

/// A kernel that does not know an advice ignores a hint; nothing is lost.
#[cfg(target_os = "linux")]
fn unknown_is_fine(error: io::Error) -> Result<()> {
    match error.raw_os_error() {
        Some(libc::EINVAL) => Ok(()),
        _ => Err(Error::internal(format!("cannot mark cold pages: {error}"))),
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

pub fn page_bytes() -> usize {
    // SAFETY: sysconf reads a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Bytes that the process may lock; `None`: any number.
fn lock_limit_bytes() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the structure.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    let is_limited = code == 0 && limit.rlim_cur != libc::RLIM_INFINITY;
    is_limited.then_some(limit.rlim_cur)
}

/// Asks that what has to be read from disk comes in large pages. With small ones
/// translating addresses costs a quarter of the bandwidth. Where that cannot be,
/// nothing changes.
pub(super) fn prefer_large(map: &Mmap) {
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    #[cfg(not(target_os = "linux"))]
    let _ = map;
}
