//! Structures that grow: each begins with `struct_size`, which tells how much of
//! it the caller knows. What an older caller lacks reads as zero, the default.

use std::mem::MaybeUninit;

use crate::error::{Error, Result};

/// A structure of the C API.
///
/// # Safety
/// `repr(C)`, begins with `struct_size: u32`, and all-zero bytes are a value.
pub(super) unsafe trait CStruct: Copy {
    const NAME: &'static str;
}

const SIZE_FIELD: usize = size_of::<u32>();
/// No structure comes near this; a larger size is uninitialized memory.
const MAX_SIZE: usize = 1 << 16;

/// Reads an input structure; null means all defaults.
///
/// # Safety
/// `pointer` is null or readable for the `struct_size` bytes it says.
pub(super) unsafe fn read<T: CStruct>(pointer: *const T) -> Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    if !pointer.is_null() {
        // SAFETY: the caller's contract; at most size_of::<T>() bytes are
        // copied, into a value of that size.
        unsafe {
            let size = known_size(pointer)?;
            ensure_zero_tail::<T>(pointer.cast(), size)?;
            let bytes = size.min(size_of::<T>());
            std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast(), bytes);
        }
    }
    // SAFETY: zeroes and the caller's bytes are a value by `CStruct`.
    Ok(unsafe { value.assume_init() })
}

/// Reads an array of input structures, whose elements follow each other at the
/// distance of the first one's `struct_size`.
///
/// # Safety
/// `pointer` is null or readable for `length` such structures.
pub(super) unsafe fn read_array<T: CStruct>(pointer: *const T, length: usize) -> Result<Vec<T>> {
    // SAFETY: the caller's contract.
    unsafe {
        let elements = elements(pointer, length)?;
        elements.into_iter().map(|element| read(element)).collect()
    }
}

/// Refuses a reserved field that is not zero: it may mean something one day.
pub(super) fn ensure_reserved<T: CStruct>(reserved: u32) -> Result<()> {
    match reserved {
        0 => Ok(()),
        other => Err(Error::unsupported(format!(
            "{}.reserved is {other}; leave it zero",
            T::NAME
        ))),
    }
}

/// Fills an output structure as far as the caller knows it.
///
/// # Safety
/// `pointer` is null or writable for the `struct_size` bytes it says.
pub(super) unsafe fn write<T: CStruct>(pointer: *mut T, value: T) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(format!(
            "the {} to fill in is NULL",
            T::NAME
        )));
    }
    // SAFETY: the caller's contract; `struct_size` itself is left alone.
    unsafe {
        let size = known_size(pointer)?;
        let from = (&raw const value).cast::<u8>();
        let to = pointer.cast::<u8>();
        let known = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping(from.add(SIZE_FIELD), to.add(SIZE_FIELD), known - SIZE_FIELD);
        to.add(known).write_bytes(0, size - known);
    }
    Ok(())
}

/// A result structure that the caller may decline with a null pointer. It is
/// checked before the work whose result it is for.
pub(super) struct Destination<T>(*mut T);

impl<T: CStruct> Destination<T> {
    /// # Safety
    /// As for `write`, for as long as the destination is used.
    pub(super) unsafe fn new(pointer: *mut T) -> Result<Self> {
        if !pointer.is_null() {
            // SAFETY: the caller's contract.
            unsafe { known_size(pointer)? };
        }
        Ok(Self(pointer))
    }

    pub(super) fn fill(self, value: T) -> Result<()> {
        match self.0.is_null() {
            true => Ok(()),
            // SAFETY: the contract of `new`.
            false => unsafe { write(self.0, value) },
        }
    }
}

/// As `Destination`, for an array of structures as `read_array` takes them.
pub(super) struct Destinations<T>(Vec<Destination<T>>);

impl<T: CStruct> Destinations<T> {
    /// # Safety
    /// `pointer` is null or writable for `length` structures, for as long as the
    /// destinations are used.
    pub(super) unsafe fn new(pointer: *mut T, length: usize) -> Result<Self> {
        if pointer.is_null() {
            return Ok(Self(Vec::new()));
        }
        // SAFETY: the caller's contract.
        let elements = unsafe { elements(pointer, length)? };
        let destinations = elements.into_iter().map(|one| Destination(one.cast_mut()));
        Ok(Self(destinations.collect()))
    }

    pub(super) fn fill(self, values: impl IntoIterator<Item = T>) -> Result<()> {
        let mut pairs = self.0.into_iter().zip(values);
        pairs.try_for_each(|(destination, value)| destination.fill(value))
    }
}

/// Where the structures of an array are.
///
/// # Safety
/// `pointer` is null or readable for `length` structures at the distance of the
/// first one's `struct_size`.
unsafe fn elements<T: CStruct>(pointer: *const T, length: usize) -> Result<Vec<*const T>> {
    if length == 0 {
        return Ok(Vec::new());
    }
    if pointer.is_null() {
        return Err(Error::invalid(format!(
            "the array of {length} {} is NULL",
            T::NAME
        )));
    }
    // SAFETY: the caller's contract.
    unsafe {
        let size = known_size(pointer)?;
        let elements = (0..length).map(|index| pointer.byte_add(index * size));
        let same_size = |element: *const T| match known_size(element)? == size {
            true => Ok(element),
            false => Err(Error::invalid(format!(
                "the {} in an array differ in struct_size; initialize each with its _INIT macro",
                T::NAME
            ))),
        };
        elements.map(same_size).collect()
    }
}

/// # Safety
/// `pointer` is readable for at least its first four bytes.
unsafe fn known_size<T: CStruct>(pointer: *const T) -> Result<usize> {
    // SAFETY: the first field; read bytewise, so that a caller's packing or
    // alignment does not matter.
    let size = unsafe { pointer.cast::<u32>().read_unaligned() } as usize;
    if !(SIZE_FIELD..=MAX_SIZE).contains(&size) {
        return Err(Error::invalid(format!(
            "{}.struct_size is {size}; initialize the structure with its _INIT macro",
            T::NAME
        )));
    }
    Ok(size)
}

/// # Safety
/// `bytes` is readable for `size` bytes.
unsafe fn ensure_zero_tail<T: CStruct>(bytes: *const u8, size: usize) -> Result<()> {
    let is_zero = |offset| {
        // SAFETY: `offset` is below `size`.
        unsafe { bytes.add(offset).read() == 0 }
    };
    match (size_of::<T>()..size).all(is_zero) {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "{} has fields that this version ({}) does not know; leave them zero or update umrt",
            T::NAME,
            env!("CARGO_PKG_VERSION")
        ))),
    }
}

/// Declares `CStruct` for structures that fulfil its contract.
macro_rules! c_structs {
    ($($name:ident),* $(,)?) => {
        $(
            // SAFETY: repr(C), `struct_size` first, and made of integers, floats,
            // pointers and optional function pointers, for which zero is a value.
            unsafe impl crate::capi::structs::CStruct for $name {
                const NAME: &'static str = stringify!($name);
            }
        )*
    };
}
pub(super) use c_structs;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Params {
        struct_size: u32,
        a: u32,
        b: u64,
    }
    c_structs!(Params);

    #[repr(C)]
    struct Newer {
        known: Params,
        c: u64,
    }

    fn newer(c: u64) -> Newer {
        let known = Params {
            struct_size: size_of::<Newer>() as u32,
            a: 7,
            b: 9,
        };
        Newer { known, c }
    }

    #[test]
    fn an_older_callers_missing_fields_are_zero() {
        let old = Params {
            struct_size: 8,
            a: 7,
            b: 9,
        };
        // SAFETY: readable for more than struct_size.
        let params = unsafe { read(&old) }.expect("valid");
        assert_eq!((params.a, params.b), (7, 0));
        // SAFETY: null is allowed.
        let defaults = unsafe { read::<Params>(std::ptr::null()) }.expect("defaults");
        assert_eq!(defaults.b, 0);
    }

    #[test]
    fn a_newer_callers_fields_must_be_zero() {
        let (plain, asking) = (newer(0), newer(1));
        // SAFETY: readable for struct_size.
        unsafe {
            assert_eq!(read(&raw const plain.known).expect("valid").b, 9);
            let error = read(&raw const asking.known).expect_err("unknown field");
            assert_eq!(error.status(), Status::Unsupported);
        }
    }

    #[test]
    fn results_are_written_as_far_as_the_caller_knows() {
        let value = Params {
            struct_size: 0,
            a: 1,
            b: 2,
        };
        let mut old = Params {
            struct_size: 8,
            a: 0,
            b: 5,
        };
        let mut new = newer(3);
        // SAFETY: both are writable for struct_size.
        unsafe {
            write(&mut old, value).expect("valid");
            write(&raw mut new.known, value).expect("valid");
        }
        assert_eq!(
            old,
            Params {
                struct_size: 8,
                a: 1,
                b: 5
            }
        );
        assert_eq!((new.known.b, new.c), (2, 0));
    }

    #[test]
    fn elements_of_an_array_are_as_far_apart_as_the_caller_says() {
        let array = [newer(0), newer(0)];
        let first = (&raw const array).cast::<Params>();
        // SAFETY: readable for two structures of the first one's struct_size.
        let read = unsafe { read_array(first, 2) }.expect("valid");
        assert_eq!(read, [array[0].known, array[1].known]);

        let mut results = [newer(7), newer(7)];
        let value = Params {
            struct_size: 0,
            a: 1,
            b: 2,
        };
        // SAFETY: writable for two structures of the first one's struct_size.
        let destinations = unsafe { Destinations::new((&raw mut results).cast::<Params>(), 2) };
        let filled = destinations.and_then(|all| all.fill([value, value]));
        filled.expect("valid");
        for result in results {
            assert_eq!((result.known.a, result.known.b, result.c), (1, 2, 0));
        }
    }

    #[test]
    fn elements_of_different_sizes_are_refused() {
        let params = |struct_size| Params {
            struct_size,
            a: 0,
            b: 0,
        };
        let size = size_of::<Params>() as u32;
        for last in [0, 8] {
            let array = [params(size), params(last)];
            // SAFETY: readable for two structures of the first one's struct_size.
            let error = unsafe { read_array(array.as_ptr(), 2) }.expect_err("refused");
            assert!(error.message().contains("_INIT"), "{error}");
        }
    }

    #[test]
    fn an_uninitialized_size_is_refused() {
        for struct_size in [0, 3, u32::MAX] {
            let params = Params {
                struct_size,
                a: 0,
                b: 0,
            };
            // SAFETY: the size is refused before anything else is read.
            let error = unsafe { read(&params) }.expect_err("refused");
            assert!(error.message().contains("_INIT"), "{error}");
        }
    }
}
