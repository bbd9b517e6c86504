//! `cargo xtask`: the one build tool a person working on umrt has to know.

mod apple;
mod apt;
mod arm;
mod bench;
mod bindings;
mod cache;
mod cinstall;
mod clang;
mod cuda;
mod debian;
mod demo;
mod dist;
mod docs;
mod examples;
mod fuzz;
mod gpu_bundle;
mod header;
mod installed;
mod kernels_crate;
mod library;
mod mlx;
mod models;
mod parity;
mod pictures;
mod python;
mod reliability;
mod sanitize;
mod setup;
mod soak;
mod supply_chain;
mod swift;
mod test;
mod tests_run;
mod toolchain;
mod unsafe_code;
mod util;
mod version;
mod xcframework;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask <command>

  setup [--cuda | --cpu]        fetch MLX and build its C bindings, once per machine
  setup --swift                 fetch a Swift compiler for Linux (540 MB, unpacked 1.3 GB)
  build                         the release library, ready to link with
  demo [PROMPT] [-- ARGS]       generate text with the bundled model through C
  dist                          the packages for C, Python and Swift, in dist/ with their checksums
  docs                          the reference of the C API as HTML, in target/docs (Doxygen)
  header [--check]              write include/umrt.h, or check that it is up to date
  unsafe [--check]              write docs/unsafe.md, where the source has unsafe code and why, or
                                check that it is up to date
  reliability [--check]         write docs/reliability.md from the records of runs that try to break
                                umrt, or check that it is up to date
  pictures                      draw the README's terminal anew, with what `umrt run` prints
  models                        write docs/models.md: the families, and how exactly they agree
  parity [--random N] [--seed S]
                                the same as a table; or of N checkpoints drawn at random
  test [--only STEPS] [FILTER]  everything that has to hold before a merge; STEPS is a
                                comma-separated part of
                                fmt,clippy,header,docs,licenses,rust,fuzz,c,address,soak,python,swift,
                                symbols,dist,apple,arm
  soak [--quick] [--model FOLDER]
                                whether anything is left of what is done very often, how fast an
                                evaluation of that model stops, and, without --quick, ten minutes of
                                many threads and each call of MLX's failing; for docs/reliability.md
  fuzz [TARGET] [--seconds N] [--record]
                                hostile input for each of tests/hostile/targets, guided by coverage
  sanitize [address | memcheck | rust | thread] [FILTER]
                                the C programs under sanitizers and valgrind
  bench [--quick] [--only NAMES] [--json FILE] [--chart FILE] [--readme] [--from FILE]
                                umrt against llama.cpp and mlx-lm on this machine (see
                                docs/benchmarks.md)
  bench sequences [OPTIONS]     many requests at once, forks, files; options as of bench
  bench memory [--only MODELS]  what was predicted against what is taken, here and there
  xcframework [--slices NAMES] [--url URL]
                                the library as an XCFramework for Swift and Xcode, on a Mac
                                (see docs/apple.md)
  check-xcframework             one made on Linux: its layout, exports and versions
  check-apple                   clippy over the code for macOS and iOS, from Linux
  check-arm                     the kernels' tests on an emulated ARM processor
  check-cinstall                what `cargo cinstall` installs, used through pkg-config; compiles
                                cargo-c first, which takes minutes
  check-cuda                    libumrt beside MLX for NVIDIA's GPUs, as far as it goes without one
  gpu-bundle [--cpu] [--without PACKAGES] [FOLDER]
                                a folder that compares and times umrt on a machine with a GPU and
                                without a network (see docs/gpu.md)

What setup makes is kept in $UMRT_CACHE, or else $XDG_CACHE_HOME/umrt or ~/.cache/umrt.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let Some((command, rest)) = args.split_first() else {
        print!("{HELP}");
        return Ok(());
    };
    match command.as_str() {
        "setup" => setup::command(rest),
        "build" => library::command(rest),
        "demo" => demo::command(rest),
        "dist" => dist::command(rest),
        "docs" => docs::command(rest),
        "fuzz" => fuzz::command(rest),
        "soak" => soak::command(rest),
        "sanitize" => sanitize::command(rest),
        "header" => header::command(rest),
        "unsafe" => unsafe_code::command(rest),
        "reliability" => reliability::command(rest),
        "parity" => parity::command(rest),
        "pictures" => pictures::command(rest),
        "models" => models::command(rest),
        "test" => test::command(rest),
        "bench" => bench::command(rest),
        "xcframework" => xcframework::command(rest),
        "check-xcframework" => xcframework::check_command(rest),
        "check-apple" => apple::command(rest),
        "check-arm" => arm::command(rest),
        "check-cinstall" => cinstall::command(rest),
        "check-cuda" => cuda::command(rest),
        "gpu-bundle" => gpu_bundle::command(rest),
        "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(())
        }
        unknown => bail!("there is no command `{unknown}`; `cargo xtask` lists them"),
    }
}
