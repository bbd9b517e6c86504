//! Compiles the C++ part of the MLX layer and tells the linker where MLX is.
//!
//! The paths come from `mlx-sys` as `DEP_MLX_*`: from its own build script on
//! Apple platforms, from `cargo xtask setup` elsewhere. Nothing is downloaded.

use std::env;
use std::fs;

const CXX_SOURCES: &[&str] = &["src/mlx/bridge.cpp", "src/mlx/primitive.cpp"];
/// Where the number stands that the soname ends in.
const ABI_SOURCE: &str = "src/capi/library.rs";
/// Where MLX is looked for, from the folder of the library: beside it, where an
/// installed tree keeps it, where umrt's archive does, and where Python packages lie.
const MLX_PLACES: &[&str] = &[
    "$ORIGIN",
    "$ORIGIN/../lib",
    "$ORIGIN/mlx/lib",
    "$ORIGIN/../../mlx/lib",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/mlx");
    println!("cargo::rerun-if-changed={ABI_SOURCE}");

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

/// MLX is a shared library here, looked for in its places and at last where this
/// build found it.
fn link_shared_mlx() {
    let mlx_lib = variable("DEP_MLX_LIB").expect("set together with DEP_MLX_INCLUDE");
    for dir in MLX_PLACES.iter().copied().chain([mlx_lib.as_str()]) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{dir}");
    }
    for dir in variable("DEP_MLX_RPATH_LINK")
        .iter()
        .flat_map(env::split_paths)
    {
        println!("cargo::rustc-link-arg=-Wl,-rpath-link,{}", dir.display());
    }
    // llguidance has C functions of its own, which would be exported beside ours.
    println!("cargo::rustc-link-arg-cdylib=-Wl,--exclude-libs,ALL");
    println!(
        "cargo::rustc-link-arg-cdylib=-Wl,-soname,libumrt.so.{}",
        abi_version()
    );
}

fn abi_version() -> u32 {
    let source = fs::read_to_string(ABI_SOURCE).expect("the source is there");
    let (_, rest) = source
        .split_once("UMRT_ABI_VERSION: u32 = ")
        .expect("the constant is there");
    let (number, _) = rest.split_once(';').expect("the constant ends");
    number.parse().expect("the ABI version is a number")
}

fn variable(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok()
}
