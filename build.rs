//! Compiles the C++ part of the MLX layer and tells the linker where MLX is.
//!
//! The paths come from `mlx-sys` as `DEP_MLX_*`: from its own build script on
//! Apple platforms, from `cargo xtask setup` elsewhere. Nothing is downloaded.

use std::env;
use std::path::{Path, PathBuf};

const CXX_SOURCES: &[&str] = &["src/mlx/bridge.cpp", "src/mlx/primitive.cpp"];
const SONAME: &str = "libumrt.so.0";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/mlx");

    let for_apple = variable("CARGO_CFG_TARGET_VENDOR").as_deref() == Some("apple");
    let on_apple = variable("HOST").is_some_and(|host| host.contains("-apple-"));
    if for_apple && !on_apple && variable("DEP_MLX_INCLUDE").is_none() {
        // Only type-checked from here: there is neither MLX nor a linker.
        return;
    }
    compile_cxx();
    if for_apple {
        let name = variable("UMRT_INSTALL_NAME").unwrap_or("@rpath/libumrt.dylib".to_owned());
        println!("cargo::rustc-link-arg-cdylib=-Wl,-install_name,{name}");
    } else {
        link_shared_mlx();
    }
}

fn compile_cxx() {
    let include_dirs = variable("DEP_MLX_INCLUDE").expect(
        "mlx-sys does not say where MLX's headers are: run `cargo xtask setup` and build again",
    );
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .flag_if_supported("-fvisibility=hidden")
        .files(CXX_SOURCES);
    for dir in env::split_paths(&include_dirs) {
        // As system headers, so that their warnings are not shown as ours.
        build.flag("-isystem").flag(&dir);
    }
    for define in variable("DEP_MLX_DEFINES")
        .iter()
        .flat_map(|list| list.split_whitespace())
    {
        build.define(define, None);
    }
    build.compile("umrt_mlx");
}

/// MLX is a shared library here. It is looked for beside ours, then where an
/// installed tree keeps it, then where this build found it.
fn link_shared_mlx() {
    let mlx_lib =
        PathBuf::from(variable("DEP_MLX_LIB").expect("set together with DEP_MLX_INCLUDE"));
    for dir in [Path::new("$ORIGIN"), Path::new("$ORIGIN/../lib"), &mlx_lib] {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", dir.display());
    }
    for dir in variable("DEP_MLX_RPATH_LINK")
        .iter()
        .flat_map(env::split_paths)
    {
        println!("cargo::rustc-link-arg=-Wl,-rpath-link,{}", dir.display());
    }
    println!("cargo::rustc-link-arg-cdylib=-Wl,-soname,{SONAME}");
}

fn variable(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok()
}
