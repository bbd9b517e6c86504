//! Guesses from the sequence's own repetitions: what followed the last tokens when
//! they came before (Saxena, 2023, "prompt lookup decoding").

/// Fewer tokens in common say too little.
const SHORTEST: usize = 2;

/// What followed the latest earlier occurrence of the sequence's last tokens, of which
/// `last` is the last and is not among `tokens`: the longest run of `ngram` tokens at
/// most that came before. Gives `most` tokens; what the sequence is too short for is
/// the same again.
pub fn repeated(tokens: &[i32], last: i32, ngram: usize, most: usize) -> Vec<i32> {
    let Some(best) = longest_match(tokens, last, ngram) else {
        return Vec::new();
    };
    let followed = tokens[best..].iter().copied().chain([last]);
    followed.cycle().take(most).collect()
}

/// Where what follows the match begins in `tokens`.
fn longest_match(tokens: &[i32], last: i32, ngram: usize) -> Option<usize> {
    let mut best = None;
    let mut longest = SHORTEST - 1;
    for end in (1..=tokens.len()).rev() {
        if tokens[end - 1] != last {
            continue;
        }
        let before = tokens[..end - 1].iter().rev().zip(tokens.iter().rev());
        let same = before.take_while(|(a, b)| a == b).take(ngram - 1).count();
        if 1 + same > longest {
            (best, longest) = (Some(end), 1 + same);
        }
        if longest == ngram {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_followed_before_is_found() {
        let tokens = [1, 2, 3, 4, 5, 9, 2];
        assert_eq!(repeated(&tokens, 3, 3, 7), [4, 5, 9, 2, 3, 4, 5]);
        assert_eq!(repeated(&tokens, 3, 3, 2), [4, 5]);
        assert!(repeated(&tokens, 5, 3, 8).is_empty(), "2 5 was not there");
        assert!(repeated(&[], 5, 3, 8).is_empty());
        assert!(
            repeated(&[5], 5, 3, 8).is_empty(),
            "one token says too little"
        );
    }

    #[test]
    fn the_longest_match_counts_and_the_latest_of_equals() {
        let tokens = [7, 1, 2, 10, 8, 1, 2, 20, 1, 2, 30, 7, 1];
        assert_eq!(repeated(&tokens, 2, 3, 1), [10]);
        assert_eq!(repeated(&tokens, 2, 2, 1), [30]);
    }

    #[test]
    fn a_loop_goes_on() {
        assert_eq!(repeated(&[4, 4, 4], 4, 3, 5), [4; 5]);
        assert_eq!(repeated(&[1, 2, 1, 2, 1], 2, 2, 5), [1, 2, 1, 2, 1]);
    }

    proptest! {
        #[test]
        fn it_is_what_searching_every_place_finds(
            tokens in prop::collection::vec(0_i32..4, 0..40), last in 0_i32..4, ngram in 2_usize..5, most in 1_usize..6,
        ) {
            let mut all = tokens.clone();
            all.push(last);
            let matches = |n: usize, end: usize| n <= end && all[end - n..end] == all[all.len() - n..];
            let found = (2..=ngram.min(all.len())).rev().find_map(|n| {
                (1..all.len()).rev().find(|&end| matches(n, end))
            });
            let expected: Vec<i32> = found.map_or(vec![], |end| all[end..].iter().copied().cycle().take(most).collect());
            prop_assert_eq!(repeated(&tokens, last, ngram, most), expected);
        }
    }
}
