//! The archive's package for Swift, used by an application in an empty folder.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::clean_place::{Place, bare, model_in};
use crate::cache::Cache;
use crate::swift::Swift;
use crate::util::output;

const MANIFEST: &str = r#"// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "app",
    dependencies: [.package(name: "umrt", path: "PACKAGE")],
    targets: [
        .executableTarget(name: "app", dependencies: [.product(name: "Umrt", package: "umrt")])
    ]
)
"#;
/// What a newcomer types.
const PROGRAM: &str = r#"import Umrt

let model = try await Model.open(CommandLine.arguments[1])
let context = try await model.makeContext()
for try await piece in context.generate("Once upon a time", maxTokens: 40) {
    print(piece, terminator: "")
}
"#;

pub(super) fn check(prefix: &Path, place: &Place) -> Result<()> {
    ensure_allowed_flags(prefix, place)?;
    let Some(swift) = Swift::find(&Cache::open()?)? else {
        println!("archive: its package for Swift was not tried, for want of Swift 6");
        return Ok(());
    };
    let app = place.join("app");
    fs::create_dir_all(app.join("Sources/app"))?;
    let package = prefix.join("swift").display().to_string();
    fs::write(
        app.join("Package.swift"),
        MANIFEST.replace("PACKAGE", &package),
    )?;
    fs::write(app.join("Sources/app/main.swift"), PROGRAM)?;

    let said = complaints(command(&swift, "build", prefix, place)?.args(["--product", "app"]))?;
    ensure!(
        !said.contains("warning:"),
        "the application is built with warnings:\n{said}"
    );
    let text = output(
        command(&swift, "run", prefix, place)?
            .args(["--skip-build", "app"])
            .arg(model_in(prefix)?),
    )?;
    ensure!(
        text.split_whitespace().count() > 10,
        "it wrote only {text:?}"
    );
    println!("archive: an application in Swift wrote {:?}", text.trim());
    Ok(())
}

/// Swift's package manager warns of other flags, for every application.
fn ensure_allowed_flags(prefix: &Path, place: &Place) -> Result<()> {
    let flags = output(
        bare("pkg-config", &place.0)
            .env("PKG_CONFIG_PATH", prefix.join("swift/pkgconfig"))
            .args(["--cflags", "--libs", "umrt"]),
    )?;
    let allowed = |flag: &str| ["-I", "-L", "-l"].iter().any(|kind| flag.starts_with(kind));
    ensure!(flags.split_whitespace().all(allowed), "{flags}");
    Ok(())
}

/// As the document for beginners says; nothing else is in the environment.
fn command(swift: &Swift, tool: &str, prefix: &Path, place: &Place) -> Result<Command> {
    let mut command = swift.command(tool, &[])?;
    command
        .env_clear()
        // Entering the root of Swift's own packages takes programs of the administrator.
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("SWIFT_PROJECT", &place.0)
        .env("PKG_CONFIG_PATH", prefix.join("swift/pkgconfig"))
        .current_dir(place.join("app"))
        .args(["-Xlinker", "-rpath", "-Xlinker"])
        .arg(prefix.join("lib"));
    Ok(command)
}

/// What a program that has to succeed says beside its output.
fn complaints(command: &mut Command) -> Result<String> {
    let done = command.output().context("starting Swift")?;
    let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let said = said.concat();
    ensure!(
        done.status.success(),
        "`swift` failed: {}\n{said}",
        done.status
    );
    Ok(said)
}
