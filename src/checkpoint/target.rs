//! Model directories that appear whole or not at all, and whose tensors come piece
//! by piece.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::{Gaps, Layout, TensorShape};
use crate::error::{Error, Result};

/// A directory that is filled beside its later place and removed unless it gets
/// there.
pub struct NewDirectory {
    target: PathBuf,
    /// Hidden, beside the target.
    path: PathBuf,
}

impl NewDirectory {
    /// Something at `target` is refused, but for a model directory if
    /// `replaces_model` says so.
    pub fn create(target: &Path, replaces_model: bool) -> Result<NewDirectory> {
        let target =
            std::path::absolute(target).map_err(|error| Error::io("create", target, &error))?;
        refuse_existing(&target, replaces_model)?;
        let path = hidden_beside(&target)?;
        fs::create_dir(&path).map_err(|error| Error::io("create", &path, &error))?;
        Ok(NewDirectory { target, path })
    }

    /// Where files are put meanwhile.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let mut file = File::create_new(&path).map_err(|e| Error::io("create", &path, &e))?;
        std::io::Write::write_all(&mut file, content)
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::io("write", &path, &error))
    }

    pub fn copy(&self, source: &Path) -> Result<()> {
        let path = self.path.join(source.file_name().unwrap_or_default());
        fs::copy(source, &path)
            .and_then(|_| File::open(&path)?.sync_all())
            .map_err(|error| Error::io("copy", source, &error))
    }

    /// A safetensors file without what readers other than ours do not know.
    pub fn safetensors(
        &self,
        name: &str,
        tensors: &[TensorShape<'_>],
        metadata: &[(&str, &str)],
    ) -> Result<NewFile> {
        NewFile::create(self.path.join(name), tensors, metadata)
    }

    /// Makes it the target, with all files that were put into it.
    pub fn finish(self) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("write", &self.target, &error);
        synchronize(&self.path).map_err(failed)?;
        match fs::symlink_metadata(&self.target) {
            Ok(_) => self.exchange()?,
            Err(_) => fs::rename(&self.path, &self.target).map_err(failed)?,
        }
        synchronize(self.target.parent().unwrap_or(Path::new("/"))).map_err(failed)
    }

    /// Puts the former model aside and removes it once this one is in its place.
    fn exchange(&self) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("replace", &self.target, &error);
        let aside = hidden_beside(&self.target)?;
        fs::rename(&self.target, &aside).map_err(failed)?;
        if let Err(error) = fs::rename(&self.path, &self.target) {
            fs::rename(&aside, &self.target).map_err(failed)?;
            return Err(failed(error));
        }
        fs::remove_dir_all(&aside).map_err(|error| Error::io("remove", &aside, &error))
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        // After the rename there is nothing under this name any more.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn refuse_existing(target: &Path, replaces_model: bool) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(target) else {
        return Ok(());
    };
    let path = target.display();
    if !replaces_model {
        return Err(Error::invalid(format!(
            "{path} exists; name another place, or ask for it to be replaced"
        )));
    }
    match found.is_dir() && target.join("config.json").is_file() {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{path} exists and is no model directory, so it is not replaced"
        ))),
    }
}

fn hidden_beside(target: &Path) -> Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let Some(name) = target.file_name() else {
        return Err(Error::invalid(format!(
            "{} is not the name of a directory",
            target.display()
        )));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    hidden.push(format!(".{}-{count}.tmp", std::process::id()));
    Ok(target.with_file_name(hidden))
}

fn synchronize(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// A safetensors file whose header is written and whose tensors are zeros until
/// they are. Any thread may write any part.
pub struct NewFile {
    path: PathBuf,
    file: File,
    /// Where each tensor begins in the file, and its bytes.
    places: Vec<(usize, usize)>,
}

impl NewFile {
    fn create(
        path: PathBuf,
        tensors: &[TensorShape<'_>],
        metadata: &[(&str, &str)],
    ) -> Result<NewFile> {
        let layout = Layout::new(tensors, Gaps::None)?;
        let header = layout.header(metadata)?;
        let mut places = vec![(0, 0); tensors.len()];
        for entry in layout.entries() {
            if let Some(index) = entry.source {
                places[index] = (header.len() + entry.offset(), entry.bytes());
            }
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| Error::io("create", &path, &error))?;
        file.set_len((header.len() + layout.bytes()) as u64)
            .and_then(|()| file.write_all_at(&header, 0))
            .map_err(|error| Error::io("write", &path, &error))?;
        Ok(NewFile { path, file, places })
    }

    /// Writes a part of a tensor, from its byte `offset` on.
    ///
    /// # Panics
    /// If the tensor does not reach so far.
    pub fn write(&self, tensor: usize, offset: usize, bytes: &[u8]) -> Result<()> {
        let (start, length) = self.places[tensor];
        assert!(offset + bytes.len() <= length, "inside of the tensor");
        self.file
            .write_all_at(bytes, (start + offset) as u64)
            .map_err(|error| Error::io("write", &self.path, &error))
    }

    pub fn finish(self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|error| Error::io("write", &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::super::dtype::Dtype;
    use super::*;
    use crate::error::Status;
    use safetensors::SafeTensors;

    fn entries(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn tensors_written_in_pieces_are_read_by_the_reference_reader() {
        let parent = tempfile::tempdir().unwrap();
        let directory = NewDirectory::create(&parent.path().join("new"), false).unwrap();
        let shape = |name, dtype, shape| TensorShape { name, dtype, shape };
        let tensors = [
            shape("odd", Dtype::U8, &[3]),
            shape("scale", Dtype::BF16, &[1]),
            shape("float", Dtype::F32, &[3]),
            shape("whole", Dtype::U32, &[16]),
            shape("empty", Dtype::F32, &[0]),
        ];
        let file = directory.safetensors("a.safetensors", &tensors, &[("format", "mlx")]);
        let file = file.unwrap();
        file.write(3, 4, &[1; 60]).unwrap();
        file.write(0, 0, &[2; 3]).unwrap();
        file.write(3, 0, &[3; 4]).unwrap();
        file.write(1, 0, &[4; 2]).unwrap();
        file.finish().unwrap();
        directory.finish().unwrap();
        let file = fs::read(parent.path().join("new/a.safetensors")).unwrap();
        let read = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.len(), tensors.len(), "no padding");
        let data = |name| read.tensor(name).unwrap().data();
        assert_eq!((data("odd"), data("scale")), (&[2; 3][..], &[4; 2][..]));
        assert_eq!(data("whole")[..5], [3, 3, 3, 3, 1]);
        let data_start = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize + 8;
        let (_, metadata) = SafeTensors::read_metadata(&file).unwrap();
        for tensor in &tensors {
            let begin = data_start + metadata.info(tensor.name).unwrap().data_offsets.0;
            assert!(begin.is_multiple_of(tensor.dtype.size()), "{}", tensor.name);
        }
    }

    #[test]
    fn a_directory_that_is_not_finished_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let directory = NewDirectory::create(&parent.path().join("new"), false).unwrap();
        directory.write("config.json", b"{}").unwrap();
        assert_eq!(entries(parent.path()).len(), 1);
        drop(directory);
        assert!(entries(parent.path()).is_empty());
    }

    #[test]
    fn only_models_are_replaced_and_only_when_that_is_asked() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("model");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("notes.txt"), "mine").unwrap();
        for replaces in [false, true] {
            let error = NewDirectory::create(&target, replaces).err().unwrap();
            assert_eq!(error.status(), Status::InvalidArgument, "{error}");
        }
        fs::write(target.join("config.json"), "old").unwrap();
        let directory = NewDirectory::create(&target, true).unwrap();
        directory.write("config.json", b"new").unwrap();
        assert_eq!(fs::read(target.join("config.json")).unwrap(), b"old");
        directory.finish().unwrap();
        assert_eq!(fs::read(target.join("config.json")).unwrap(), b"new");
        assert_eq!(entries(&target), ["config.json"]);
        assert_eq!(entries(parent.path()), ["model"]);
    }
}
