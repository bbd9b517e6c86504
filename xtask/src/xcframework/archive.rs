//! A zip archive that is the same whenever and wherever it is made.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Packs a folder under its own name, symbolic links as such.
pub fn zip(folder: &Path, archive: &Path) -> Result<()> {
    let parent = folder.parent().context("the folder lies in another one")?;
    if let Some(target) = archive.parent() {
        fs::create_dir_all(target)?;
    }
    let file = File::create(archive).with_context(|| format!("creating {}", archive.display()))?;
    let mut writer = ZipWriter::new(BufWriter::new(file));
    for path in files_below(folder)? {
        add(&mut writer, &path, parent).with_context(|| format!("packing {}", path.display()))?;
    }
    writer.finish()?;
    Ok(())
}

fn add(writer: &mut ZipWriter<BufWriter<File>>, path: &Path, parent: &Path) -> Result<()> {
    let name = path.strip_prefix(parent)?.to_string_lossy().into_owned();
    let metadata = fs::symlink_metadata(path)?;
    // The default time is a fixed one.
    let options = SimpleFileOptions::default();
    if metadata.is_symlink() {
        let target = fs::read_link(path)?.to_string_lossy().into_owned();
        writer.add_symlink(name, target, options)?;
    } else {
        let mode = if metadata.permissions().mode() & 0o100 == 0 {
            0o644
        } else {
            0o755
        };
        writer.start_file(name, options.unix_permissions(mode))?;
        io::copy(&mut File::open(path)?, writer)?;
    }
    Ok(())
}

/// All files and links, sorted by path.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::python;
    use crate::util::{output, sha256};
    use std::os::unix::fs::symlink;

    #[test]
    fn the_same_folder_gives_the_same_archive_with_its_links() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let folder = dir.path().join("A.xcframework");
        fs::create_dir_all(folder.join("Versions/A"))?;
        fs::write(folder.join("Versions/A/binary"), "x".repeat(1000))?;
        symlink("A", folder.join("Versions/Current"))?;
        let archives = [dir.path().join("1.zip"), dir.path().join("2.zip")];
        for archive in &archives {
            zip(&folder, archive)?;
        }
        assert_eq!(sha256(&archives[0])?, sha256(&archives[1])?);
        // 0xA is the type of symbolic links in a mode.
        let list = "import sys, zipfile\n\
                    for i in zipfile.ZipFile(sys.argv[1]).infolist():\n\
                    \x20   print(i.filename, hex(i.external_attr >> 28), i.file_size)";
        let listing = output(python().args(["-c", list]).arg(&archives[0]))?;
        assert_eq!(
            listing,
            "A.xcframework/Versions/A/binary 0x8 1000\n\
             A.xcframework/Versions/Current 0xa 1\n"
        );
        Ok(())
    }
}
