//! Saving sequences and loading them.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::Path;

use super::{Context, Sequences, fit_if};
use crate::checkpoint::{open_regular, replace_file};
use crate::error::{Error, Result, ResultExt};
use crate::kv::{Origin, SavedSequence, Sequence, saved_bytes, write_sequence};

impl Context {
    /// The ids of the tokens that a sequence holds.
    pub fn sequence_tokens(&self, sequence: i32) -> Result<Vec<i32>> {
        let index = self.index_of(sequence)?;
        Ok(Sequences::of(&self.sequences)[index].tokens().to_vec())
    }

    /// Writes a sequence to a file. A former file under this name stays until all is
    /// written, whatever happens.
    pub fn save(&mut self, sequence: i32, path: &Path) -> Result<()> {
        self.write_with(sequence, |sequence| {
            let (ops, origin) = (&self.ops, self.origin());
            replace_file(path, |file| write_sequence(ops, origin, sequence, file))
        })
    }

    /// The bytes that saving a sequence takes.
    pub fn saved_bytes(&self, sequence: i32) -> Result<usize> {
        let index = self.index_of(sequence)?;
        Ok(saved_bytes(
            self.origin(),
            &Sequences::of(&self.sequences)[index],
        ))
    }

    /// Writes a sequence into memory of at least `saved_bytes`.
    pub fn save_to(&mut self, sequence: i32, buffer: &mut [u8]) -> Result<()> {
        self.write_with(sequence, |sequence| {
            write_sequence(&self.ops, self.origin(), sequence, &mut Cursor::new(buffer)).map_err(
                |error| match Error::within(&error) {
                    Some(own) => own.clone(),
                    None => Error::no_space(format!("cannot save a sequence: {error}")),
                },
            )
        })
    }

    pub(super) fn write_with(
        &self,
        sequence: i32,
        write: impl FnOnce(&Sequence) -> Result<()>,
    ) -> Result<()> {
        let index = self.index_of(sequence)?;
        let mut sequences = Sequences::of(&self.sequences);
        sequences[index].bring_back()?;
        sequences.account();
        write(&sequences[index])
    }

    /// Replaces what a sequence holds by what a file does, ours or one of mlx-lm's. If
    /// that fails, the sequence is as before.
    pub fn load(&mut self, sequence: i32, path: &Path) -> Result<()> {
        let (mut file, stamp) = open_regular(path)?;
        if is_prompt_cache(&mut file).map_err(|error| Error::io("read", path, &error))? {
            return self.import_mlx(sequence, path, None);
        }
        let mut input = BufReader::new(file);
        self.load_saved(sequence, &mut input, stamp.bytes)
            .at(path.display())
    }

    /// As `load`, from memory.
    pub fn load_from(&mut self, sequence: i32, mut saved: &[u8]) -> Result<()> {
        let bytes = saved.len() as u64;
        self.load_saved(sequence, &mut saved, bytes)
            .at("the buffer")
    }

    fn load_saved(&mut self, sequence: i32, input: &mut dyn Read, bytes: u64) -> Result<()> {
        self.index_of(sequence)?;
        let shapes: Vec<_> = self.plan.shapes().collect();
        let saved = SavedSequence::open(input, bytes, self.origin(), &shapes)?;
        let n_tokens = saved.tokens().len();
        self.ensure_known(saved.tokens())?;
        self.replace(sequence, n_tokens, |sequence| saved.load_into(sequence))
    }

    /// Replaces what a sequence holds by so many tokens, if there is room for both.
    pub(super) fn replace(
        &self,
        sequence: i32,
        n_tokens: usize,
        load: impl FnOnce(&mut Sequence) -> Result<()>,
    ) -> Result<()> {
        let index = self.index_of(sequence)?;
        self.ensure_reserved(n_tokens)?;
        let mut sequences = Sequences::of(&self.sequences);
        let is_kept = self.let_go(&sequences[index], 0);
        load(&mut sequences[index])?;
        sequences.account();
        drop(sequences);
        fit_if(is_kept);
        Ok(())
    }

    pub(super) fn ensure_known(&self, tokens: &[i32]) -> Result<()> {
        let vocab_size = self.model.decoder().spec().vocab_size;
        let is_known = |&token: &i32| usize::try_from(token).is_ok_and(|id| id < vocab_size);
        match tokens.iter().find(|token| !is_known(token)) {
            None => Ok(()),
            Some(token) => Err(Error::format(format!(
                "its token {token} is not one of the model's {vocab_size}"
            ))),
        }
    }

    /// The former content of a sequence stays until the new one is there; the
    /// context may have nothing left for both.
    fn ensure_reserved(&self, n_tokens: usize) -> Result<()> {
        let more = self.plan.kv_bytes(n_tokens);
        let reserved = self.plan.bytes().kv;
        let held = self.memory().kv_reserved;
        match held + more <= reserved {
            true => Ok(()),
            false => Err(Error::over_budget(format!(
                "its {n_tokens} tokens take {more} bytes beside the {held} in use, of the {reserved} \
                 that the context reserved; trim the sequence to 0 tokens first"
            ))),
        }
    }

    fn origin(&self) -> Origin {
        Origin {
            model: self.model.residence().checkpoint().identity().0,
            rotation: self.kind_of_rotation(),
        }
    }
}

/// Whether it begins as a safetensors file, whose header is JSON behind its length.
fn is_prompt_cache(file: &mut File) -> io::Result<bool> {
    let mut first = Vec::new();
    file.by_ref().take(9).read_to_end(&mut first)?;
    file.rewind()?;
    Ok(first.get(8) == Some(&b'{') && first[7] == 0)
}
