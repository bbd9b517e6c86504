//! Which tensors a checkpoint has, and where their bytes are.

use std::ops::Range;

use super::dtype::Dtype;
use crate::kernels::BlockFormat;

/// One stored tensor. Its bytes lie inside of its file; that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Index into the checkpoint's weight files.
    pub file: usize,
    /// In bytes from the beginning of the file; may be odd.
    pub offset: usize,
    pub bytes: usize,
    /// Of a tensor of blocks, whose type and shape here are those of its bytes.
    pub blocks: Option<BlockFormat>,
}

impl TensorInfo {
    pub fn elements(&self) -> usize {
        match self.blocks {
            Some(blocks) => self.bytes / blocks.bytes() * blocks.values(),
            None => self.bytes / self.dtype.size(),
        }
    }

    /// How it is stored, for messages.
    pub fn stored(&self) -> String {
        match self.blocks {
            Some(blocks) => blocks.to_string(),
            None => self.dtype.to_string(),
        }
    }

    /// The bytes in the file.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes
    }

    /// Whether the mapped tensor starts at a multiple of `alignment_bytes`
    /// (of at most a page).
    pub fn is_aligned_to(&self, alignment_bytes: usize) -> bool {
        self.offset.is_multiple_of(alignment_bytes)
    }
}

/// All tensors of a checkpoint, by file and offset, with a lookup by name.
#[derive(Clone, Debug, Default)]
pub struct TensorTable {
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, in the order of the names.
    by_name: Vec<usize>,
}

impl TensorTable {
    /// Gives back a tensor and the other one of the same name, if there are any.
    pub(super) fn new(
        mut tensors: Vec<TensorInfo>,
    ) -> std::result::Result<TensorTable, Box<(TensorInfo, TensorInfo)>> {
        tensors.sort_by_key(|tensor| (tensor.file, tensor.offset));
        let mut by_name: Vec<usize> = (0..tensors.len()).collect();
        by_name.sort_by(|a, b| tensors[*a].name.cmp(&tensors[*b].name));
        let twice = by_name
            .windows(2)
            .find(|pair| tensors[pair[0]].name == tensors[pair[1]].name);
        if let Some(pair) = twice {
            let (first, second) = (&tensors[pair[0]], &tensors[pair[1]]);
            return Err(Box::new((first.clone(), second.clone())));
        }
        Ok(TensorTable { tensors, by_name })
    }

    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        let name_of = |index: &usize| self.tensors[*index].name.as_str();
        let found = self
            .by_name
            .binary_search_by(|index| name_of(index).cmp(name));
        found.ok().map(|at| &self.tensors[self.by_name[at]])
    }

    pub fn as_slice(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The name most like `wanted` in a checkpoint whose modules are nested
    /// differently: the one that shares the most trailing components, and at
    /// least all from the last layer number on.
    pub(super) fn near_miss(&self, wanted: &str) -> Option<&str> {
        let components: Vec<&str> = wanted.split('.').collect();
        let number = components
            .iter()
            .rposition(|component| component.parse::<usize>().is_ok());
        let needed = number.map_or(2, |at| components.len() - at);
        let shared = |name: &str| {
            let pairs = name.rsplit('.').zip(components.iter().rev());
            pairs.take_while(|(a, b)| a == *b).count()
        };
        let names = self
            .by_name
            .iter()
            .rev()
            .map(|index| self.tensors[*index].name.as_str());
        let (most, name) = names
            .map(|name| (shared(name), name))
            .max_by_key(|(n, _)| *n)?;
        (most >= needed).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, file: usize, offset: usize) -> TensorInfo {
        TensorInfo {
            name: name.to_owned(),
            dtype: Dtype::F16,
            shape: vec![2, 3],
            file,
            offset,
            bytes: 12,
            blocks: None,
        }
    }

    fn table(names: &[&str]) -> TensorTable {
        let tensors = names.iter().enumerate();
        TensorTable::new(tensors.map(|(at, name)| tensor(name, 0, at * 12)).collect()).unwrap()
    }

    #[test]
    fn tensors_come_by_file_and_offset_and_are_found_by_name() {
        let unordered = vec![tensor("b", 1, 8), tensor("c", 0, 99), tensor("a", 0, 100)];
        let table = TensorTable::new(unordered).unwrap();
        let names: Vec<_> = table.as_slice().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["c", "a", "b"]);
        for name in names {
            assert_eq!(table.get(name).unwrap().name, name);
        }
        assert!(table.get("d").is_none());
        assert!(table.get("").is_none());
    }

    #[test]
    fn one_name_in_two_files_is_reported() {
        let twice = TensorTable::new(vec![tensor("a", 1, 8), tensor("a", 0, 8)]).unwrap_err();
        assert_eq!((twice.0.file, twice.1.file), (0, 1));
    }

    #[test]
    fn sizes_and_alignment_follow_from_the_entry() {
        let tensor = tensor("a", 0, 66);
        assert_eq!((tensor.elements(), tensor.range()), (6, 66..78));
        assert!(tensor.is_aligned_to(2) && !tensor.is_aligned_to(4));
    }

    #[test]
    fn a_near_miss_is_the_same_module_at_another_place() {
        let table = table(&[
            "language_model.model.layers.0.mlp.up_proj.weight",
            "language_model.model.layers.1.mlp.up_proj.weight",
            "language_model.model.norm.weight",
        ]);
        assert_eq!(
            table.near_miss("model.layers.1.mlp.up_proj.weight"),
            Some("language_model.model.layers.1.mlp.up_proj.weight")
        );
        assert_eq!(
            table.near_miss("model.norm.weight"),
            Some("language_model.model.norm.weight")
        );
        assert_eq!(table.near_miss("model.layers.2.mlp.up_proj.weight"), None);
        assert_eq!(table.near_miss("lm_head.weight"), None);
    }
}
