//! Writes safetensors files that map without a copy: the data and every tensor
//! in it start at multiples of 64 bytes, see `layout`.

use std::io::Write;
use std::path::Path;

use super::dtype::Dtype;
use super::layout::{ALIGNMENT_BYTES, Gaps, Layout, TensorShape};
use super::replace::replace_file;
use crate::error::{Error, Result};

/// A tensor to write: `bytes` are little-endian elements in row-major order.
#[derive(Clone, Copy, Debug)]
pub struct NewTensor<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

/// Writes a file that either is complete under `path` or not there at all: it is
/// written under another name in the same directory, synchronized and renamed.
/// An existing file is replaced; whoever has it mapped keeps the old content.
pub fn write_safetensors(
    path: &Path,
    tensors: &[NewTensor<'_>],
    metadata: &[(&str, &str)],
) -> Result<()> {
    write_with(Gaps::Filled, path, tensors, metadata)
}

/// As `write_safetensors`, for readers that refuse tensors they do not know.
pub fn write_plain_safetensors(
    path: &Path,
    tensors: &[NewTensor<'_>],
    metadata: &[(&str, &str)],
) -> Result<()> {
    write_with(Gaps::None, path, tensors, metadata)
}

fn write_with(
    gaps: Gaps,
    path: &Path,
    tensors: &[NewTensor<'_>],
    metadata: &[(&str, &str)],
) -> Result<()> {
    let shapes = tensors.iter().map(shape).collect::<Result<Vec<_>>>()?;
    let layout = Layout::new(&shapes, gaps)?;
    let header = layout.header(metadata)?;
    replace_file(path, |file| write(&layout, &header, tensors, file))
}

fn shape<'a>(tensor: &NewTensor<'a>) -> Result<TensorShape<'a>> {
    let NewTensor {
        name,
        dtype,
        shape,
        bytes,
    } = *tensor;
    let declared = TensorShape { name, dtype, shape };
    match declared.bytes() {
        Some(expected) if expected != bytes.len() => Err(Error::invalid(format!(
            "tensor {name:?} is {dtype} {shape:?}, but comes with {} bytes",
            bytes.len()
        ))),
        _ => Ok(declared),
    }
}

fn write(
    layout: &Layout,
    header: &[u8],
    tensors: &[NewTensor<'_>],
    file: &mut dyn Write,
) -> std::io::Result<()> {
    file.write_all(header)?;
    layout.entries().iter().try_for_each(|entry| {
        file.write_all(match entry.source {
            Some(index) => tensors[index].bytes,
            None => &[0; ALIGNMENT_BYTES][..entry.bytes()],
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::header::{LENGTH_BYTES, LIMIT_NAME_BYTES, PADDING_PREFIX};
    use super::*;
    use crate::error::Status;
    use safetensors::SafeTensors;

    fn f32s<'a>(name: &'a str, shape: &'a [usize], bytes: &'a [u8]) -> NewTensor<'a> {
        NewTensor {
            name,
            dtype: Dtype::F32,
            shape,
            bytes,
        }
    }

    #[test]
    fn every_tensor_starts_at_64_bytes_and_the_reference_reader_agrees() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        let bytes: Vec<u8> = (0..=255).collect();
        let tensors = [
            f32s("scalar", &[], &bytes[..4]),
            f32s("empty", &[0, 7], &[]),
            f32s("odd", &[3], &bytes[..12]),
            f32s("whole", &[4, 16], &bytes),
            f32s("last", &[5], &bytes[..20]),
        ];
        write_safetensors(&path, &tensors, &[("format", "mlx"), ("a\"", "ü")]).unwrap();

        let file = std::fs::read(&path).unwrap();
        let (header_bytes, metadata) = SafeTensors::read_metadata(&file).unwrap();
        let strings = metadata.metadata().as_ref().unwrap();
        assert_eq!(
            (strings["format"].as_str(), strings["a\""].as_str()),
            ("mlx", "ü")
        );
        let read = SafeTensors::deserialize(&file).unwrap();
        for tensor in tensors {
            let view = read.tensor(tensor.name).unwrap();
            assert_eq!((view.shape(), view.data()), (tensor.shape, tensor.bytes));
            let begin = metadata.info(tensor.name).unwrap().data_offsets.0;
            assert_eq!(
                (LENGTH_BYTES + header_bytes + begin) % 64,
                0,
                "{}",
                tensor.name
            );
        }
        let gaps = read
            .names()
            .into_iter()
            .filter(|name| name.starts_with(PADDING_PREFIX));
        assert_eq!(gaps.count(), 2, "between three odd ones");
    }

    #[test]
    fn tensors_of_whole_lines_need_no_padding() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        let bytes = [1; 128];
        let tensors = [f32s("a", &[32], &bytes), f32s("b", &[16], &bytes[..64])];
        write_safetensors(&path, &tensors, &[]).unwrap();
        let file = std::fs::read(&path).unwrap();
        assert_eq!(SafeTensors::deserialize(&file).unwrap().len(), 2);
    }

    #[test]
    fn the_same_input_gives_the_same_file_and_replaces_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        let write = |metadata: &[(&str, &str)]| {
            let bytes = [1; 12];
            write_safetensors(&path, &[f32s("a", &[3], &bytes)], metadata).unwrap();
            std::fs::read(&path).unwrap()
        };
        let first = write(&[("b", "1"), ("a", "2")]);
        assert_eq!(write(&[("b", "1"), ("a", "2")]), first);
        assert_ne!(write(&[]), first);
        let entries = std::fs::read_dir(directory.path()).unwrap();
        assert_eq!(entries.count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_mapped_file_keeps_its_content_when_it_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        write_safetensors(&path, &[f32s("a", &[3], &[1; 12])], &[]).unwrap();
        let mapped = crate::checkpoint::MappedFile::open(&path).unwrap();
        let before = mapped.as_slice().to_vec();
        write_safetensors(&path, &[], &[]).unwrap();
        assert_eq!(mapped.as_slice(), before);
    }

    #[test]
    fn writers_of_the_same_file_do_not_disturb_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        std::thread::scope(|scope| {
            for fill in 1..=8 {
                let path = &path;
                scope.spawn(move || {
                    let bytes = [fill; 1 << 16];
                    let tensor = f32s("a", &[1 << 14], &bytes);
                    for _ in 0..20 {
                        write_safetensors(path, &[tensor], &[]).unwrap();
                    }
                });
            }
        });
        let file = std::fs::read(&path).unwrap();
        let read = SafeTensors::deserialize(&file).unwrap();
        let data = read.tensor("a").unwrap().data();
        assert!(
            data.iter().all(|byte| *byte == data[0]),
            "one writer's bytes"
        );
    }

    #[test]
    fn what_could_not_be_read_back_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        let long = "x".repeat(LIMIT_NAME_BYTES + 1);
        let good = f32s("a", &[3], &[0; 12]);
        for (tensors, message) in [
            (vec![f32s("a", &[4], &[0; 12])], "comes with 12 bytes"),
            (vec![good, good], "two tensors are named \"a\""),
            (vec![f32s("__metadata__", &[3], &[0; 12])], "reserved"),
            (vec![f32s("__padding__.7", &[3], &[0; 12])], "reserved"),
            (vec![f32s(&long, &[3], &[0; 12])], "more than 4096 bytes"),
            (vec![f32s("a", &[1; 9], &[0; 4])], "too large"),
            (vec![f32s("a", &[0, 1 << 40], &[])], "too large"),
        ] {
            let error = write_safetensors(&path, &tensors, &[]).unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument);
            assert!(error.message().contains(message), "{error}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_found() {
        let error = write_safetensors(Path::new("/nonexistent/a.safetensors"), &[], &[]);
        assert_eq!(error.unwrap_err().status(), Status::NotFound);
    }
}
