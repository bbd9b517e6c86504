//! Stop strings in a stream of text.

use crate::error::{Error, Result};

/// Looks for stop strings in text that arrives in parts of any size.
///
/// Text that could be the beginning of a stop string is held back until it is
/// known not to be. The match that ends first wins, the longest of them if
/// several end together; how the text is cut into parts makes no difference.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text not emitted yet, and after a match nothing else.
    held: String,
    emitted: String,
    is_stopped: bool,
}

/// Text before any stop string, and the stop string, if it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unstopped<'a> {
    pub text: &'a str,
    /// The index of the stop string that ends the stream.
    pub stop: Option<usize>,
}

impl StopMatcher {
    /// # Errors
    /// `InvalidArgument` if a stop string is empty.
    pub fn new<S: AsRef<str>>(stop_strings: &[S]) -> Result<Self> {
        if let Some(index) = stop_strings.iter().position(|s| s.as_ref().is_empty()) {
            return Err(Error::invalid(format!(
                "stop string {index} is empty, so it would end every text before it begins"
            )));
        }
        Ok(Self {
            patterns: stop_strings
                .iter()
                .map(|s| Pattern::new(s.as_ref()))
                .collect(),
            ..Self::default()
        })
    }

    /// The text that can no longer be part of a stop string. After a match
    /// there is no more text until [`reset`](Self::reset).
    pub fn push(&mut self, text: &str) -> Unstopped<'_> {
        self.emitted.clear();
        if self.is_stopped {
            return Unstopped {
                text: "",
                stop: None,
            };
        }
        let n_before = self.held.len();
        self.held.push_str(text);
        for (index, byte) in text.bytes().enumerate() {
            if let Some(stop) = self.advance(byte) {
                let end = n_before + index + 1;
                self.held.truncate(end - self.patterns[stop].len());
                self.is_stopped = true;
                return Unstopped {
                    text: self.release(0),
                    stop: Some(stop),
                };
            }
        }
        let n_undecided = self.patterns.iter().map(|p| p.n_matched).max().unwrap_or(0);
        Unstopped {
            text: self.release(n_undecided),
            stop: None,
        }
    }

    /// The text that was held back, when no more will come.
    pub fn finish(&mut self) -> &str {
        self.release(0)
    }

    /// Begins a new text.
    pub fn reset(&mut self) {
        self.held.clear();
        self.is_stopped = false;
        for pattern in &mut self.patterns {
            pattern.n_matched = 0;
        }
    }

    /// The longest of the stop strings that end with this byte.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        let mut stop: Option<usize> = None;
        for index in 0..self.patterns.len() {
            let is_longer =
                stop.is_none_or(|s| self.patterns[s].len() < self.patterns[index].len());
            if self.patterns[index].advance(byte) && is_longer {
                stop = Some(index);
            }
        }
        stop
    }

    /// Moves everything but the last `n_kept` bytes from held to emitted.
    fn release(&mut self, n_kept: usize) -> &str {
        let n_released = self.held.len() - n_kept;
        self.emitted.clear();
        self.emitted.extend(self.held.drain(..n_released));
        &self.emitted
    }
}

/// One stop string as the automaton of Knuth, Morris and Pratt.
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Box<[u8]>,
    /// `fallback[n]`: the length of the longest proper prefix of the first `n`
    /// bytes that is also their end.
    fallback: Box<[usize]>,
    /// How many bytes of the pattern the text ends with.
    n_matched: usize,
}

impl Pattern {
    fn new(stop_string: &str) -> Self {
        let bytes: Box<[u8]> = stop_string.as_bytes().into();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut n_matched = 0;
        for end in 1..bytes.len() {
            while n_matched > 0 && bytes[n_matched] != bytes[end] {
                n_matched = fallback[n_matched];
            }
            n_matched += usize::from(bytes[n_matched] == bytes[end]);
            fallback[end + 1] = n_matched;
        }
        Self {
            bytes,
            fallback: fallback.into(),
            n_matched: 0,
        }
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the text ends with the whole pattern now. It isn't called again
    /// after that.
    fn advance(&mut self, byte: u8) -> bool {
        while self.n_matched > 0 && self.bytes[self.n_matched] != byte {
            self.n_matched = self.fallback[self.n_matched];
        }
        self.n_matched += usize::from(self.bytes[self.n_matched] == byte);
        self.n_matched == self.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;
    use proptest::prelude::*;

    fn run(stops: &[&str], parts: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut text = String::new();
        for part in parts {
            let unstopped = matcher.push(part);
            text += unstopped.text;
            if unstopped.stop.is_some() {
                return (text, unstopped.stop);
            }
        }
        text += matcher.finish();
        (text, None)
    }

    #[test]
    fn match_is_found_across_parts() {
        assert_eq!(
            run(&["STOP"], &["one S", "T", "OP two"]),
            ("one ".into(), Some(0))
        );
        assert_eq!(
            run(&["\u{1f680}!"], &["go \u{1f680}", "! on"]),
            ("go ".into(), Some(0))
        );
    }

    #[test]
    fn only_what_could_become_a_stop_string_is_held_back() {
        let mut matcher = StopMatcher::new(&["</s>", "\n\n"]).unwrap();
        assert_eq!(matcher.push("a < b").text, "a < b");
        assert_eq!(matcher.push(" </").text, " ");
        assert_eq!(matcher.push("p>\n").text, "</p>");
        assert_eq!(matcher.push("x").text, "\nx");
        assert_eq!(matcher.push("</s").text, "");
        assert_eq!(matcher.finish(), "</s");
    }

    #[test]
    fn first_end_wins_then_the_longest() {
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]), ("xa".into(), Some(1)));
        assert_eq!(run(&["bc", "abc"], &["xabcd"]), ("x".into(), Some(1)));
        assert_eq!(run(&["ab", "ab"], &["ab"]), (String::new(), Some(0)));
    }

    #[test]
    fn overlapping_attempts_are_not_lost() {
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), Some(0)));
        assert_eq!(run(&["abab!"], &["abababab!"]), ("abab".into(), Some(0)));
    }

    #[test]
    fn nothing_comes_after_a_match_until_reset() {
        let mut matcher = StopMatcher::new(&["."]).unwrap();
        assert_eq!(
            matcher.push("a.b"),
            Unstopped {
                text: "a",
                stop: Some(0)
            }
        );
        assert_eq!(
            matcher.push("c"),
            Unstopped {
                text: "",
                stop: None
            }
        );
        assert_eq!(matcher.finish(), "");
        matcher.reset();
        assert_eq!(
            matcher.push("d"),
            Unstopped {
                text: "d",
                stop: None
            }
        );
    }

    #[test]
    fn empty_stop_string_is_refused_by_its_index() {
        let error = StopMatcher::new(&["a", ""]).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.to_string().starts_with("stop string 1 is empty"));
    }

    /// The rule written down directly: first end, then first start.
    fn expected(stops: &[String], text: &str) -> (String, Option<usize>) {
        let matches = stops.iter().enumerate().filter_map(|(index, stop)| {
            text.find(stop.as_str())
                .map(|start| (start + stop.len(), start, index))
        });
        match matches.min() {
            Some((_, start, index)) => (text[..start].to_owned(), Some(index)),
            None => (text.to_owned(), None),
        }
    }

    proptest! {
        #[test]
        fn cutting_the_text_makes_no_difference(
            stops in prop::collection::vec("[abé]{1,5}", 0..4),
            parts in prop::collection::vec("[abé]{0,4}", 0..12),
        ) {
            let stop_refs: Vec<&str> = stops.iter().map(String::as_str).collect();
            let part_refs: Vec<&str> = parts.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stop_refs, &part_refs), expected(&stops, &parts.concat()));
        }
    }
}
