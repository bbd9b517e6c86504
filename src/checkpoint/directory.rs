//! Which files in a directory make up a model.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::file::read_bounded;
use super::json;
use crate::error::{Error, Result, ResultExt};

const INDEX: &str = "model.safetensors.index.json";
const LIMIT_INDEX_BYTES: u64 = 100_000_000;
const LIMIT_FILES: usize = 4096;

/// A directory with a `config.json` and safetensors weights, laid out as on the
/// Hugging Face hub, or a GGUF file in any directory. Symbolic links are followed,
/// as in the hub's cache.
#[derive(Clone, Debug)]
pub struct ModelDirectory {
    root: PathBuf,
    weights: Vec<PathBuf>,
    /// The first file of `weights` is a GGUF file that has all settings too, and the
    /// others are further parts of it.
    is_gguf: bool,
    /// The index's file name for each tensor, where there is an index.
    pub(super) index: Option<BTreeMap<String, String>>,
}

impl ModelDirectory {
    /// `path` is the directory, or its `config.json`, its index or one of its
    /// safetensors files; or a GGUF file, or a directory with only one such model.
    pub fn find(path: &Path) -> Result<ModelDirectory> {
        // The process may change its directory while the model is open.
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| Error::io("open", path, &error))
        };
        if has_extension(path, "gguf") && path.is_file() {
            return ModelDirectory::of_gguf(absolute(path)?);
        }
        let root = absolute(&root_of(path)?)?;
        let has_config = root.join("config.json").exists();
        if !(has_config && has_safetensors(&root)?) {
            match only_gguf(&root)? {
                Some(file) => return ModelDirectory::of_gguf(file),
                None if has_config => {}
                None => return Err(no_config(&root)),
            }
        }
        let index = if root.join("model.safetensors").exists() {
            None
        } else {
            read_index(&root)?
        };
        let weights = match &index {
            Some(map) => shards(&root, map).at(INDEX)?,
            None => unindexed(&root)?,
        };
        Ok(ModelDirectory {
            root,
            weights,
            is_gguf: false,
            index,
        })
    }

    /// The file, and if it is a part of a model all others.
    fn of_gguf(file: PathBuf) -> Result<ModelDirectory> {
        let root = file.parent().unwrap_or(Path::new("/")).to_owned();
        let weights = match gguf_part(&file) {
            Some((name, _, count)) => gguf_parts(&root, name, count)?,
            None => vec![file],
        };
        Ok(ModelDirectory {
            root,
            weights,
            is_gguf: true,
            index: None,
        })
    }

    /// Whether it is a GGUF file, perhaps in parts.
    pub fn is_gguf(&self) -> bool {
        self.is_gguf
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn config(&self) -> PathBuf {
        self.root.join("config.json")
    }

    /// The files of weights, in the order in which their tensors are numbered.
    pub fn weights(&self) -> &[PathBuf] {
        &self.weights
    }

    pub fn tokenizer(&self) -> Option<PathBuf> {
        self.optional("tokenizer.json")
    }

    /// SentencePiece's or tiktoken's, which other directories have instead.
    pub fn vocabulary(&self) -> Option<PathBuf> {
        let named = ["tokenizer.model", "tiktoken.model"];
        let mut named = named.into_iter().filter_map(|name| self.optional(name));
        let by_extension = || {
            let mut files = list(&self.root).ok()?.into_iter();
            files.find(|path| has_extension(path, "tiktoken"))
        };
        named.next().or_else(by_extension)
    }

    pub fn tokenizer_config(&self) -> Option<PathBuf> {
        self.optional("tokenizer_config.json")
    }

    pub fn generation_config(&self) -> Option<PathBuf> {
        self.optional("generation_config.json")
    }

    pub fn chat_template_jinja(&self) -> Option<PathBuf> {
        self.optional("chat_template.jinja")
    }

    pub fn chat_template_json(&self) -> Option<PathBuf> {
        self.optional("chat_template.json")
    }

    fn optional(&self, name: &str) -> Option<PathBuf> {
        let path = self.root.join(name);
        path.exists().then_some(path)
    }
}

fn root_of(path: &Path) -> Result<PathBuf> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io("open", path, &error))?;
    if metadata.is_dir() {
        return Ok(path.to_owned());
    }
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if name == "config.json" || name == INDEX || has_extension(path, "safetensors") {
        // The directory of the link, not of the file that it leads to: the hub's
        // cache keeps the content of all files under other names elsewhere.
        let parent = path.parent().unwrap_or(Path::new(""));
        let here = parent.as_os_str().is_empty();
        return Ok(if here {
            PathBuf::from(".")
        } else {
            parent.to_owned()
        });
    }
    match other_format(path) {
        Some(reason) => Err(Error::unsupported(format!("{} {reason}", path.display()))),
        None => Err(Error::invalid(format!(
            "{} is not a model directory, nor a config.json or safetensors file in one",
            path.display()
        ))),
    }
}

fn has_safetensors(root: &Path) -> Result<bool> {
    let is_one = |path: &PathBuf| has_extension(path, "safetensors");
    Ok(root.join(INDEX).exists() || list(root)?.iter().any(is_one))
}

/// The GGUF file in a directory that has no other.
fn only_gguf(root: &Path) -> Result<Option<PathBuf>> {
    let mut files = list(root)?;
    files.retain(|path| {
        let is_further_part = gguf_part(path).is_some_and(|(_, number, _)| number > 1);
        has_extension(path, "gguf") && !is_further_part
    });
    match files.len() {
        0 | 1 => Ok(files.pop()),
        count => Err(Error::invalid(format!(
            "{} has {count} GGUF files; pass one of them",
            root.display()
        ))),
    }
}

/// Of a file that is called `NAME-00002-of-00003.gguf`: name, number and count.
fn gguf_part(path: &Path) -> Option<(&str, usize, usize)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (before, count) = stem.rsplit_once("-of-")?;
    let (name, number) = before.rsplit_once('-')?;
    let parsed = |digits: &str| match digits.len() {
        5 => digits.parse::<usize>().ok(),
        _ => None,
    };
    let (number, count) = (parsed(number)?, parsed(count)?);
    (1..=count.min(LIMIT_FILES))
        .contains(&number)
        .then_some((name, number, count))
}

fn gguf_parts(root: &Path, name: &str, count: usize) -> Result<Vec<PathBuf>> {
    let part = |number: usize| {
        let path = root.join(format!("{name}-{number:05}-of-{count:05}.gguf"));
        match path.exists() {
            true => Ok(path),
            false => Err(Error::not_found(format!(
                "{} is missing, a part of the model",
                path.display()
            ))),
        }
    };
    (1..=count).map(part).collect()
}

fn no_config(root: &Path) -> Error {
    let hint = match root.join("snapshots").is_dir() {
        true => "; it is a Hugging Face cache, pass one of the directories in its `snapshots`",
        false => "",
    };
    Error::not_found(format!(
        "{} is not a model directory: it has no config.json{hint}",
        root.display()
    ))
}

/// Why a file of weights in another format cannot be read.
fn other_format(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "gguf" => Some("is a GGUF file, which is opened by its own path"),
        "bin" | "pt" | "pth" => Some(
            "is a PyTorch checkpoint, which is not read because it may contain code; \
             convert to safetensors",
        ),
        "npz" => Some("is a NumPy archive, which cannot be read; convert to safetensors"),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_index(root: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let path = root.join(INDEX);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_bounded(&path, LIMIT_INDEX_BYTES)?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| Error::format(json::clip(&format!("is malformed: {error}"))))
        .at(INDEX)?;
    if index.weight_map.is_empty() {
        return Err(Error::format("names no files").context(INDEX));
    }
    Ok(Some(index.weight_map))
}

fn shards(root: &Path, weight_map: &BTreeMap<String, String>) -> Result<Vec<PathBuf>> {
    let names: BTreeSet<&String> = weight_map.values().collect();
    if names.len() > LIMIT_FILES {
        let count = names.len();
        return Err(Error::format(format!(
            "names {count} files; the limit is {LIMIT_FILES}"
        )));
    }
    names
        .into_iter()
        .map(|name| {
            if !stays_inside(name) {
                return Err(Error::format(format!(
                    "names {:?}, which is not a file inside of the directory",
                    json::clip(name)
                )));
            }
            let path = root.join(name);
            if path.exists() {
                return Ok(path);
            }
            Err(Error::not_found(format!(
                "names {name}, which is missing from {}; is the download complete?",
                root.display()
            )))
        })
        .collect()
}

fn stays_inside(name: &str) -> bool {
    let mut components = Path::new(name).components().peekable();
    components.peek().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
        && !name.contains(['\0', '\\'])
}

/// Without an index: `model*.safetensors`, else all safetensors files but those
/// of adapters.
fn unindexed(root: &Path) -> Result<Vec<PathBuf>> {
    let single = root.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let starts_with = |path: &PathBuf, prefix: &str| {
        let name = path.file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(prefix.as_bytes())
    };
    let listed = list(root)?;
    let mut weights: Vec<PathBuf> = listed
        .iter()
        .filter(|path| has_extension(path, "safetensors") && !starts_with(path, "adapter"))
        .cloned()
        .collect();
    if weights.iter().any(|path| starts_with(path, "model")) {
        weights.retain(|path| starts_with(path, "model"));
    }
    match weights.len() {
        0 => Err(no_weights(root, &listed)),
        1..=LIMIT_FILES => Ok(weights),
        count => Err(Error::format(format!(
            "{} has {count} safetensors files; the limit is {LIMIT_FILES}",
            root.display()
        ))),
    }
}

fn no_weights(root: &Path, listed: &[PathBuf]) -> Error {
    let other = listed.iter().find_map(|path| {
        let weights = !path.ends_with("training_args.bin");
        other_format(path)
            .filter(|_| weights)
            .map(|reason| (path, reason))
    });
    match other {
        Some((path, reason)) => Error::unsupported(format!(
            "{} has no safetensors files; {} {reason}",
            root.display(),
            path.file_name().unwrap_or_default().to_string_lossy()
        )),
        None => Error::not_found(format!("{} has no safetensors files", root.display())),
    }
}

/// The entries of `root` by name, without directories and hidden files. A broken
/// link is listed, for opening it says what is wrong.
fn list(root: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: std::io::Error| Error::io("list", root, &error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let path = entry.path();
        if !hidden && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension()
        .is_some_and(|found| found.eq_ignore_ascii_case(extension))
}
