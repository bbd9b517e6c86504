//! Pointers from C as slices and text, and results into the caller's buffers.

use std::ffi::{CStr, c_char};
use std::path::PathBuf;

use crate::error::{Error, Result};

/// `length` elements at `pointer`; null is fine when there are none.
///
/// # Safety
/// `pointer` is null or readable for `length` elements while the slice is used.
pub(super) unsafe fn slice<'a, T>(pointer: *const T, length: usize, name: &str) -> Result<&'a [T]> {
    if length == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Error::invalid(format!(
            "{name} is NULL but its length is {length}"
        )));
    }
    if !pointer.is_aligned() || length > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Error::invalid(format!(
            "{name} is misaligned or its length is absurd"
        )));
    }
    // SAFETY: not null, aligned, of a possible size; readable by the contract.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// Elements at `pointer` in parts of these lengths, one after the other.
///
/// # Safety
/// As for `slice`, with the sum of the lengths.
pub(super) unsafe fn parts<'a, T>(
    pointer: *const T,
    lengths: &[usize],
    name: &str,
) -> Result<Vec<&'a [T]>> {
    let sum = lengths
        .iter()
        .fold(0_usize, |sum, n| sum.saturating_add(*n));
    // SAFETY: the caller's contract.
    let mut rest = unsafe { slice(pointer, sum, name)? };
    let part = |length: &usize| {
        let (part, behind) = rest.split_at(*length);
        rest = behind;
        part
    };
    Ok(lengths.iter().map(part).collect())
}

/// UTF-8 text of `length` bytes.
///
/// # Safety
/// As for `slice`.
pub(super) unsafe fn text<'a>(
    pointer: *const c_char,
    length: usize,
    name: &str,
) -> Result<&'a str> {
    // SAFETY: the caller's contract.
    let bytes = unsafe { slice(pointer.cast::<u8>(), length, name)? };
    std::str::from_utf8(bytes)
        .map_err(|error| Error::invalid(format!("{name} is not valid UTF-8: {error}")))
}

/// NUL-terminated UTF-8 text.
///
/// # Safety
/// `pointer` is null or NUL-terminated, and stays so while the text is used.
pub(super) unsafe fn c_text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: the caller's contract.
    unsafe { c_string(pointer, name)? }
        .to_str()
        .map_err(|error| Error::invalid(format!("{name} is not valid UTF-8: {error}")))
}

/// A NUL-terminated path; on Unix any bytes will do.
///
/// # Safety
/// As for `c_text`.
pub(super) unsafe fn path(pointer: *const c_char, name: &str) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: the caller's contract.
    let bytes = unsafe { c_string(pointer, name)? }.to_bytes();
    if bytes.is_empty() {
        return Err(Error::invalid(format!("{name} is empty")));
    }
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
}

/// # Safety
/// As for `c_text`.
unsafe fn c_string<'a>(pointer: *const c_char, name: &str) -> Result<&'a CStr> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL")));
    }
    // SAFETY: not null, NUL-terminated by the contract.
    Ok(unsafe { CStr::from_ptr(pointer) })
}

/// Says how many elements a result takes, and refuses a smaller buffer before anything
/// is computed.
///
/// # Safety
/// `needed` is null or writable.
pub(super) unsafe fn ensure_capacity<T>(
    n: usize,
    buffer: *const T,
    capacity: usize,
    needed: *mut usize,
) -> Result<()> {
    if !needed.is_null() {
        // SAFETY: the caller's contract.
        unsafe { needed.write(n) };
    }
    if n > capacity || (buffer.is_null() && n > 0) {
        return Err(Error::no_space(format!(
            "the buffer holds {} elements; {n} are needed",
            if buffer.is_null() { 0 } else { capacity }
        )));
    }
    Ok(())
}

/// Copies `values` into the caller's buffer of `capacity` elements. `needed`
/// always gets the capacity it takes; if there is less, nothing is written.
///
/// # Safety
/// `buffer` is null or writable for `capacity` elements, `needed` null or writable.
pub(super) unsafe fn copy_out<T: Copy>(
    values: &[T],
    buffer: *mut T,
    capacity: usize,
    needed: *mut usize,
) -> Result<()> {
    // SAFETY: the caller's contract.
    unsafe {
        ensure_capacity(values.len(), buffer, capacity, needed)?;
        if !values.is_empty() {
            std::ptr::copy_nonoverlapping(values.as_ptr(), buffer, values.len());
        }
    }
    Ok(())
}

/// As `copy_out`, for text: with a NUL behind it, which `needed` counts.
///
/// # Safety
/// As for `copy_out`.
pub(super) unsafe fn copy_out_text(
    value: &str,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> Result<()> {
    let mut bytes = Vec::with_capacity(value.len() + 1);
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(0);
    // SAFETY: the caller's contract.
    unsafe { copy_out(&bytes, buffer.cast::<u8>(), capacity, needed) }
}

/// Stores one result.
///
/// # Safety
/// `out` is null or writable.
pub(super) unsafe fn store<T>(out: *mut T, value: T, name: &str) -> Result<()> {
    if out.is_null() {
        return Err(Error::invalid(format!("{name} is NULL")));
    }
    // SAFETY: not null; writable by the contract.
    unsafe { out.write(value) };
    Ok(())
}

/// A fixed-size text field, NUL-terminated, cut at a character if it is too long.
pub(super) fn fixed_text<const N: usize>(value: &str) -> [c_char; N] {
    let mut field = [0; N];
    let end = value.floor_char_boundary(N - 1);
    for (slot, byte) in field.iter_mut().zip(&value.as_bytes()[..end]) {
        *slot = *byte as c_char;
    }
    field
}

/// A count for a 32-bit field, at most its maximum.
pub(super) fn count32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Refuses flags that this version does not know.
pub(super) fn known_flags(flags: u32, known: u32) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(Error::unsupported(format!(
            "flags {unknown:#x} are not known"
        ))),
    }
}
