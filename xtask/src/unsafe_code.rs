//! `cargo xtask unsafe`: docs/unsafe.md, where the source has unsafe code and why
//! there. It fails where a file outside of those rooms has some.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::util::{files_below, root};

const DOCUMENT: &str = "docs/unsafe.md";
const SOURCE: &str = "src";

const INTRODUCTION: &str = "\
# Unsafe code

Where umrt's Rust has unsafe code, and why it has to be there. Written by `cargo xtask unsafe`; do
not edit. `cargo xtask test` fails when a file of another room has some, and clippy where a block
does not say why it holds.

Blocks and implementations are where somebody vouches for something; functions and traits say
what their callers have to. Code of tests counts.
";

/// A part of the source that may have unsafe code.
struct Room {
    /// A file, or a folder with a slash at its end.
    place: &'static str,
    reason: &'static str,
}

const ROOMS: &[Room] = &[
    Room {
        place: "src/capi/",
        reason: "pointers from C: checked for null, alignment and size, then borrowed for the call",
    },
    Room {
        place: "src/checkpoint/file.rs",
        reason: "a named pipe, for a test",
    },
    Room {
        place: "src/checkpoint/mmap.rs",
        reason: "mapping files, whose bytes another process could change",
    },
    Room {
        place: "src/checkpoint/mmap/",
        reason: "system calls on mapped pages, and files that are read past the page cache",
    },
    Room {
        place: "src/host.rs",
        reason: "signal masks and handlers of fork",
    },
    Room {
        place: "src/kernels/",
        reason: "vector instructions, results that threads write side by side, memory without \
                 initial values",
    },
    Room {
        place: "src/kv/blocks.rs",
        reason: "moves keys and values inside of blocks that a sequence owns alone",
    },
    Room {
        place: "src/memory/",
        reason: "system calls about memory, and the allocator for when there is none",
    },
    Room {
        place: "src/mlx/",
        reason: "calls of mlx-c and of the two C++ files, handles that MLX counts",
    },
    Room {
        place: "src/text/chat/clock.rs",
        reason: "the system's local time",
    },
];

/// What a file has of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    blocks: usize,
    implementations: usize,
    functions: usize,
}

impl Count {
    fn total(self) -> usize {
        self.blocks + self.implementations + self.functions
    }

    fn plus(self, other: Count) -> Count {
        Count {
            blocks: self.blocks + other.blocks,
            implementations: self.implementations + other.implementations,
            functions: self.functions + other.functions,
        }
    }

    fn cells(self) -> String {
        let Count {
            blocks,
            implementations,
            functions,
        } = self;
        format!("{blocks} | {implementations} | {functions}")
    }
}

pub fn command(args: &[String]) -> Result<()> {
    match args {
        [] => {
            fs::write(root().join(DOCUMENT), document()?)
                .with_context(|| format!("writing {DOCUMENT}"))?;
            eprintln!("unsafe: wrote {DOCUMENT}");
            Ok(())
        }
        [flag] if flag == "--check" => check(),
        _ => bail!("usage: cargo xtask unsafe [--check]"),
    }
}

/// Fails when the committed document is not what the source gives.
pub fn check() -> Result<()> {
    let committed = fs::read_to_string(root().join(DOCUMENT)).unwrap_or_default();
    ensure!(
        committed == document()?,
        "{DOCUMENT} is not what the source gives: run `cargo xtask unsafe` and commit the result"
    );
    Ok(())
}

fn document() -> Result<String> {
    let files = counted(&root().join(SOURCE))?;
    if let Some((file, _)) = files.iter().find(|(file, _)| room_of(file).is_none()) {
        bail!(
            "{file} has unsafe code, but is in none of the rooms for it; move the code, or add a \
             room to xtask/src/unsafe_code.rs and docs/architecture.md"
        );
    }
    let mut text = INTRODUCTION.to_owned();
    let mut all = Count::default();
    text.push_str(
        "\n| room | blocks | implementations | functions | why |\n|---|---|---|---|---|\n",
    );
    for room in ROOMS {
        let count = total(files.iter().filter(|(file, _)| is_in(file, room)));
        ensure!(
            count.total() > 0,
            "{} has no unsafe code any more; take it out of xtask/src/unsafe_code.rs",
            room.place
        );
        all = all.plus(count);
        writeln!(
            text,
            "| {} | {} | {} |",
            room.place,
            count.cells(),
            room.reason
        )?;
    }
    writeln!(text, "| all | {} | |", all.cells())?;
    text.push_str("\n| file | blocks | implementations | functions |\n|---|---|---|---|\n");
    for (file, count) in &files {
        writeln!(text, "| {file} | {} |", count.cells())?;
    }
    Ok(text)
}

fn total<'a>(files: impl Iterator<Item = &'a (String, Count)>) -> Count {
    files.fold(Count::default(), |sum, (_, count)| sum.plus(*count))
}

fn room_of(file: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| is_in(file, room))
}

fn is_in(file: &str, room: &Room) -> bool {
    file == room.place || room.place.ends_with('/') && file.starts_with(room.place)
}

/// The files with unsafe code, by name.
fn counted(folder: &Path) -> Result<Vec<(String, Count)>> {
    let mut counted = Vec::new();
    for file in files_below(folder, "rs")? {
        let source = fs::read_to_string(&file)?;
        let count = count(&source);
        if count.total() > 0 {
            let name = file.strip_prefix(root())?;
            counted.push((name.display().to_string(), count));
        }
    }
    Ok(counted)
}

/// Attributes such as `unsafe(no_mangle)` and declarations of foreign functions are
/// no code.
fn count(source: &str) -> Count {
    let mut count = Count::default();
    for line in source.lines() {
        let code = line.split("//").next().unwrap_or_default();
        for (position, _) in code.match_indices("unsafe ") {
            let is_word = !code[..position].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let after = &code[position + "unsafe ".len()..];
            if !is_word {
                continue;
            }
            if after.starts_with('{') {
                count.blocks += 1;
            } else if after.starts_with("impl") {
                count.implementations += 1;
            } else if ["fn ", "trait ", "extern \"C\" fn "]
                .iter()
                .any(|start| after.starts_with(start))
            {
                count.functions += 1;
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_implementations_and_functions_are_told_apart() {
        let source = "\
#[unsafe(no_mangle)]
pub unsafe extern \"C\" fn umrt_f() { unsafe { g() } } // unsafe {
unsafe impl Send for A {}
unsafe extern \"C\" {
    fn declared();
}
fn is_unsafe { let x = unsafe { a() } + unsafe { b() }; }
";
        let expected = Count {
            blocks: 3,
            implementations: 1,
            functions: 1,
        };
        assert_eq!(count(source), expected);
    }

    #[test]
    fn rooms_are_files_or_folders() {
        assert!(room_of("src/mlx/array.rs").is_some());
        assert!(room_of("src/checkpoint/mmap/pages.rs").is_some());
        assert!(room_of("src/checkpoint/header.rs").is_none());
        assert!(room_of("src/hosts.rs").is_none());
    }
}
