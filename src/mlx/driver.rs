//! What keeps NVIDIA's driver from being used. MLX only counts its GPUs.

use std::ffi::{CStr, CString, c_int, c_void};

/// CUDA 13, which MLX's package is built with: as the driver numbers it, and the
/// first driver that has it.
const NEEDED_CUDA: c_int = 13_000;
const NEEDED_DRIVER: &str = "580";
const LIBRARY: &CStr = c"libcuda.so.1";

/// What the driver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    NoLibrary,
    /// The newest CUDA that it can, as `1000 * major + 10 * minor`.
    TooOld(c_int),
    /// `cuInit` failed with this code.
    Failed(c_int),
    NoDevice,
}

/// `CUDA_ERROR_NO_DEVICE`
const NO_DEVICE: c_int = 100;

/// Why MLX sees no GPU, for people.
pub(super) fn problem() -> String {
    describe(look(LIBRARY))
}

fn describe(finding: Finding) -> String {
    match finding {
        Finding::NoLibrary => format!(
            "no GPU can be used: NVIDIA's driver is not installed ({} was not found); install \
             version {NEEDED_DRIVER} or later",
            LIBRARY.to_string_lossy()
        ),
        Finding::TooOld(cuda) => format!(
            "no GPU can be used: NVIDIA's driver is too old: it is for CUDA {}.{}, and this libmlx \
             needs CUDA {}; install version {NEEDED_DRIVER} or later",
            cuda / 1000,
            cuda % 1000 / 10,
            NEEDED_CUDA / 1000
        ),
        Finding::Failed(code) => format!(
            "no GPU can be used: NVIDIA's driver cannot start (error {code}); `nvidia-smi` may \
             say more"
        ),
        Finding::NoDevice => "no GPU can be used: NVIDIA's driver sees none; look at \
                              CUDA_VISIBLE_DEVICES and `nvidia-smi`"
            .to_owned(),
    }
}

fn look(library: &CStr) -> Finding {
    // SAFETY: loading NVIDIA's driver runs its initializers, as MLX does.
    let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Finding::NoLibrary;
    }
    let mut version: c_int = 0;
    // SAFETY: these are the driver's functions, which it documents so: an integer to
    // write, flags that are 0.
    unsafe {
        let get_version: Option<unsafe extern "C" fn(*mut c_int) -> c_int> =
            function(handle, "cuDriverGetVersion");
        let init: Option<unsafe extern "C" fn(u32) -> c_int> = function(handle, "cuInit");
        let (Some(get_version), Some(init)) = (get_version, init) else {
            return Finding::NoLibrary;
        };
        if get_version(&mut version) == 0 && version < NEEDED_CUDA {
            return Finding::TooOld(version);
        }
        match init(0) {
            0 | NO_DEVICE => Finding::NoDevice,
            code => Finding::Failed(code),
        }
    }
}

/// # Safety
/// `handle` is a loaded library, whose function `name` is an `F`.
unsafe fn function<F>(handle: *mut c_void, name: &str) -> Option<F> {
    let name = CString::new(name).ok()?;
    // SAFETY: the caller's.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    assert_eq!(
        size_of::<F>(),
        size_of::<*mut c_void>(),
        "a function pointer"
    );
    // SAFETY: the caller's; the sizes are the same.
    (!address.is_null()).then(|| unsafe { std::mem::transmute_copy(&address) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_not_there_is_named() {
        assert_eq!(look(c"libumrt-no-such-driver.so.1"), Finding::NoLibrary);
        assert!(describe(Finding::NoLibrary).contains("libcuda.so.1"));
    }

    #[test]
    fn a_library_that_is_no_driver_is_none() {
        assert_eq!(look(c"libc.so.6"), Finding::NoLibrary);
    }

    #[test]
    fn an_old_driver_is_told_from_the_one_that_is_needed() {
        let text = describe(Finding::TooOld(12_040));
        for part in ["12.4", "CUDA 13", "580"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
