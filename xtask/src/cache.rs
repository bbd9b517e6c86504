//! The user's cache folder: what setup makes is kept there under a name that
//! contains a hash of everything it was made from, so clones share it and a
//! changed ingredient gives a new entry instead of a stale one.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

const UNFINISHED: &str = "unfinished-";

pub struct Cache {
    dir: PathBuf,
    // Held while the value lives, so that only one process fills the cache.
    _lock: File,
}

impl Cache {
    pub fn open() -> Result<Self> {
        Self::open_at(location()?)
    }

    fn open_at(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path)
            .with_context(|| format!("creating {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("setup: waiting for another cargo xtask to finish");
                lock.lock().context("locking the cache folder")?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).context("locking the cache folder");
            }
        }
        let cache = Self { dir, _lock: lock };
        cache.remove_unfinished()?;
        Ok(cache)
    }

    /// The entry `<name>-<key>`, made by `make` in an empty folder if it is not
    /// there yet. An entry appears whole or not at all.
    pub fn entry(
        &self,
        name: &str,
        key: Key,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.path(name, key);
        if !entry.exists() {
            let unfinished = self.dir.join(format!("{UNFINISHED}{name}"));
            fs::create_dir_all(&unfinished)?;
            make(&unfinished)?;
            fs::rename(&unfinished, &entry)
                .with_context(|| format!("moving the result to {}", entry.display()))?;
        }
        Ok(entry)
    }

    pub fn has(&self, name: &str, key: Key) -> bool {
        self.path(name, key).exists()
    }

    fn path(&self, name: &str, key: Key) -> PathBuf {
        self.dir.join(format!("{name}-{}", key.finish()))
    }

    fn remove_unfinished(&self) -> Result<()> {
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_dir_all(file.path())?;
            }
        }
        Ok(())
    }
}

/// Where the cache is, whether or not it exists.
pub fn location() -> Result<PathBuf> {
    if let Some(dir) = non_empty("UMRT_CACHE") {
        return std::path::absolute(dir).context("UMRT_CACHE");
    }
    if let Some(dir) = non_empty("XDG_CACHE_HOME") {
        return Ok(dir.join("umrt"));
    }
    let home = non_empty("HOME").context("HOME is not set: set UMRT_CACHE to a folder to use")?;
    Ok(home.join(".cache/umrt"))
}

fn non_empty(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// A hash over everything an entry is made from.
#[derive(Clone, Default)]
pub struct Key(Sha256);

impl Key {
    pub fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
        self
    }

    pub fn file(mut self, path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        self = self.text(&path.file_name().unwrap_or_default().to_string_lossy());
        self.0.update((content.len() as u64).to_le_bytes());
        self.0.update(content);
        Ok(self)
    }

    fn finish(self) -> String {
        self.0
            .finalize()
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn key(text: &str) -> Key {
        Key::default().text(text)
    }

    #[test]
    fn an_entry_is_made_once() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::open_at(dir.path().into())?;
        let first = cache.entry("wheel", key("1"), |dir| {
            Ok(fs::write(dir.join("file"), "x")?)
        })?;
        let second = cache.entry("wheel", key("1"), |_| bail!("made again"))?;
        assert_eq!(first, second);
        assert_eq!(fs::read_to_string(first.join("file"))?, "x");
        Ok(())
    }

    #[test]
    fn a_changed_ingredient_gives_another_entry() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::open_at(dir.path().into())?;
        let first = cache.entry("wheel", key("1"), |_| Ok(()))?;
        let second = cache.entry("wheel", key("2"), |_| Ok(()))?;
        assert_ne!(first, second);
        Ok(())
    }

    #[test]
    fn a_failure_leaves_no_entry_and_no_rest_in_the_next_attempt() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let failing = |dir: &Path| {
            fs::write(dir.join("half"), "x")?;
            bail!("interrupted")
        };
        let cache = Cache::open_at(dir.path().into())?;
        assert!(cache.entry("wheel", key("1"), failing).is_err());
        assert!(!cache.has("wheel", key("1")));
        drop(cache);
        let cache = Cache::open_at(dir.path().into())?;
        let entry = cache.entry("wheel", key("1"), |_| Ok(()))?;
        assert_eq!(fs::read_dir(entry)?.count(), 0);
        Ok(())
    }

    #[test]
    fn texts_do_not_run_together_in_a_key() {
        let split_early = key("a").text("bc").finish();
        let split_late = key("ab").text("c").finish();
        assert_ne!(split_early, split_late);
    }
}
