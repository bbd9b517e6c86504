//! [`Vocabulary`]: the bytes that a model's tokens stand for, as a tree in which all
//! tokens that go on in an allowed way are found together.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie,
};

use super::quiet::quietly;
use crate::error::{Error, Result};
use crate::memory::{Category, Entry};
use crate::text::{SpecialToken, Tokenizer};

/// Those of the tree: 22 bits number the nodes below one.
const LIMIT_NODES: usize = 1 << 22;
const LIMIT_TOKENS: usize = 1 << 20;
/// The tree has room for 1024 nodes above each other. Longer tokens are never allowed.
const LIMIT_TOKEN_BYTES: usize = 1000;

/// A model's tokens. Made once for each model, when the first constraint is.
pub struct Vocabulary {
    factory: ParserFactory,
    /// Tokens that text is made of, and those that end it.
    usable: SimpleVob,
    ends: Vec<u32>,
    entry: Entry,
}

impl Vocabulary {
    /// `ends`: the tokens that end a text, any of them.
    ///
    /// # Errors
    /// `Unsupported` if what tokens stand for depends on those before them, or if they are
    /// too many.
    pub fn new(tokenizer: &Tokenizer, ends: &[i32]) -> Result<Vocabulary> {
        if !tokenizer.has_fixed_bytes() {
            return Err(Error::unsupported(
                "constraints for this tokenizer: what its tokens stand for depends on the tokens \
                 before them (its decoder is neither ByteLevel nor SentencePiece's)",
            ));
        }
        let words = words(tokenizer, ends);
        ensure_bounded(&words)?;
        let info = TokRxInfo::new(words.len() as u32, INVALID_TOKEN);
        let ends: Vec<u32> = { ends.iter() }
            .filter_map(|&id| u32::try_from(id).ok())
            .filter(|&id| (id as usize) < words.len())
            .collect();
        let factory = quietly(|| factory(&info, &words, &ends))?;
        let mut usable = factory.tok_env().tok_trie().eos_token_set();
        for (id, word) in (0..).zip(&words) {
            if !word.is_empty() {
                usable.allow_token(id);
            }
        }
        Ok(Vocabulary {
            entry: Entry::new(Category::Text, estimated_bytes(&words)),
            ends,
            factory,
            usable,
        })
    }

    pub(super) fn factory(&self) -> &ParserFactory {
        &self.factory
    }

    pub(super) fn usable(&self) -> &SimpleVob {
        &self.usable
    }

    /// Whether any token ends a text.
    pub(super) fn has_end(&self) -> bool {
        !self.ends.is_empty()
    }

    pub(super) fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Bytes that it takes, estimated from the tokens.
    pub fn bytes(&self) -> usize {
        self.entry.bytes()
    }
}

/// What each token adds to a text; nothing for those that must not be in one.
fn words(tokenizer: &Tokenizer, ends: &[i32]) -> Vec<Vec<u8>> {
    let special = SpecialToken::ALL.map(|kind| tokenizer.special_token(kind));
    let word = |id: i32| {
        if ends.contains(&id) || special.contains(&Some(id)) {
            return Vec::new();
        }
        let info = tokenizer.token_info(id).filter(|info| !info.is_special);
        let bytes = info.map_or_else(Vec::new, |info| info.bytes);
        // llguidance marks tokens by their numbers with a byte that is in no UTF-8.
        let is_text = !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER);
        match is_text && bytes.len() <= LIMIT_TOKEN_BYTES {
            true => bytes,
            false => Vec::new(),
        }
    };
    (0..tokenizer.vocab_size() as i32).map(word).collect()
}

fn factory(info: &TokRxInfo, words: &[Vec<u8>], ends: &[u32]) -> Result<ParserFactory> {
    let mut tree = TokTrie::from(info, words);
    if !ends.is_empty() {
        tree = tree.with_eos_tokens(ends);
    }
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(tree));
    let slices = SlicedBiasComputer::general_slices();
    let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices);
    let mut factory =
        factory.map_err(|error| Error::internal(format!("the vocabulary's tree: {error}")))?;
    factory.quiet();
    Ok(factory)
}

fn ensure_bounded(words: &[Vec<u8>]) -> Result<()> {
    if words.len() > LIMIT_TOKENS {
        return Err(Error::unsupported(format!(
            "constraints for a vocabulary of {} tokens; the limit is {LIMIT_TOKENS}",
            words.len()
        )));
    }
    let n_nodes = n_nodes(words);
    match n_nodes < LIMIT_NODES {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "constraints for this vocabulary: its tokens make a tree of {n_nodes} bytes; the \
             limit is {LIMIT_NODES}"
        ))),
    }
}

/// Of the tree: equal beginnings are there once, equal tokens have a node each.
fn n_nodes(words: &[Vec<u8>]) -> usize {
    let mut sorted: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    sorted.sort_unstable();
    let added = |pair: &[&[u8]]| {
        let common = pair[0].iter().zip(pair[1]).take_while(|(a, b)| a == b);
        (pair[1].len() - common.count()).max(1)
    };
    let first = sorted.first().map_or(0, |word| word.len());
    first + sorted.windows(2).map(added).sum::<usize>() + 1
}

/// The tree, and those of parts of it that are looked at together: 15 in all, each with
/// a table of all tokens, and most tokens in eight of them.
fn estimated_bytes(words: &[Vec<u8>]) -> usize {
    const N_TREES: usize = 15;
    const N_TREES_OF_A_TOKEN: usize = 8;
    const TOKEN_BYTES: usize = 12;
    const NODE_BYTES: usize = 8;
    let word_bytes: usize = words.iter().map(Vec::len).sum();
    let parts = word_bytes + NODE_BYTES * n_nodes(words);
    N_TREES * TOKEN_BYTES * words.len() + N_TREES_OF_A_TOKEN * parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn beginnings_that_are_equal_share_their_nodes() {
        assert_eq!(n_nodes(&of(&["ab", "abc", "abd", "x"])), 1 + 2 + 1 + 1 + 1);
        assert_eq!(n_nodes(&of(&["ab", "ab"])), 1 + 2 + 1);
    }

    #[test]
    fn a_tree_that_is_too_large_is_refused() {
        let words: Vec<_> = (0..6000_u32)
            .map(|n| [n.to_be_bytes().as_slice(), &[b'a'; 900]].concat())
            .collect();
        let error = ensure_bounded(&words).expect_err("too many bytes");
        assert!(error.message().contains("4194304"), "{error}");
        let error = ensure_bounded(&vec![Vec::new(); LIMIT_TOKENS + 1]).expect_err("too many");
        assert!(error.message().contains("1048577 tokens"), "{error}");
    }
}
