//! Weights as arrays over mapped files.
//!
//! By what the loaded MLX allows: its CPU allocator lets each tensor be wrapped
//! where it lies, whatever its alignment; Metal wraps a whole file as one buffer, of
//! which aligned tensors are views. Otherwise (misaligned tensors on Metal, the CPU
//! of MLX for CUDA) the tensor is copied once, and counted; a GPU with memory of its
//! own gets it there piece by piece.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_int;

use mlx_sys as sys;

use super::array::{Array, Dtype, element_count};
use super::bridge::{self, Owner};
use super::device::Device;
use super::error::init;
use super::stream::Stream;
use crate::error::{Error, Result};

/// One tensor inside a mapped file.
pub struct TensorView<'a> {
    /// The whole file, from its first byte; page-aligned as maps are.
    pub file: &'a [u8],
    /// Keeps the map alive.
    pub owner: &'a Owner,
    /// Where the tensor starts, in bytes from the start of the file.
    pub start: usize,
    pub shape: &'a [i32],
    pub dtype: Dtype,
}

/// Makes arrays of tensors in mapped files and counts what had to be copied.
pub struct MappedArrays<'s> {
    stream: &'s Stream,
    way: Way,
    /// By address of the map: the file as one array of bytes, if that is possible.
    whole_files: HashMap<usize, Option<Array>>,
    copied_bytes: usize,
}

/// How tensors become arrays of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Wrap,
    /// Aligned ones; the others are copied.
    Views,
    Copy,
    /// Into the memory of a GPU.
    Send,
}

impl Way {
    fn to(device: Device) -> Way {
        let mut metal = false;
        // SAFETY: writes one flag.
        let code = unsafe { sys::mlx_metal_is_available(&mut metal) };
        if device.has_own_memory() {
            Way::Send
        } else if bridge::can_wrap() {
            Way::Wrap
        } else if code == 0 && metal {
            Way::Views
        } else {
            Way::Copy
        }
    }
}

/// Whether a tensor whose elements of `element_bytes` start at `start` in its file
/// is used on this device where it is mapped; otherwise it is copied.
pub fn maps_in_place(device: Device, start: usize, element_bytes: usize) -> bool {
    match Way::to(device) {
        Way::Wrap => true,
        Way::Views => start.is_multiple_of(element_bytes),
        Way::Copy | Way::Send => false,
    }
}

/// What is sent to a GPU at a time, so that it takes little of the machine's memory.
const PIECE_BYTES: usize = 64 << 20;

impl<'s> MappedArrays<'s> {
    pub fn new(stream: &'s Stream) -> Self {
        Self {
            stream,
            way: Way::to(stream.device()),
            whole_files: HashMap::new(),
            copied_bytes: 0,
        }
    }

    /// Bytes of tensors that could not be used where they lie.
    pub fn copied_bytes(&self) -> usize {
        self.copied_bytes
    }

    pub fn array(&mut self, view: &TensorView<'_>) -> Result<Array> {
        if self.way == Way::Wrap {
            return bridge::wrap(
                view.file,
                view.start,
                view.shape,
                view.dtype,
                view.owner.clone(),
            );
        }
        if self.way == Way::Views
            && view.start.is_multiple_of(view.dtype.bytes())
            && let Some(file) = self.whole_file(view)?
        {
            return view_into(&file, view.start, view.shape, view.dtype, self.stream);
        }
        let bytes = element_count(view.shape) * view.dtype.bytes();
        let content = &view.file[view.start..view.start + bytes];
        self.copied_bytes += bytes;
        match self.way {
            Way::Send => send(self.stream, content, view.shape, view.dtype, PIECE_BYTES),
            _ => Array::copy_of(content, view.shape, view.dtype),
        }
    }

    fn whole_file(&mut self, view: &TensorView<'_>) -> Result<Option<Array>> {
        match self.whole_files.entry(view.file.as_ptr() as usize) {
            Entry::Occupied(entry) => Ok(entry.get().clone()),
            Entry::Vacant(entry) => Ok(entry.insert(wrap_pages(view.file, view.owner)?).clone()),
        }
    }
}

/// The pages of a mapped file as one array `[pages, page]` of bytes, if MLX's
/// allocator takes foreign memory as it is (Metal does).
fn wrap_pages(file: &[u8], owner: &Owner) -> Result<Option<Array>> {
    init();
    let page = page_bytes();
    let Ok(pages) = c_int::try_from(file.len().div_ceil(page)) else {
        return Ok(None);
    };
    let shape = [pages, page as c_int];
    let payload = Box::into_raw(Box::new(owner.clone()));
    // SAFETY: a map covers whole pages, the last one zero-filled behind the end
    // of the file, and the payload keeps it alive until `release`, which MLX calls once.
    let raw = unsafe {
        sys::mlx_array_new_data_managed_payload(
            file.as_ptr().cast_mut().cast(),
            shape.as_ptr(),
            2,
            Dtype::U8.raw(),
            payload.cast(),
            Some(bridge::release),
        )
    };
    let array = Array::from_raw(raw)?;
    // Where the allocator has no such buffers MLX has made a copy instead.
    let in_place = array.data_address()? == file.as_ptr();
    Ok(in_place.then_some(array))
}

/// A copy of `content` in memory that the stream's device allocates. Arrays of data
/// are made in memory that CPU and GPU share, of which parts are moved to and fro; only
/// results of operations lie in the GPU's own.
fn send(
    stream: &Stream,
    content: &[u8],
    shape: &[i32],
    dtype: Dtype,
    piece_bytes: usize,
) -> Result<Array> {
    let n_rows = shape.first().map_or(1, |&rows| rows as usize);
    // An update of the whole array would be the array itself.
    if n_rows < 2 || content.is_empty() {
        return Array::copy_of(content, shape, dtype);
    }
    let row_bytes = content.len() / n_rows;
    let n_at_once = (piece_bytes / row_bytes).clamp(1, n_rows.div_ceil(2));
    let mut sent = stream.zeros(shape, dtype)?;
    for (index, piece) in content.chunks(n_at_once * row_bytes).enumerate() {
        let mut piece_shape = shape.to_vec();
        piece_shape[0] = (piece.len() / row_bytes) as i32;
        let mut start = vec![0; shape.len()];
        start[0] = (index * n_at_once) as i32;
        let piece = Array::copy_of(piece, &piece_shape, dtype)?;
        sent = stream.slice_update(sent, &piece, &start)?;
        stream.eval([&sent])?;
    }
    Ok(sent)
}

fn page_bytes() -> usize {
    // SAFETY: reads a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// A tensor as a view into an array of bytes; `start` is aligned to `dtype`.
fn view_into(
    file: &Array,
    start: usize,
    shape: &[i32],
    dtype: Dtype,
    stream: &Stream,
) -> Result<Array> {
    let typed = Array::build(|out| {
        // SAFETY: all handles live through the call.
        unsafe { sys::mlx_view(out, file.raw(), dtype.raw(), stream.raw()) }
    })?;
    let strides = row_major_strides(shape);
    let view = Array::build(|out| {
        // SAFETY: as above; shape and strides have the same length.
        unsafe {
            sys::mlx_as_strided(
                out,
                typed.raw(),
                shape.as_ptr(),
                shape.len(),
                strides.as_ptr(),
                strides.len(),
                start / dtype.bytes(),
                stream.raw(),
            )
        }
    })?;
    stream.eval([&view])?;
    if view.data_address()? != file.data_address()?.wrapping_add(start) {
        return Err(Error::internal("MLX copied a tensor that should be a view"));
    }
    Ok(view)
}

fn row_major_strides(shape: &[i32]) -> Vec<i64> {
    let mut strides = vec![1_i64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * i64::from(shape[axis]);
    }
    strides
}

/// The first bytes of an evaluated array, for tests that compare contents.
#[cfg(test)]
fn contents(array: &Array) -> Vec<u8> {
    let address = array.data_address().expect("evaluated");
    // SAFETY: evaluated and, in these tests, dense.
    unsafe { std::slice::from_raw_parts(address, array.bytes()) }.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::Device;
    use std::sync::Arc;

    fn stream() -> Stream {
        Stream::acquire(Device::Cpu).expect("a CPU stream")
    }

    #[test]
    fn wrapped_tensors_lie_in_the_map_at_any_alignment_and_release_it() {
        let memory: Arc<Vec<u8>> = Arc::new((0..4096u32).map(|i| (i % 251) as u8).collect());
        let owner: Owner = memory.clone();
        let stream = stream();
        let mut arrays = MappedArrays::new(&stream);
        for start in [8, 9, 11, 64, 4096 - 24] {
            let view = TensorView {
                file: &memory,
                owner: &owner,
                start,
                shape: &[2, 3],
                dtype: Dtype::F32,
            };
            let array = arrays.array(&view).expect("an array");
            assert_eq!(
                array.data_address().expect("there"),
                memory[start..].as_ptr()
            );
            assert_eq!(contents(&array), &memory[start..start + 24]);
        }
        assert_eq!(arrays.copied_bytes(), 0);
        assert_eq!(
            Arc::strong_count(&memory),
            2,
            "each array gave its reference back"
        );
    }

    #[test]
    fn a_tensor_past_the_end_or_over_the_header_is_refused() {
        let memory: Arc<Vec<u8>> = Arc::new(vec![0; 64]);
        let owner: Owner = memory.clone();
        let stream = stream();
        for start in [0, 7, 41, usize::MAX] {
            let view = TensorView {
                file: &memory,
                owner: &owner,
                start,
                shape: &[6],
                dtype: Dtype::F32,
            };
            assert!(
                MappedArrays::new(&stream).array(&view).is_err(),
                "start {start}"
            );
        }
    }

    #[test]
    fn what_is_sent_in_pieces_arrives_whole() {
        let stream = stream();
        for (shape, dtype) in [
            (vec![7, 3], Dtype::F32),
            (vec![2], Dtype::Bf16),
            (vec![1, 5], Dtype::U8),
            (vec![5, 2, 2], Dtype::U32),
            (vec![], Dtype::F32),
        ] {
            let n = element_count(&shape) * dtype.bytes();
            let content: Vec<u8> = (0..n).map(|i| (i * 37 % 251) as u8).collect();
            for piece_bytes in [1, 30, 1 << 20] {
                let sent = send(&stream, &content, &shape, dtype, piece_bytes).expect("sent");
                assert_eq!((sent.shape(), sent.dtype().unwrap()), (&shape[..], dtype));
                assert_eq!(
                    contents(&sent),
                    content,
                    "{shape:?} in pieces of {piece_bytes}"
                );
            }
        }
    }

    #[test]
    fn views_into_a_whole_file_point_into_it() {
        let bytes: Vec<u8> = (0..2 * 4096u32).map(|i| (i % 253) as u8).collect();
        let file = Array::copy_of(&bytes, &[2, 4096], Dtype::U8).expect("an array");
        let stream = stream();
        for (start, dtype) in [
            (16, Dtype::F32),
            (2 * 2049, Dtype::Bf16),
            (4096, Dtype::U32),
        ] {
            let view = view_into(&file, start, &[3, 5], dtype, &stream).expect("a view");
            assert_eq!(view.shape(), &[3, 5]);
            assert_eq!(contents(&view), &bytes[start..start + 15 * dtype.bytes()]);
        }
    }
}
