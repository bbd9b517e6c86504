//! Models to measure, made once and kept in the cache: random checkpoints of
//! real shapes, and the same weights as GGUF.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::peers::tool;
use super::shape::{Format, Shape};
use super::system::free_bytes;
use crate::cache::{Cache, Key};
use crate::util::run;

const SCRIPTS: [&str; 2] = [
    include_str!("../../../tools/bench/tensor_file.py"),
    include_str!("../../../tools/bench/random_checkpoint.py"),
];
const WALK: &str = include_str!("../../../tools/bench/walk_checkpoint.py");
const TO_GGUF: &str = include_str!("../../../tools/bench/to_gguf.py");

const WEIGHTS: &str = "model.safetensors";
const GGUF: &str = "model.gguf";

/// What is to be left on the disk.
const RESERVE_BYTES: u64 = 2 << 30;

/// How a GGUF keeps a checkpoint's values.
#[derive(Clone, Copy, PartialEq)]
pub enum Gguf {
    /// 4 bits around zero.
    Q4_0,
    /// 4 bits above a minimum.
    Q4_1,
    Bfloat16,
    Float16,
}

impl Gguf {
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Bfloat16 => "BF16",
            Self::Float16 => "F16",
        }
    }
}

/// A checkpoint's folder, and what tells its content from others'.
pub struct Checkpoint {
    pub folder: PathBuf,
    identity: Key,
}

impl Checkpoint {
    /// Random weights, made if they are not there yet.
    pub fn random(python: &Path, shape: &Shape, name: &str, format: Format) -> Result<Self> {
        Self::made(
            python,
            (shape, format),
            name,
            ("random_checkpoint.py", None),
        )
    }

    /// Weights whose text is a walk in a circle, in 4 bits.
    pub fn walk(python: &Path, shape: &Shape, name: &str) -> Result<Self> {
        let script = ("walk_checkpoint.py", Some(WALK));
        Self::made(python, (shape, Format::FourBit), name, script)
    }

    /// By a script, which is part of the identity unless it is one of `SCRIPTS`.
    fn made(
        python: &Path,
        (shape, format): (&Shape, Format),
        name: &str,
        (script, text): (&str, Option<&str>),
    ) -> Result<Self> {
        let config = serde_json::to_string_pretty(&shape.config(format))?;
        let identity = SCRIPTS
            .into_iter()
            .chain(text)
            .fold(Key::default().text(&config), |key, script| key.text(script));
        let entry = format!("bench-{name}");
        let folder = Cache::open()?.entry(&entry, identity.clone(), |dir| {
            eprintln!("bench: making {name}");
            require_room(dir, shape.weight_bytes(format))?;
            fs::write(dir.join("config.json"), &config)?;
            run(Command::new(python).arg(tool(script)).arg(dir))
        })?;
        Ok(Self { folder, identity })
    }

    pub fn existing(folder: PathBuf) -> Result<Self> {
        let identity = Key::default()
            .file(&folder.join("config.json"))?
            .file(&folder.join(WEIGHTS))?;
        Ok(Self { folder, identity })
    }

    /// The same weights for llama.cpp.
    pub fn gguf(&self, python: &Path, model: &str, gguf: Gguf) -> Result<PathBuf> {
        let key = self.identity.clone().text(TO_GGUF).text(SCRIPTS[0]);
        let entry = format!("bench-{model}-gguf-{}", gguf.name().to_lowercase());
        let folder = Cache::open()?.entry(&entry, key, |dir| {
            eprintln!("bench: converting {model} to GGUF, {}", gguf.name());
            require_room(dir, fs::metadata(self.folder.join(WEIGHTS))?.len())?;
            run(Command::new(python)
                .arg(tool("to_gguf.py"))
                .arg(&self.folder)
                .arg(dir.join(GGUF))
                .arg(gguf.name()))
        })?;
        Ok(folder.join(GGUF))
    }
}

fn require_room(folder: &Path, n_bytes: u64) -> Result<()> {
    let free = free_bytes(folder)?;
    if free < n_bytes + RESERVE_BYTES {
        bail!(
            "a model of {:.1} GB takes more room than there is ({:.1} GB free): make room or set \
             UMRT_CACHE to a folder on another disk",
            n_bytes as f64 / 1e9,
            free as f64 / 1e9
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_does_not_fit_on_the_disk_is_refused_with_the_way_out() {
        let message = require_room(Path::new("."), 1 << 60)
            .unwrap_err()
            .to_string();
        assert!(message.contains("UMRT_CACHE"), "{message}");
        assert!(require_room(Path::new("."), 0).is_ok());
    }
}
