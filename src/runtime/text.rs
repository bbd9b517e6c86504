//! [`ModelText`]: a checkpoint's tokenizer, chat template and vocabulary for
//! constraints, read when they are first asked for, since large vocabularies take
//! longer to read than to map all weights.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::admission;
use crate::checkpoint::{
    ChatTemplates, Checkpoint, PieceSettings, RankedTokens, SentencePieces, read_bounded,
};
use crate::error::{Error, Result, ResultExt, Status};
use crate::grammar::{Constraint, ConstraintKind, Vocabulary};
use crate::memory::{Category, Entry};
use crate::text::{ChatTemplate, NamedTemplate, SpecialToken, Tokenizer, TokenizerConfig};

/// Published ones take up to 35 MB.
const LIMIT_TOKENIZER_BYTES: u64 = 256 << 20;
const LIMIT_CONFIG_BYTES: u64 = 64 << 20;

/// The text side of a model.
pub struct ModelText {
    root: PathBuf,
    /// The first that this version can read counts.
    sources: Vec<TokenizerSource>,
    config_file: Option<PathBuf>,
    model_type: String,
    templates: ChatTemplates,
    /// Of the model; its tokenizer may know fewer.
    vocab_size: usize,
    /// Any of these ends a text, as the model's configuration says.
    configured_ends: Vec<i32>,
    tokenizer: ReadOnce<Arc<Tokenizer>>,
    chat: ReadOnce<ChatTemplate>,
    /// Has its own entry in the ledger, since constraints hold it, too.
    vocabulary: ReadOnce<Arc<Vocabulary>>,
}

/// Where a tokenizer is.
pub(super) enum TokenizerSource {
    File(PathBuf),
    /// A vocabulary of SentencePiece or tiktoken.
    Vocabulary(PathBuf),
    /// In the weights' file.
    Embedded(Arc<Checkpoint>),
}

/// What is read when it is first asked for, with its bytes in the ledger.
struct ReadOnce<T> {
    read: OnceLock<Result<(T, Entry)>>,
    reading: Mutex<()>,
}

impl<T> Default for ReadOnce<T> {
    fn default() -> Self {
        Self {
            read: OnceLock::new(),
            reading: Mutex::default(),
        }
    }
}

impl<T> ReadOnce<T> {
    /// What was read before, or what `read` gives now with its bytes.
    fn get_or_read(&self, read: impl FnOnce() -> Result<(T, usize)>) -> Result<&T> {
        let outcome = match self.read.get() {
            Some(outcome) => outcome,
            None => self.read_now(read)?,
        };
        let value = outcome.as_ref().map(|(value, _)| value);
        value.map_err(Clone::clone)
    }

    fn read_now(&self, read: impl FnOnce() -> Result<(T, usize)>) -> Result<&Result<(T, Entry)>> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = self.read.get() {
            return Ok(outcome);
        }
        match read() {
            // That passes, so it is not remembered as what there is.
            Err(error) if error.status() == Status::OutOfMemory => Err(error),
            outcome => Ok(self.read.get_or_init(|| {
                outcome.map(|(value, bytes)| (value, Entry::new(Category::Text, bytes)))
            })),
        }
    }

    fn bytes(&self) -> usize {
        let read = self.read.get().and_then(|read| read.as_ref().ok());
        read.map_or(0, |(_, entry)| entry.bytes())
    }

    /// What was read before, if it could be.
    fn value(&self) -> Option<&T> {
        let read = self.read.get().and_then(|read| read.as_ref().ok());
        read.map(|(value, _)| value)
    }
}

impl ModelText {
    pub(super) fn new(checkpoint: &Arc<Checkpoint>, vocab_size: usize) -> Result<ModelText> {
        let directory = checkpoint.directory();
        let ends = &checkpoint.generation().eos_token_ids;
        let embedded = checkpoint.embedded_vocabulary_bytes();
        let embedded = embedded.map(|_| TokenizerSource::Embedded(checkpoint.clone()));
        let file = directory.tokenizer().map(TokenizerSource::File);
        let vocabulary = directory.vocabulary().map(TokenizerSource::Vocabulary);
        Ok(ModelText {
            root: directory.root().to_owned(),
            sources: embedded.into_iter().chain(file.or(vocabulary)).collect(),
            config_file: directory.tokenizer_config(),
            model_type: checkpoint.config().str("model_type")?.to_owned(),
            templates: checkpoint.chat_templates()?,
            vocab_size,
            configured_ends: ends
                .iter()
                .filter_map(|&id| i32::try_from(id).ok())
                .collect(),
            tokenizer: ReadOnce::default(),
            chat: ReadOnce::default(),
            vocabulary: ReadOnce::default(),
        })
    }

    /// The tokenizer; `NotFound` if the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        self.tokenizer.get_or_read(|| {
            if let Some(source) = self.sources.first() {
                admission::probe_tokenizer(source)?;
            }
            let tokenizer = self.read_tokenizer()?;
            let bytes = tokenizer.estimated_bytes();
            Ok((Arc::new(tokenizer.padded_to(self.vocab_size)), bytes))
        })
    }

    fn read_tokenizer(&self) -> Result<Tokenizer> {
        let mut refusal = Error::not_found(format!(
            "{} has no tokenizer.json and no tokenizer.model; put the model's there, or work with \
             token ids",
            self.root.display()
        ));
        for source in &self.sources {
            let read = match source {
                TokenizerSource::File(file) => self.tokenizer_of(file),
                TokenizerSource::Vocabulary(file) => self.tokenizer_of_vocabulary(file),
                TokenizerSource::Embedded(checkpoint) => embedded_tokenizer(checkpoint),
            };
            match read {
                Err(error) if error.status() == Status::Unsupported => refusal = error,
                read => return read,
            }
        }
        Err(refusal)
    }

    fn tokenizer_of(&self, file: &Path) -> Result<Tokenizer> {
        let json = read_bounded(file, LIMIT_TOKENIZER_BYTES)?;
        Tokenizer::from_bytes(&json, &self.config()?).at(file.display())
    }

    fn tokenizer_of_vocabulary(&self, path: &Path) -> Result<Tokenizer> {
        let file = read_bounded(path, LIMIT_TOKENIZER_BYTES)?;
        let config = self.config()?;
        let tokenizer = match RankedTokens::is_list(&file) {
            true => tokenizer_of_ranks(&file, &self.model_type, config),
            false => tokenizer_of_pieces(&file, config),
        };
        tokenizer.at(path.display())
    }

    /// What the tokenizer and the template hold, estimated from their entries; 0
    /// for what was not read yet.
    pub fn bytes(&self) -> usize {
        let vocabulary = self.vocabulary.value().map_or(0, |one| one.bytes());
        self.tokenizer.bytes() + self.chat.bytes() + vocabulary
    }

    /// A conversation (JSON with "messages" and more) as the model's prompt.
    pub fn render_chat(&self, request: &str) -> Result<String> {
        let chat = self.chat.get_or_read(|| {
            // The source and the instructions made of it.
            let bytes = 2 * self.templates.iter().map(|t| t.source.len()).sum::<usize>();
            Ok((self.chat_template()?, bytes))
        });
        chat?.render(request)
    }

    /// Whether a token ends a text.
    pub fn is_end(&self, token: i32) -> bool {
        self.configured_ends.contains(&token)
            || self
                .tokenizer()
                .is_ok_and(|tokenizer| tokenizer.special_token(SpecialToken::Eos) == Some(token))
    }

    fn ends(&self) -> Result<Vec<i32>> {
        let of_tokenizer = self.tokenizer()?.special_token(SpecialToken::Eos);
        Ok({ self.configured_ends.iter().copied() }
            .chain(of_tokenizer)
            .collect())
    }

    /// What texts may be, for generations of this model.
    ///
    /// # Errors
    /// Those of [`Vocabulary::new`] and [`Constraint::new`], and those of the tokenizer.
    pub fn constraint(&self, kind: ConstraintKind, text: &str) -> Result<Constraint> {
        let vocabulary = self.vocabulary.get_or_read(|| {
            let vocabulary = Vocabulary::new(self.tokenizer()?, &self.ends()?)?;
            Ok((Arc::new(vocabulary), 0))
        });
        Constraint::new(vocabulary?, kind, text)
    }

    /// # Errors
    /// `InvalidArgument` if a constraint was made for another vocabulary than this one.
    pub(super) fn ensure_own(&self, is_for: impl Fn(&Arc<Vocabulary>) -> bool) -> Result<()> {
        let own = self.vocabulary.value();
        match own.is_some_and(is_for) {
            true => Ok(()),
            false => Err(Error::invalid(
                "the constraint was made for another model; make one for the model of this context",
            )),
        }
    }

    fn chat_template(&self) -> Result<ChatTemplate> {
        if self.templates.is_empty() {
            return Err(Error::not_found(format!(
                "{} has no chat template; give the prompt as text",
                self.root.display()
            )));
        }
        let config = self.config()?;
        let templates: Vec<_> = self
            .templates
            .iter()
            .map(|template| NamedTemplate {
                name: template.name.clone(),
                source: template.source.clone(),
            })
            .collect();
        let special_tokens: Vec<_> = SpecialToken::ALL
            .into_iter()
            .filter_map(|kind| Some((kind.key(), config.special_token(kind)?)))
            .collect();
        ChatTemplate::new(&templates, &special_tokens)
    }

    fn config(&self) -> Result<TokenizerConfig> {
        if let Some(TokenizerSource::Embedded(checkpoint)) = self.sources.first() {
            return embedded_config(checkpoint);
        }
        let Some(path) = &self.config_file else {
            return Ok(TokenizerConfig::default());
        };
        let json = read_bounded(path, LIMIT_CONFIG_BYTES)?;
        let json = std::str::from_utf8(&json)
            .map_err(|error| Error::format(format!("is not UTF-8: {error}")))
            .at(path.display())?;
        TokenizerConfig::from_json(json).at(path.display())
    }
}

fn tokenizer_of_ranks(file: &[u8], model_type: &str, config: TokenizerConfig) -> Result<Tokenizer> {
    if model_type != "llama" {
        return Err(Error::unsupported(format!(
            "is a list of ranks as tiktoken has them, without the rules by which {model_type} cuts \
             texts into words; this version has those of Llama 3, or reads a tokenizer.json beside \
             it"
        )));
    }
    let json = RankedTokens::read(file)?.llama3_json(&config.added_tokens)?;
    let config = config
        .or_token(SpecialToken::Bos, Some(RankedTokens::bos()))
        .or_token(SpecialToken::Eos, Some(RankedTokens::eos()));
    Tokenizer::from_bytes(&json, &config)
}

fn tokenizer_of_pieces(file: &[u8], config: TokenizerConfig) -> Result<Tokenizer> {
    let pieces = SentencePieces::read(file)?;
    let settings = PieceSettings {
        added_tokens: &config.added_tokens,
        is_legacy: config.is_legacy.unwrap_or(true),
    };
    let json = pieces.tokenizer_json(&settings)?;
    let config = config
        .or_token(SpecialToken::Bos, pieces.bos())
        .or_token(SpecialToken::Eos, pieces.eos())
        .or_token(SpecialToken::Unk, pieces.unknown());
    Tokenizer::from_bytes(&json, &config)
}

fn embedded_tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    let json = checkpoint.embedded_tokenizer()?;
    Tokenizer::from_bytes(&json, &embedded_config(checkpoint)?)
        .at(checkpoint.files()[0].path.display())
}

fn embedded_config(checkpoint: &Checkpoint) -> Result<TokenizerConfig> {
    TokenizerConfig::from_json(&checkpoint.embedded_tokenizer_config()?)
        .at(checkpoint.files()[0].path.display())
}
