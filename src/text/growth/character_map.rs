//! SentencePiece's tables of characters and what they become, as `precompiled_charsmap`
//! has them in base64: the length of a search tree, the tree, and the replacements with
//! a NUL behind each.

/// The tree is a double array (<https://github.com/s-yata/darts-clone>): a node's child
/// for a byte is where the node's offset and the byte lead, if its label is that byte.
pub struct CharacterMap {
    units: Vec<usize>,
    replacements: Vec<u8>,
}

/// Only characters and graphemes of fewer than six bytes are looked up.
const MAX_DEPTH: usize = 5;
/// Published tables have up to 60,000. A damaged tree may have circles.
const MAX_NODES: usize = 1 << 18;

impl CharacterMap {
    /// `None` if it is no such table.
    pub fn from_base64(text: &str) -> Option<CharacterMap> {
        let bytes = base64(text);
        let (header, rest) = bytes.split_first_chunk::<4>()?;
        let (tree, replacements) = rest.split_at_checked(u32::from_le_bytes(*header) as usize)?;
        let units = tree.as_chunks::<4>().0.iter();
        Some(CharacterMap {
            units: units
                .map(|unit| u32::from_le_bytes(*unit) as usize)
                .collect(),
            replacements: replacements.to_vec(),
        })
    }

    /// Bytes that one byte becomes at most.
    pub fn most_of_a_byte(&self) -> usize {
        let mut most = 1;
        let mut open = vec![(offset(self.unit(0)), 1)];
        let mut n_nodes = 0;
        while let Some((node, depth)) = open.pop() {
            n_nodes += 1;
            if n_nodes > MAX_NODES {
                return self.replacements.len().max(1);
            }
            for byte in 1..=255 {
                let child = node ^ byte;
                let unit = self.unit(child);
                if unit & (1 << 31 | 0xff) != byte {
                    continue;
                }
                let behind = child ^ offset(unit);
                // The shortest entry that fits is the one that counts.
                if unit >> 8 & 1 == 1 {
                    most = most.max(self.replacement_bytes(behind).div_ceil(depth));
                } else if depth < MAX_DEPTH {
                    open.push((behind, depth + 1));
                }
            }
        }
        most
    }

    /// 0, which has no label, where there is none.
    fn unit(&self, index: usize) -> usize {
        self.units.get(index).copied().unwrap_or_default()
    }

    fn replacement_bytes(&self, leaf: usize) -> usize {
        let start = self.unit(leaf) & ((1 << 31) - 1);
        let text = self.replacements.get(start..).unwrap_or_default();
        text.iter().take_while(|byte| **byte != 0).count()
    }
}

fn offset(unit: usize) -> usize {
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}

/// What is no digit of base64 is left out.
fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut n_bits) = (0_u32, 0);
    for digit in text.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        (bits, n_bits) = (bits << 6 | u32::from(value), n_bits + 6);
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((bits >> n_bits) as u8);
            bits &= (1 << n_bits) - 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use tokenizers::{NormalizedString, Normalizer};

    use super::*;

    /// Children of the root are from 256 on, those of the first byte of `é` from 128 on.
    fn table() -> Vec<u8> {
        let mut units = vec![0_u32; 512];
        let mut put = |place: usize, label: usize, is_leaf: bool, behind: usize| {
            let unit = label | usize::from(is_leaf) << 8 | (place ^ behind) << 10;
            units[place] = unit as u32;
        };
        let [first, second] = [0xc3, 0xa9];
        put(0, 0, false, 256);
        put(256 ^ usize::from(b'a'), b'a'.into(), true, 10);
        put(256 ^ first, first, false, 128);
        put(128 ^ second, second, true, 11);
        (units[10], units[11]) = (0, 5);
        let tree = units.iter().flat_map(|unit| unit.to_le_bytes());
        let length = (4 * units.len() as u32).to_le_bytes();
        let length_and_tree = length.into_iter().chain(tree);
        length_and_tree.chain(*b"wxyz\0ten bytes!\0").collect()
    }

    fn to_base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits = |chunk: &[u8]| {
            let word = chunk
                .iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte));
            let word = word << (8 * (3 - chunk.len()));
            let digit = move |n: usize| DIGITS[(word >> (18 - 6 * n) & 63) as usize] as char;
            (0..=chunk.len()).map(digit).collect::<String>()
        };
        bytes.chunks(3).map(digits).collect()
    }

    #[test]
    fn the_growth_is_that_of_the_tokenizers_crate() {
        let normalizer = tokenizers::normalizers::Precompiled::from(&table()).expect("a table");
        let grown = |text: &str| {
            let mut text = NormalizedString::from(text);
            normalizer.normalize(&mut text).expect("normalized");
            text.get().to_owned()
        };
        assert_eq!(grown("a\u{e9}b"), "wxyzten bytes!b");
        let map = CharacterMap::from_base64(&to_base64(&table())).expect("a table");
        assert_eq!(map.most_of_a_byte(), 5, "of the two of é; 4 of a");
    }

    #[test]
    fn trees_with_circles_have_an_end() {
        let mut table = table();
        // All nodes lead to the root's children.
        let start_of = |place: usize| 4 + 4 * place;
        for byte in 1..256_usize {
            let place = 256 ^ byte;
            let circle = (byte | (place ^ 256) << 10) as u32;
            table[start_of(place)..start_of(place + 1)].copy_from_slice(&circle.to_le_bytes());
        }
        let map = CharacterMap::from_base64(&to_base64(&table)).expect("a table");
        assert_eq!(map.most_of_a_byte(), map.replacements.len());
    }

    #[test]
    fn what_is_no_table_is_none() {
        for text in ["", "AAA", "/////2Fi"] {
            assert!(CharacterMap::from_base64(text).is_none(), "{text}");
        }
    }
}
