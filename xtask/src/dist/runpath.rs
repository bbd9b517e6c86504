//! Where a shared library looks for others: only places beside it are left.

use anyhow::{Context, Result, bail, ensure};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NULL: u64 = 0;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// Takes every place out of a library's search path that is no `$ORIGIN` one, in the
/// bytes of its file. The build's own folders are none of anybody's business, and an
/// MLX that happens to lie there is not the one to be used.
pub fn keep_relative(elf: &mut [u8]) -> Result<()> {
    ensure!(
        elf.get(..6) == Some(b"\x7fELF\x02\x01"),
        "it is no ELF file of 64 bits, little-endian"
    );
    let Some((at, len)) = search_path(elf)? else {
        bail!("it has no search path");
    };
    let field = &mut elf[at..at + len];
    let places = std::str::from_utf8(field).context("the search path is no text")?;
    let kept: Vec<_> = places
        .split(':')
        .filter(|place| place.starts_with("$ORIGIN"))
        .collect();
    ensure!(!kept.is_empty(), "{places} has no place beside the library");
    let kept = kept.join(":");
    field.fill(0);
    field[..kept.len()].copy_from_slice(kept.as_bytes());
    Ok(())
}

/// Where the text of the search path lies in the file.
fn search_path(elf: &[u8]) -> Result<Option<(usize, usize)>> {
    let segments = segments(elf)?;
    let dynamic = segments
        .iter()
        .find(|segment| segment.kind == PT_DYNAMIC)
        .context("it is not linked dynamically")?;
    let mut path_offset = None;
    let mut strings = None;
    for entry in 0..dynamic.len / 16 {
        let at = dynamic.offset + 16 * entry;
        let value = u64_at(elf, at + 8)?;
        match u64_at(elf, at)? {
            DT_NULL => break,
            DT_STRTAB => strings = Some(value),
            DT_RPATH | DT_RUNPATH => path_offset = Some(value),
            _ => {}
        }
    }
    let Some(path_offset) = path_offset else {
        return Ok(None);
    };
    let address = strings.context("it has no table of strings")? + path_offset;
    let at = file_offset(&segments, address)?;
    let rest = elf.get(at..).context("its search path lies beyond it")?;
    let len = rest.iter().position(|&byte| byte == 0);
    Ok(Some((at, len.context("its search path has no end")?)))
}

struct Segment {
    kind: u32,
    offset: usize,
    address: u64,
    len: usize,
}

fn segments(elf: &[u8]) -> Result<Vec<Segment>> {
    let table = usize::try_from(u64_at(elf, 0x20)?)?;
    let entry_len = usize::from(u16_at(elf, 0x36)?);
    let n = usize::from(u16_at(elf, 0x38)?);
    (0..n)
        .map(|index| {
            let at = table + index * entry_len;
            Ok(Segment {
                kind: u32_at(elf, at)?,
                offset: usize::try_from(u64_at(elf, at + 0x08)?)?,
                address: u64_at(elf, at + 0x10)?,
                len: usize::try_from(u64_at(elf, at + 0x20)?)?,
            })
        })
        .collect()
}

fn file_offset(segments: &[Segment], address: u64) -> Result<usize> {
    let inside = |segment: &&Segment| {
        segment.kind == PT_LOAD
            && (segment.address..segment.address + segment.len as u64).contains(&address)
    };
    let segment = segments.iter().find(inside).context("no such address")?;
    Ok(segment.offset + usize::try_from(address - segment.address)?)
}

fn bytes_at<const N: usize>(elf: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = elf.get(at..at + N).context("the file is cut off")?;
    Ok(bytes.try_into()?)
}

fn u16_at(elf: &[u8], at: usize) -> Result<u16> {
    bytes_at(elf, at).map(u16::from_le_bytes)
}

fn u32_at(elf: &[u8], at: usize) -> Result<u32> {
    bytes_at(elf, at).map(u32::from_le_bytes)
}

fn u64_at(elf: &[u8], at: usize) -> Result<u64> {
    bytes_at(elf, at).map(u64::from_le_bytes)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::util::output;

    /// The bytes of a small library with this search path.
    fn library(dir: &std::path::Path, search_path: &str) -> Result<Vec<u8>> {
        let (source, library) = (dir.join("a.c"), dir.join("liba.so"));
        fs::write(&source, "int a(void) { return 1; }\n")?;
        output(
            Command::new("cc")
                .args(["-shared", "-fPIC", "-o"])
                .args([&library, &source])
                .arg(format!("-Wl,-rpath,{search_path}")),
        )?;
        Ok(fs::read(library)?)
    }

    #[test]
    fn absolute_places_are_taken_out() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut elf = library(dir.path(), "$ORIGIN:/opt/mlx/lib:$ORIGIN/../lib:/home/me")?;
        keep_relative(&mut elf)?;
        let edited = dir.path().join("edited.so");
        fs::write(&edited, &elf)?;
        let listing = output(Command::new("readelf").arg("-d").arg(&edited))?;
        assert!(listing.contains("[$ORIGIN:$ORIGIN/../lib]"), "{listing}");
        let text = String::from_utf8_lossy(&elf);
        assert!(!text.contains("/opt/mlx") && !text.contains("/home/me"));
        Ok(())
    }

    #[test]
    fn a_library_that_would_find_nothing_is_refused() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut elf = library(dir.path(), "/opt/mlx/lib")?;
        let message = keep_relative(&mut elf).unwrap_err().to_string();
        assert!(message.contains("/opt/mlx/lib"), "{message}");
        Ok(())
    }

    #[test]
    fn files_that_are_cut_off_are_errors() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let elf = library(dir.path(), "$ORIGIN")?;
        for len in [0, 5, 40, 100, 300] {
            assert!(keep_relative(&mut elf[..len].to_vec()).is_err());
        }
        Ok(())
    }
}
