//! `cargo xtask sanitize`: programs under tools that see what a program cannot: memory
//! used wrongly, undefined behaviour, leaks, races.
//!
//! - `address`: tests/c compiled with AddressSanitizer, UndefinedBehaviorSanitizer and
//!   LeakSanitizer, against the ordinary library, whose allocations they see
//! - `memcheck`: some of them under valgrind, which sees inside of the library too
//! - `rust`: the kernels and the library's tests of itself, compiled with AddressSanitizer
//! - `thread`: the kernels' pool of threads, and the library where several threads use
//!   it, compiled with ThreadSanitizer, std included

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, bail};

use crate::cache::Cache;
use crate::kernels_crate;
use crate::library::{Library, bundled_model, standalone};
use crate::setup::setup;
use crate::test::{Outcome, c_sources};
use crate::toolchain::{ADDRESS, Sanitizer, THREAD, Toolchain, without_own_flags};
use crate::util::{cargo, find_program, quoted, root, run, write_if_changed};

const ADDRESS_FLAGS: [&str; 3] = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
];
/// A request for more memory than there is fails, as it does without.
const ADDRESS_OPTIONS: &str =
    "allocator_may_return_null=1:detect_stack_use_after_return=1:strict_string_checks=1";
/// What cannot run there: two have a `malloc` of their own, one limits the address space, of
/// which the sanitizer takes terabytes, one measures memory, which it keeps after it was
/// freed, and one takes longer than all others.
const NOT_WITH_ADDRESS: [&str; 5] = [
    "out_of_memory",
    "small_allocations",
    "resource_limits",
    "lifecycle",
    "stress",
];
/// A forked child gives nothing back.
const WITH_LEAKS: [&str; 1] = ["fork"];
/// Half a minute of all of them.
const QUICK: [&str; 6] = [
    "conventions",
    "eval",
    "generate",
    "many",
    "structures",
    "text",
];
/// What several threads do, of the tests in tests/runtime.
const OF_THREADS: [&str; 4] = ["threads::", "cancelling::", "scheduling::", "prefixes::"];
/// MLX is compiled without, so the order that its atomic reference counts make is not seen:
/// when an array is there, and that an event, with its mutex and condition variable, ends
/// with the last of those who share it, of which the task that signals it is one. (The
/// condition variables of Rust's std are futexes, which nobody destroys.)
const NOT_RACES: &str = "\
race:mlx::core::array::is_available
race:mlx::core::Event::signal
race:pthread_cond_destroy
";
/// Valgrind is 50 times as slow as the machine.
const UNDER_VALGRIND: [&str; 6] = QUICK;

pub fn command(args: &[String]) -> Result<()> {
    let (form, filters) = match args {
        [] => ("address", args),
        [form, filters @ ..] => (form.as_str(), filters),
    };
    match form {
        "address" => address(filters),
        "memcheck" => memcheck(filters),
        "rust" => rust(),
        "thread" => thread(),
        _ => bail!("usage: cargo xtask sanitize [address | memcheck | rust | thread] [FILTER]"),
    }
}

/// The quick part of `address`.
pub fn check(_: &[String]) -> Result<Outcome> {
    if cfg!(target_vendor = "apple") {
        return Ok(Outcome::Skipped("on Linux only".to_owned()));
    }
    address(&QUICK.map(|name| format!("/{name}.c")))?;
    Ok(Outcome::Passed)
}

fn address(filters: &[String]) -> Result<()> {
    let library = Library::build()?;
    let folder = library.programs().join("address");
    run_all(
        &c_sources("tests/c", filters)?,
        &NOT_WITH_ADDRESS,
        |source, model| {
            let program = library.compile_program_with(source, &folder, &ADDRESS_FLAGS)?;
            let finds_leaks = !WITH_LEAKS.contains(&&*stem(source));
            let options = format!("{ADDRESS_OPTIONS}:detect_leaks={}", u8::from(finds_leaks));
            run(standalone(program)
                .arg(model)
                .env("ASAN_OPTIONS", options)
                // Its `dlopen` does not look where the program's would.
                .env("LD_LIBRARY_PATH", library.dir())
                .env("UBSAN_OPTIONS", "print_stacktrace=1")
                .stdin(Stdio::null()))
        },
    )
}

fn memcheck(filters: &[String]) -> Result<()> {
    let Some(valgrind) = find_program("valgrind") else {
        bail!("valgrind is missing: apt-get install valgrind");
    };
    let library = Library::build()?;
    let filters = match filters {
        [] => UNDER_VALGRIND.map(|name| format!("/{name}.c")).to_vec(),
        filters => filters.to_vec(),
    };
    run_all(&c_sources("tests/c", &filters)?, &[], |source, model| {
        let program = library.compile_program(source)?;
        run(standalone(&valgrind)
            .args(["--quiet", "--error-exitcode=99", "--leak-check=full"])
            .args([
                "--errors-for-leak-kinds=definite",
                "--show-leak-kinds=definite",
            ])
            .arg(program)
            .arg(model)
            .stdin(Stdio::null()))
    })
}

/// Runs each program but those without; fails when one has.
fn run_all(
    sources: &[PathBuf],
    without: &[&str],
    run_one: impl Fn(&Path, &Path) -> Result<()>,
) -> Result<()> {
    let model = bundled_model()?;
    let mut failed = Vec::new();
    for source in sources
        .iter()
        .filter(|source| !without.contains(&&*stem(source)))
    {
        let name = source.strip_prefix(root()).unwrap_or(source).display();
        match run_one(source, &model) {
            Ok(()) => println!("ok      {name}"),
            Err(error) => {
                println!("FAILED  {name}: {error:#}");
                failed.push(name.to_string());
            }
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("{} failed", failed.join(", ")),
    }
}

fn stem(source: &Path) -> Cow<'_, str> {
    source.file_stem().unwrap_or_default().to_string_lossy()
}

fn rust() -> Result<()> {
    let options = "allocator_may_return_null=1:detect_leaks=0";
    let compiled = Instrumented::new(&ADDRESS, "ASAN_OPTIONS", options.to_owned())?;
    compiled.test(&compiled.folder, &["--quiet", "--lib"], &[])?;
    compiled.test(root(), &["--package=umrt", "--lib"], &[])
}

fn thread() -> Result<()> {
    let compiled = Instrumented::new(&THREAD, "TSAN_OPTIONS", String::new())?;
    let not_races = compiled.folder.join("not-races");
    write_if_changed(&not_races, NOT_RACES)?;
    let compiled = Instrumented {
        options: format!("suppressions={}", not_races.display()),
        ..compiled
    };
    compiled.test(&compiled.folder, &["--quiet", "--lib"], &["pool", "stop"])?;
    compiled.test(root(), &["--package=umrt", "--test=runtime"], &OF_THREADS)
}

/// Tests compiled with a sanitizer of rustc's, which is an unstable option.
struct Instrumented {
    /// Of the kernels as a crate, and of everything that is compiled.
    folder: PathBuf,
    host: String,
    config: PathBuf,
    /// The environment variable with the sanitizer's options, and those.
    variable: &'static str,
    options: String,
}

impl Instrumented {
    fn new(sanitizer: &Sanitizer, variable: &'static str, options: String) -> Result<Self> {
        let metadata = setup(None)?;
        let toolchain = Toolchain::installed()?;
        let folder = metadata.target_dir.join(sanitizer.name);
        kernels_crate::write(&metadata, &folder, "")?;
        let mut flags = vec![sanitizer.flag()];
        if let Some(sysroot) = toolchain.sanitized_sysroot(&Cache::open()?, sanitizer)? {
            flags.push(format!("--sysroot={}", sysroot.display()));
        }
        let flags: Vec<_> = flags.iter().map(|flag| quoted(flag)).collect();
        let host = toolchain.host().to_owned();
        let config = folder.join("config.toml");
        let section = format!("[target.{host}]\nrustflags = [{}]\n", flags.join(", "));
        write_if_changed(&config, &section)?;
        Ok(Instrumented {
            folder,
            host,
            config,
            variable,
            options,
        })
    }

    fn test(&self, package: &Path, tests: &[&str], filters: &[&str]) -> Result<()> {
        run(without_own_flags(&mut cargo())
            .current_dir(package)
            .env("RUSTC_BOOTSTRAP", "1")
            .env(self.variable, &self.options)
            .arg("test")
            .args(tests)
            .args(["--target", &self.host, "--config"])
            .arg(&self.config)
            .arg("--target-dir")
            .arg(self.folder.join("target"))
            .arg("--")
            .args(filters))
    }
}
