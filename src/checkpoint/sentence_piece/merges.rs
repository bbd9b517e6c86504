//! Merges of pairs, which SentencePiece does not store: they follow from the scores.

use std::collections::HashMap;

/// All pairs of tokens that make up another one, in the order in which SentencePiece
/// joins them: the best result first, then as transformers orders equal ones. Tokens
/// without a score are made of nothing.
pub fn merges_of<'a>(
    tokens: &[&'a str],
    score_of: impl Fn(usize) -> Option<f64>,
) -> Vec<[&'a str; 2]> {
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (*token, id))
        .collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        let Some(score) = score_of(id) else {
            continue;
        };
        let cuts = token.char_indices().skip(1);
        let mut pairs: Vec<_> = cuts
            .filter_map(|(at, _)| {
                let (left, right) = token.split_at(at);
                Some(([*ids.get(left)?, *ids.get(right)?], [left, right]))
            })
            .collect();
        pairs.sort_by(|(a, _), (b, _)| b.cmp(a));
        merges.extend(pairs.into_iter().map(|(_, pair)| (score, pair)));
    }
    let lengths = |pair: &[&str; 2]| pair.map(|part| part.chars().count());
    merges.sort_by(|(a, left), (b, right)| {
        b.total_cmp(a)
            .then_with(|| lengths(right).cmp(&lengths(left)))
    });
    merges.into_iter().map(|(_, pair)| pair).collect()
}
