//! libclang, which bindgen loads at run time.

use std::env;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::python::Requirements;

const LIBCLANG: Requirements =
    Requirements::new("libclang", include_str!("../requirements/libclang.txt"));

/// Where the wheel keeps `libclang.so`.
const LIBRARY_DIR: &str = "libclang-18.1.1.data/platlib/clang/native";

/// Loads the system's libclang, or else the one from PyPI.
pub fn load(cache: &Cache) -> Result<()> {
    if clang_sys::is_loaded() || clang_sys::load().is_ok() {
        return Ok(());
    }
    let dir = LIBCLANG
        .unpacked(cache)
        .context("no libclang on this system (apt-get install libclang-dev provides one)")?;
    // SAFETY: called before any thread is started.
    unsafe { env::set_var("LIBCLANG_PATH", dir.join(LIBRARY_DIR)) };
    clang_sys::load()
        .map_err(anyhow::Error::msg)
        .context("loading libclang")
}
