//! A library for macOS, linked on Linux: against MLX's own binary for Macs, by the
//! linker that comes with Rust, with the C++ compiled by zig. It shows that all
//! fits together; whether it runs only a Mac can say.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Part;
use super::inspect;
use super::slice::Slice;
use crate::apple;
use crate::bindings;
use crate::cache::Cache;
use crate::library::FOR_C;
use crate::mlx::{self, Source};
use crate::python::Requirements;
use crate::toolchain::{Toolchain, without_own_flags};
use crate::util::{self, cargo, quoted, run, write_if_changed};

const MLX_METAL: Requirements = Requirements::new(
    "mlx-metal",
    include_str!("../../requirements/mlx-metal.txt"),
);
const MLX_METAL_TAG: &str = "macosx_14_0_arm64";
const ZIG: Requirements = Requirements::new("zig", include_str!("../../requirements/ziglang.txt"));
/// C++20 without GNU's extensions loses NAN and INFINITY in zig's headers. With
/// availability on, nothing newer than macOS 14's libc++ is used. Without
/// optimization zig adds checks that need its own library.
const CXX_FLAGS: &str = "-std=gnu++20 -O1 -fno-sanitize=undefined -fvisibility=hidden \
    -U_LIBCPP_DISABLE_AVAILABILITY \
    -U_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS \
    -D_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS=1";
/// What the C++ runtime's symbols begin with.
const CXX_RUNTIME: &[&str] = &["_Z", "__cxa_", "__gxx_", "__dynamic_cast"];

pub fn build(slice: &'static Slice) -> Result<Part> {
    let metadata = util::metadata()?;
    let folder = metadata.target_dir.join("xcframework");
    let cache = Cache::open()?;
    let tools = Tools::install(&cache, slice, &folder)?;
    let wheel = MLX_METAL.unpacked_for(&cache, Some(MLX_METAL_TAG))?;
    let source = Source::of(&metadata.mlx_sys_dir)?;
    let include_dirs = vec![wheel.join("mlx/include"), source.root.clone()];
    let mlxc = tools.compiled_mlxc(&cache, &source, &include_dirs)?;
    let target = apple::TARGETS
        .iter()
        .find(|target| target.triple == slice.triple)
        .context("a target that check-apple knows")?;
    let bindings = bindings::folder(&cache, &source, target.triple, target.clang_args)?;
    let sysroot =
        Toolchain::installed()?.sysroot_with_std(&cache, "apple-std", &apple::triples())?;
    drop(cache);

    let mlx_lib = wheel.join("mlx/lib");
    let config = tools.cargo_config(
        slice.triple,
        sysroot.as_deref(),
        &[&mlxc, &mlx_lib],
        &bindings,
        &include_dirs,
    )?;
    run(without_own_flags(&mut cargo())
        .args(["build", "--package=umrt", "--lib", FOR_C])
        .args(["--target", slice.triple])
        .arg("--config")
        .arg(config)
        .arg("--target-dir")
        .arg(&folder)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("UMRT_INSTALL_NAME", slice.install_name())
        .env("SDKROOT", &tools.sdk)
        .env(slice.deployment_target, slice.minimum_os_text())
        .env(variable("CXX", slice), tools.bin.join("c++"))
        .env(variable("AR", slice), tools.bin.join("ar")))?;
    let library = folder.join(slice.triple).join("debug/libumrt.dylib");
    check_imports(&library, &mlx_lib.join("libmlx.dylib"), &tools.sdk)?;
    Ok(Part {
        slice,
        library,
        metallib: mlx_lib.join("mlx.metallib"),
    })
}

/// `CXX_aarch64_apple_darwin` and the like, which the crate cc looks for.
fn variable(name: &str, slice: &Slice) -> String {
    format!("{name}_{}", slice.triple.replace('-', "_"))
}

/// Programs that behave as those of a Mac, as far as building umrt goes.
struct Tools {
    bin: PathBuf,
    sdk: PathBuf,
}

impl Tools {
    fn install(cache: &Cache, slice: &Slice, folder: &Path) -> Result<Self> {
        let zig = ZIG.unpacked(cache)?.join("ziglang");
        let tools = Self {
            bin: folder.join("bin"),
            sdk: folder.join("sdk"),
        };
        make_executable(&zig.join("zig"))?;
        fs::create_dir_all(&tools.bin)?;
        tools.write_scripts(&zig.join("zig"), slice, &folder.join("zig-cache"))?;
        tools.write_sdk(&zig)?;
        Ok(tools)
    }

    fn write_scripts(&self, zig: &Path, slice: &Slice, zig_cache: &Path) -> Result<()> {
        let zig = format!(
            "export ZIG_GLOBAL_CACHE_DIR='{cache}' ZIG_LOCAL_CACHE_DIR='{cache}'\nexec '{}'",
            zig.display(),
            cache = zig_cache.display()
        );
        // What clang is told about Apple's SDK, zig knows by itself.
        let drop_options = "skip=\nfor argument; do\n  shift\n  \
            if [ -n \"$skip\" ]; then skip=; continue; fi\n  case $argument in\n    \
            -arch|-isysroot) skip=1 ;;\n    \
            --target=*|-mmacosx-version-min=*|-std=c++20) ;;\n    \
            *) set -- \"$@\" \"$argument\" ;;\n  esac\ndone\n";
        let target = format!("aarch64-macos.{}", slice.minimum_os_text());
        self.write_script(
            "c++",
            &format!("{drop_options}{zig} c++ -target {target} {CXX_FLAGS} \"$@\"\n"),
        )?;
        self.write_script("ar", &format!("{zig} ar \"$@\"\n"))?;
        // Rust calls the linker itself, but build scripts talk to a compiler.
        let split_options = "for argument; do\n  shift\n  case $argument in\n    \
            -Wl,*) IFS=,; set -- \"$@\" ${argument#-Wl,}; unset IFS ;;\n    \
            *) set -- \"$@\" \"$argument\" ;;\n  esac\ndone\n";
        let linker = Toolchain::installed()?.linker();
        self.write_script(
            "ld",
            &format!("{split_options}exec '{}' \"$@\"\n", linker.display()),
        )
    }

    fn write_script(&self, name: &str, script: &str) -> Result<()> {
        let file = self.bin.join(name);
        write_if_changed(&file, &format!("#!/bin/sh\n{script}"))?;
        make_executable(&file)
    }

    /// Stubs of the system's libraries: zig's of libSystem, whose targets lack
    /// arm64, and empty ones, whose symbols are looked up when the library is loaded.
    fn write_sdk(&self, zig: &Path) -> Result<()> {
        let lib = self.sdk.join("usr/lib");
        fs::create_dir_all(&lib)?;
        let system = fs::read_to_string(zig.join("lib/libc/darwin/libSystem.tbd"))?
            .replace("arm64-", "arm64e-")
            .replace("arm64e.x1-", "arm64-");
        for name in ["System", "c", "m"] {
            fs::write(lib.join(format!("lib{name}.tbd")), &system)?;
        }
        for (name, file) in [("c++", "libc++.1.dylib"), ("iconv", "libiconv.2.dylib")] {
            let stub = format!(
                "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\n\
                 install-name: '/usr/lib/{file}'\n...\n"
            );
            fs::write(lib.join(format!("lib{name}.tbd")), stub)?;
        }
        Ok(())
    }

    fn compiled_mlxc(
        &self,
        cache: &Cache,
        source: &Source,
        include_dirs: &[PathBuf],
    ) -> Result<PathBuf> {
        let key = source
            .key()?
            .text(&MLX_METAL.text)
            .text(&ZIG.text)
            .text(CXX_FLAGS);
        cache.entry("mlx-c-macos", key, |dir| {
            let compiler = || {
                let mut compiler = Command::new(self.bin.join("c++"));
                compiler.arg("-w");
                compiler
            };
            let archiver = Command::new(self.bin.join("ar"));
            mlx::compile_archive(source, include_dirs, dir, &compiler, archiver)
                .context("compiling mlx-c for macOS")
        })
    }

    fn cargo_config(
        &self,
        triple: &str,
        sysroot: Option<&Path>,
        libraries: &[&Path],
        bindings: &Path,
        include_dirs: &[PathBuf],
    ) -> Result<PathBuf> {
        let sysroot = sysroot.map(|path| format!("--sysroot={}", path.display()));
        let flags: Vec<_> = sysroot
            .into_iter()
            .chain(["-Clinker-flavor=ld64.lld", "-Clink-arg=-undefined"].map(str::to_owned))
            .chain(["-Clink-arg=dynamic_lookup".to_owned()])
            .map(|flag| quoted(&flag))
            .collect();
        let search: Vec<_> = libraries
            .iter()
            .map(|path| quoted(&format!("native={}", path.display())))
            .collect();
        let include = std::env::join_paths(include_dirs)?;
        let config = format!(
            "[target.{triple}]\n\
             linker = {linker}\n\
             rustflags = [{flags}]\n\
             \n\
             [target.{triple}.mlx]\n\
             rustc-link-search = [{search}]\n\
             rustc-link-lib = [\"static=mlxc\", \"dylib=mlx\", \"dylib=c++\"]\n\
             rustc-env = {{ OUT_DIR = {bindings} }}\n\
             include = {include}\n",
            linker = quoted(&self.bin.join("ld").display().to_string()),
            flags = flags.join(", "),
            search = search.join(", "),
            bindings = quoted(&bindings.display().to_string()),
            include = quoted(&include.to_string_lossy()),
        );
        let file = self.bin.with_file_name("config.toml");
        write_if_changed(&file, &config)?;
        Ok(file)
    }
}

fn make_executable(file: &Path) -> Result<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("making {} executable", file.display()))
}

/// Whether everything that the linker left to the loader is in a library that the
/// loader will find.
fn check_imports(library: &Path, mlx: &Path, sdk: &Path) -> Result<()> {
    let imports = inspect::read(library)?.imports;
    let from_mlx = inspect::read(mlx)?.exports;
    let system = fs::read_to_string(sdk.join("usr/lib/libSystem.tbd"))?;
    let from_system: BTreeSet<_> = system
        .split(|character: char| character.is_whitespace() || "[],'".contains(character))
        .map(|word| word.strip_prefix('_').unwrap_or(word))
        .collect();
    let unknown: Vec<_> = imports
        .iter()
        .filter(|name| !from_mlx.contains(*name) && !from_system.contains(name.as_str()))
        .filter(|name| !CXX_RUNTIME.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    ensure!(
        unknown.is_empty(),
        "{} needs what neither MLX nor macOS has: {unknown:?}",
        library.display()
    );
    println!(
        "{} symbols are imported, {} of them from MLX",
        imports.len(),
        imports.intersection(&from_mlx).count()
    );
    Ok(())
}
