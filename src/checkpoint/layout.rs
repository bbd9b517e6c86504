//! Where the tensors of a safetensors file that is to be written lie.
//!
//! The format allows spaces after the header, but no gaps between tensors, and
//! its usual readers check that. So tensors whose length is a multiple of 64
//! come first. In front of the few others either the gap is a tensor itself, or
//! they follow one another as they are.

use safetensors::tensor::TensorInfo as StoredInfo;
use serde_json::{Map, Value};

use super::dtype::Dtype;
use super::header::{
    LENGTH_BYTES, LIMIT_DIMENSION, LIMIT_HEADER_BYTES, LIMIT_NAME_BYTES, LIMIT_RANK, LIMIT_TENSORS,
    PADDING_PREFIX,
};
use crate::error::{Error, Result};

pub(super) const ALIGNMENT_BYTES: usize = 64;

/// A tensor to write, without its bytes.
#[derive(Clone, Copy, Debug)]
pub struct TensorShape<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
}

impl TensorShape<'_> {
    /// `None` if no file could have as many.
    pub fn bytes(&self) -> Option<usize> {
        let mut lengths = self.shape.iter();
        lengths.try_fold(self.dtype.size(), |bytes, length| {
            bytes.checked_mul(*length)
        })
    }
}

/// What is in front of a tensor that does not begin at a multiple of 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gaps {
    /// `__padding__.0` and so on, of type U8, which the reader of this crate hides.
    Filled,
    /// Nothing, for readers that refuse tensors they do not know. Tensors still
    /// begin at multiples of their elements' size.
    None,
}

/// The entries of a file in the order in which they are written.
pub(super) struct Layout {
    entries: Vec<Entry>,
}

pub(super) struct Entry {
    name: String,
    info: StoredInfo,
    /// Which of the tensors it is; `None`: a gap.
    pub source: Option<usize>,
}

impl Entry {
    /// From where the data starts.
    pub fn offset(&self) -> usize {
        self.info.data_offsets.0
    }

    pub fn bytes(&self) -> usize {
        self.info.data_offsets.1 - self.info.data_offsets.0
    }
}

impl Layout {
    pub fn new(tensors: &[TensorShape<'_>], gaps: Gaps) -> Result<Layout> {
        let sizes = check(tensors)?;
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(alignment(sizes[*index], gaps)));
        let mut layout = Layout {
            entries: Vec::with_capacity(tensors.len()),
        };
        let mut n_gaps = 0;
        for index in order {
            let gap = layout.bytes().next_multiple_of(ALIGNMENT_BYTES) - layout.bytes();
            if gap > 0 && gaps == Gaps::Filled {
                let name = format!("{PADDING_PREFIX}{n_gaps}");
                layout.push(name, (Dtype::U8, &[gap]), gap, None);
                n_gaps += 1;
            }
            let TensorShape { name, dtype, shape } = tensors[index];
            layout.push(name.to_owned(), (dtype, shape), sizes[index], Some(index));
        }
        Ok(layout)
    }

    fn push(
        &mut self,
        name: String,
        (dtype, shape): (Dtype, &[usize]),
        bytes: usize,
        source: Option<usize>,
    ) {
        let begin = self.bytes();
        let info = StoredInfo {
            dtype: dtype.stored(),
            shape: shape.to_vec(),
            data_offsets: (begin, begin + bytes),
        };
        self.entries.push(Entry { name, info, source });
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Of all data.
    pub fn bytes(&self) -> usize {
        let last = self.entries.last();
        last.map_or(0, |entry| entry.info.data_offsets.1)
    }

    /// The length, the JSON and the spaces in front of the data.
    pub fn header(&self, metadata: &[(&str, &str)]) -> Result<Vec<u8>> {
        let failed = |error| Error::internal(format!("cannot write a header: {error}"));
        let mut json = Map::new();
        if !metadata.is_empty() {
            let pairs = metadata.iter();
            let pairs = pairs.map(|(key, value)| ((*key).to_owned(), Value::from(*value)));
            json.insert("__metadata__".to_owned(), Value::Object(pairs.collect()));
        }
        for entry in &self.entries {
            let info = serde_json::to_value(&entry.info).map_err(failed)?;
            json.insert(entry.name.clone(), info);
        }
        let json = serde_json::to_vec(&json).map_err(failed)?;
        let data_start = (LENGTH_BYTES + json.len()).next_multiple_of(ALIGNMENT_BYTES);
        let header_bytes = (data_start - LENGTH_BYTES) as u64;
        if header_bytes > LIMIT_HEADER_BYTES {
            return Err(Error::invalid(format!(
                "the header would be {header_bytes} bytes; the limit is {LIMIT_HEADER_BYTES}"
            )));
        }
        let mut header = header_bytes.to_le_bytes().to_vec();
        header.extend(json);
        header.resize(data_start, b' ');
        Ok(header)
    }
}

/// What the place behind a tensor is a multiple of, if its own is of more.
fn alignment(bytes: usize, gaps: Gaps) -> usize {
    let whole = match bytes {
        0 => ALIGNMENT_BYTES,
        bytes => (1 << bytes.trailing_zeros()).min(ALIGNMENT_BYTES),
    };
    match gaps {
        Gaps::Filled if whole < ALIGNMENT_BYTES => 1,
        _ => whole,
    }
}

/// The lengths of all tensors, which can be read back.
fn check(tensors: &[TensorShape<'_>]) -> Result<Vec<usize>> {
    if tensors.len() > LIMIT_TENSORS {
        return Err(Error::invalid(format!(
            "cannot write more than {LIMIT_TENSORS} tensors to one file"
        )));
    }
    let mut names: Vec<_> = tensors.iter().map(|tensor| tensor.name).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid(format!(
            "two tensors are named {:?}",
            pair[0]
        )));
    }
    tensors.iter().map(check_one).collect()
}

fn check_one(tensor: &TensorShape<'_>) -> Result<usize> {
    let TensorShape { name, shape, .. } = tensor;
    let invalid = |what: String| Err(Error::invalid(format!("tensor {name:?} {what}")));
    if name.len() > LIMIT_NAME_BYTES {
        return invalid(format!("has a name of more than {LIMIT_NAME_BYTES} bytes"));
    }
    if *name == "__metadata__" || name.starts_with(PADDING_PREFIX) {
        return invalid("has a reserved name".to_owned());
    }
    let too_large = shape.iter().any(|dimension| *dimension > LIMIT_DIMENSION);
    match tensor.bytes() {
        Some(bytes) if shape.len() <= LIMIT_RANK && !too_large => Ok(bytes),
        _ => invalid(format!("has the shape {shape:?}, which is too large")),
    }
}
