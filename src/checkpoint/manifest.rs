//! The two handles to a model directory: read, and mapped.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::chat_template::ChatTemplates;
use super::config::Config;
use super::directory::ModelDirectory;
use super::dtype::Dtype;
use super::file::{FileStamp, open_regular};
use super::foreign::{self, Foreign, Scheme};
use super::generation::GenerationDefaults;
use super::gguf::{Gguf, Vocabulary};
use super::header::{Header, LENGTH_BYTES, LIMIT_TENSORS};
use super::identity::{Hasher, Identity};
use super::mmap::{Advice, LoadMode, MappedFile};
use super::quantization::Quantization;
use super::tensors::{TensorInfo, TensorTable};
use crate::error::{Error, Result, ResultExt};

/// One safetensors or GGUF file.
#[derive(Clone, Debug)]
pub struct WeightFile {
    pub path: PathBuf,
    /// As it was when its header was read.
    pub stamp: FileStamp,
    /// Where the data starts.
    pub header_bytes: usize,
    /// The strings under `__metadata__` of a safetensors file.
    pub metadata: BTreeMap<String, String>,
}

impl WeightFile {
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// All that is known about a checkpoint without touching its weights.
#[derive(Clone, Debug)]
pub struct Manifest {
    directory: ModelDirectory,
    config: Config,
    generation: GenerationDefaults,
    quantization: Quantization,
    files: Vec<WeightFile>,
    tensors: TensorTable,
    /// Tensors that are in none of the files.
    foreign: Foreign,
    identity: Identity,
    embedded: Option<EmbeddedText>,
}

/// What a GGUF file says about texts.
#[derive(Clone, Debug)]
struct EmbeddedText {
    /// Of the tokenizer, if there is one.
    vocabulary_bytes: Option<usize>,
    chat_template: Option<String>,
}

impl Manifest {
    fn read(path: &Path) -> Result<Manifest> {
        let directory = ModelDirectory::find(path)?;
        match directory.is_gguf() {
            true => Manifest::of_gguf(directory),
            false => Manifest::of_safetensors(directory),
        }
    }

    fn of_gguf(directory: ModelDirectory) -> Result<Manifest> {
        let path = &directory.weights()[0];
        let map = MappedFile::open(path)?;
        let mut hasher = Hasher::new();
        let mut gguf = Gguf::read(map.as_slice()).at(path.display())?;
        gguf.identify(&mut hasher);
        let weight_file = |map: &MappedFile, header: &Gguf<'_>| WeightFile {
            path: map.path().to_owned(),
            stamp: map.stamp(),
            header_bytes: header.data_start,
            metadata: BTreeMap::new(),
        };
        let mut files = vec![weight_file(&map, &gguf)];
        for (number, path) in directory.weights().iter().enumerate().skip(1) {
            let map = MappedFile::open(path)?;
            let part = Gguf::read(map.as_slice()).at(path.display())?;
            part.identify(&mut hasher);
            files.push(weight_file(&map, &part));
            gguf.absorb(part, number).at(path.display())?;
        }
        let config = gguf.config(&files[0].name()).at(path.display())?;
        let vocabulary = gguf.vocabulary();
        let tensors = gguf.named_tensors().at(path.display())?;
        let tensors = TensorTable::new(tensors).map_err(|twice| {
            Error::format(format!("tensor {:?} comes twice", twice.0.name)).context(path.display())
        })?;
        Ok(Manifest {
            generation: GenerationDefaults::new(None, &config)?,
            quantization: Quantization::default(),
            identity: hasher.finish(),
            embedded: Some(EmbeddedText {
                vocabulary_bytes: vocabulary.is_there().then(|| vocabulary.bytes()),
                chat_template: vocabulary
                    .chat_template()
                    .at(path.display())?
                    .map(str::to_owned),
            }),
            files,
            foreign: Foreign::default(),
            directory,
            config,
            tensors,
        })
    }

    fn of_safetensors(directory: ModelDirectory) -> Result<Manifest> {
        let config_bytes = Config::read_bytes(&directory.config())?;
        let config = Config::parse(&config_bytes, "config.json")?;
        let generation = match directory.generation_config() {
            Some(path) => Some(Config::read(&path)?),
            None => None,
        };
        let mut hasher = Hasher::new();
        hasher.field(&config_bytes);
        let (files, tensors) = read_headers(directory.weights(), &mut hasher)?;
        if let Some(index) = &directory.index {
            check_index(index, &directory, &tensors)?;
        }
        let scheme = Scheme::from_config(&config)?;
        let quantization = match scheme {
            None => Quantization::from_config(&config)?,
            Some(_) => Quantization::default(),
        };
        let manifest = Manifest {
            identity: hasher.finish(),
            embedded: None,
            generation: GenerationDefaults::new(generation.as_ref(), &config)?,
            quantization,
            foreign: Foreign::default(),
            directory,
            config,
            files,
            tensors,
        };
        match scheme {
            None => Ok(manifest),
            Some(scheme) => manifest.translated(scheme),
        }
    }

    /// The same without blocks of GGUF files: MLX's codes or floats instead, which
    /// will be made when the files are mapped.
    pub fn without_blocks(self) -> Result<Manifest> {
        match self.tensors().iter().any(|tensor| tensor.blocks.is_some()) {
            true => self.translated(Scheme::Blocks),
            false => Ok(self),
        }
    }

    fn translated(self, scheme: Scheme) -> Result<Manifest> {
        let found = foreign::translate(scheme, &self.tensors, self.files.len())?;
        let tensors = TensorTable::new(found.tensors).map_err(|twice| {
            let name = &twice.0.name;
            Error::format(format!("tensor {name:?} is stored in two ways"))
        })?;
        Ok(Manifest {
            tensors,
            quantization: found.quantization,
            foreign: found.foreign,
            ..self
        })
    }

    /// Maps the files, provided they are still those whose headers were read.
    pub fn map(self) -> Result<Checkpoint> {
        self.load(LoadMode::Map, &mut |_, _| Ok(()))
    }

    /// Maps the files or reads them, provided they are still those whose headers
    /// were read. `progress(done, total)` is called with bytes while they are read,
    /// and may stop it.
    pub fn load(
        self,
        mode: LoadMode,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Checkpoint> {
        let total = self
            .files
            .iter()
            .map(|file| file.stamp.bytes as usize)
            .sum();
        let mut maps = Vec::with_capacity(self.files.len());
        let mut done = 0;
        for file in &self.files {
            let mut in_this_file = |bytes| progress(done + bytes, total);
            let mapped = match mode {
                LoadMode::Map => MappedFile::open(&file.path)?,
                LoadMode::Read => MappedFile::read(&file.path, false, &mut in_this_file)?,
                LoadMode::Direct => MappedFile::read(&file.path, true, &mut in_this_file)?,
            };
            if mapped.stamp() != file.stamp {
                return Err(Error::format(format!(
                    "{} changed while the model was being opened",
                    file.path.display()
                )));
            }
            done += mapped.len();
            maps.push(mapped);
        }
        if let Some(made) = self.foreign.make(&maps)? {
            // What it was made of is not needed any more.
            maps.iter().try_for_each(|map| map.release(false))?;
            maps.push(made);
        }
        Ok(Checkpoint {
            manifest: self,
            maps,
        })
    }

    pub fn directory(&self) -> &ModelDirectory {
        &self.directory
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn generation(&self) -> &GenerationDefaults {
        &self.generation
    }

    /// Those in a GGUF file come before those beside it.
    pub fn chat_templates(&self) -> Result<ChatTemplates> {
        let embedded = self.embedded.as_ref();
        match embedded.and_then(|text| text.chat_template.clone()) {
            Some(source) => Ok(ChatTemplates::single(source)),
            None => self.directory.chat_templates(),
        }
    }

    /// Bytes of the vocabulary in a GGUF file, if it has one.
    pub fn embedded_vocabulary_bytes(&self) -> Option<usize> {
        self.embedded.as_ref()?.vocabulary_bytes
    }

    pub fn quantization(&self) -> &Quantization {
        &self.quantization
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// By file and offset, the order in which to read them from disk.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.tensors.as_slice()
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Whether the tensor is in no file, but made in private memory when the files
    /// are mapped.
    pub fn is_made(&self, tensor: &TensorInfo) -> bool {
        tensor.file >= self.files.len()
    }

    /// Bytes of the memory of all such tensors, in whole pages.
    pub fn made_bytes(&self) -> usize {
        self.foreign.bytes()
    }

    /// Bytes in the files of the tensors that others are made of.
    pub fn foreign_bytes(&self) -> usize {
        self.foreign.source_bytes
    }

    /// The tensor, or an error that says where it was looked for and what there
    /// is instead.
    pub fn required(&self, name: &str) -> Result<&TensorInfo> {
        self.tensor(name).ok_or_else(|| {
            let hint = match self.tensors.near_miss(name) {
                Some(near) => format!("; there is {near:?}, did you mean that?"),
                None => String::new(),
            };
            Error::format(format!(
                "no tensor {name:?} in {}{hint}",
                self.files_looked_at()
            ))
        })
    }

    /// `Format` if the weight of `module` can only be one of codes, which it has no scales for.
    pub fn ensure_not_packed(&self, module: &str) -> Result<()> {
        let name = format!("{module}.weight");
        let is_packed = |tensor: &TensorInfo| tensor.dtype == Dtype::U32;
        let is_quantized = self.quantization.default.is_some();
        match is_quantized && self.tensor(&name).is_some_and(is_packed) {
            true => Err(Error::format(format!(
                "tensor {name} is packed, but there is no {module}.scales to unpack it with, or \
                 config.json says that {module} is not quantized"
            ))),
            false => Ok(()),
        }
    }

    /// The sum over all tensors.
    pub fn tensor_bytes_total(&self) -> usize {
        self.tensors().iter().map(|tensor| tensor.bytes).sum()
    }

    fn files_looked_at(&self) -> String {
        let root = self.directory.root().display();
        match self.files.as_slice() {
            [] => format!("{root}"),
            [file] => format!("{}", file.path.display()),
            [first, .., last] => format!(
                "the {} files {} to {} of {root}",
                self.files.len(),
                first.name(),
                last.name()
            ),
        }
    }
}

fn read_headers(paths: &[PathBuf], hasher: &mut Hasher) -> Result<(Vec<WeightFile>, TensorTable)> {
    let mut files = Vec::with_capacity(paths.len());
    let mut tensors = Vec::new();
    for path in paths {
        let (file, stamp) = open_regular(path)?;
        let header = Header::read(&file, stamp.bytes, files.len()).at(path.display())?;
        hasher.field(&header.bytes);
        hasher.number(stamp.bytes);
        tensors.extend(header.tensors);
        if tensors.len() > LIMIT_TENSORS {
            return Err(Error::format(format!(
                "the checkpoint has more than {LIMIT_TENSORS} tensors"
            )));
        }
        files.push(WeightFile {
            path: path.clone(),
            stamp,
            header_bytes: LENGTH_BYTES + header.bytes.len(),
            metadata: header.metadata,
        });
    }
    let table = TensorTable::new(tensors).map_err(|twice| {
        let (first, second) = *twice;
        Error::format(format!(
            "tensor {:?} is both in {} and in {}",
            first.name,
            files[first.file].name(),
            files[second.file].name()
        ))
    })?;
    Ok((files, table))
}

/// Each tensor in the index has to be where the index says.
fn check_index(
    index: &BTreeMap<String, String>,
    directory: &ModelDirectory,
    tensors: &TensorTable,
) -> Result<()> {
    for (name, file) in index {
        let expected = directory.root().join(file);
        let found = tensors
            .get(name)
            .map(|tensor| &directory.weights()[tensor.file]);
        if found != Some(&expected) {
            return Err(Error::format(format!(
                "model.safetensors.index.json: tensor {name:?} should be in {file}, but is not"
            )));
        }
    }
    Ok(())
}

/// A checkpoint whose weights are mapped. Mapping costs nothing until a tensor
/// is read.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    manifest: Manifest,
    maps: Vec<MappedFile>,
}

impl Checkpoint {
    /// Reads and validates everything but the weights.
    pub fn inspect(path: &Path) -> Result<Manifest> {
        Manifest::read(path)
    }

    pub fn open(path: &Path) -> Result<Checkpoint> {
        Manifest::read(path)?.map()
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// One per file, in the order of [`Manifest::files`], and perhaps one of tensors
    /// that were made.
    pub fn maps(&self) -> &[MappedFile] {
        &self.maps
    }

    /// # Panics
    /// If `tensor` is not from this checkpoint and doesn't fit into it.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.maps[tensor.file].as_slice()[tensor.range()]
    }

    /// The tokenizer in a GGUF file, as a `tokenizer.json`.
    pub fn embedded_tokenizer(&self) -> Result<Vec<u8>> {
        self.with_vocabulary(|vocabulary| vocabulary.tokenizer_json())
    }

    /// What belongs to it, as a `tokenizer_config.json`.
    pub fn embedded_tokenizer_config(&self) -> Result<String> {
        self.with_vocabulary(|vocabulary| vocabulary.config_json())
    }

    fn with_vocabulary<T>(&self, read: impl FnOnce(Vocabulary<'_>) -> Result<T>) -> Result<T> {
        let path = self.files()[0].path.display();
        let gguf = Gguf::read(self.maps[0].as_slice()).at(&path)?;
        read(gguf.vocabulary()).at(path)
    }

    /// Whether any weight file was replaced or modified since it was opened.
    pub fn changed_on_disk(&self) -> bool {
        self.maps.iter().any(MappedFile::changed_on_disk)
    }

    /// See [`MappedFile::ensure_unaltered`].
    pub fn ensure_unaltered(&self) -> Result<()> {
        self.maps.iter().try_for_each(MappedFile::ensure_unaltered)
    }

    /// Bytes of the files that were read into private memory, and of tensors that
    /// were made.
    pub fn private_bytes(&self) -> usize {
        let private = self.maps.iter().filter(|map| map.is_private());
        private.map(MappedFile::padded_len).sum()
    }

    /// How many bytes of the mapped weight files are in memory now.
    pub fn residency(&self) -> Result<usize> {
        let mapped = self.maps.iter().filter(|map| !map.is_private());
        mapped.map(MappedFile::residency).sum()
    }

    pub fn advise(&self, advice: Advice) -> Result<()> {
        self.maps.iter().try_for_each(|map| map.advise(advice))
    }
}

impl Deref for Checkpoint {
    type Target = Manifest;

    fn deref(&self) -> &Manifest {
        &self.manifest
    }
}
