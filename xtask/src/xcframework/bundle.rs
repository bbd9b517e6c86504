//! The folders and files of an XCFramework.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::plist::{self, Value};
use super::slice::Slice;
use super::{NAME, Part};
use crate::util::root;

const IDENTIFIER: &str = "org.umrt.CUmrt";
const MODULE_MAP: &str = "\
framework module CUmrt {
    umbrella header \"umrt.h\"
    export *
    module * { export * }
}
";
/// Where MLX looks for its shaders after the binary's own folder.
const METALLIB: &str = "mlx.metallib";

/// `CUmrt.xcframework` in `folder`, in place of one that is there.
pub fn assemble(parts: &[Part], folder: &Path) -> Result<PathBuf> {
    let xcframework = folder.join(format!("{NAME}.xcframework"));
    if xcframework.exists() {
        fs::remove_dir_all(&xcframework)
            .with_context(|| format!("removing {}", xcframework.display()))?;
    }
    for part in parts {
        let framework = xcframework
            .join(part.slice.identifier())
            .join(format!("{NAME}.framework"));
        assemble_framework(part, &framework)
            .with_context(|| format!("making {}", framework.display()))?;
    }
    let slices: Vec<_> = parts.iter().map(|part| part.slice).collect();
    fs::write(xcframework.join("Info.plist"), xcframework_info(&slices))?;
    Ok(xcframework)
}

fn assemble_framework(part: &Part, framework: &Path) -> Result<()> {
    let (content, resources) = if part.slice.is_versioned {
        let version = framework.join("Versions/A");
        let resources = version.join("Resources");
        (version, resources)
    } else {
        (framework.to_owned(), framework.to_owned())
    };
    for folder in [
        &content.join("Headers"),
        &content.join("Modules"),
        &resources,
    ] {
        fs::create_dir_all(folder)?;
    }
    fs::copy(&part.library, content.join(NAME))?;
    fs::copy(
        root().join("include/umrt.h"),
        content.join("Headers/umrt.h"),
    )?;
    fs::write(content.join("Modules/module.modulemap"), MODULE_MAP)?;
    fs::copy(&part.metallib, resources.join(METALLIB))?;
    fs::write(resources.join("Info.plist"), framework_info(part.slice))?;
    if part.slice.is_versioned {
        symlink("A", framework.join("Versions/Current"))?;
        for name in [NAME, "Headers", "Modules", "Resources"] {
            symlink(
                Path::new("Versions/Current").join(name),
                framework.join(name),
            )?;
        }
    }
    Ok(())
}

fn framework_info(slice: &Slice) -> String {
    let version = env!("CARGO_PKG_VERSION");
    plist::document(&Value::Dict(vec![
        ("CFBundleDevelopmentRegion", "en".into()),
        ("CFBundleExecutable", NAME.into()),
        ("CFBundleIdentifier", IDENTIFIER.into()),
        ("CFBundleInfoDictionaryVersion", "6.0".into()),
        ("CFBundleName", NAME.into()),
        ("CFBundlePackageType", "FMWK".into()),
        ("CFBundleShortVersionString", version.into()),
        (
            "CFBundleSupportedPlatforms",
            Value::Array(vec![slice.bundle_platform.into()]),
        ),
        ("CFBundleVersion", version.into()),
        (slice.minimum_os_key, slice.minimum_os_text().into()),
    ]))
}

fn xcframework_info(slices: &[&Slice]) -> String {
    let libraries = slices.iter().map(|slice| {
        let mut library = vec![
            ("BinaryPath", slice.binary_path().into()),
            ("LibraryIdentifier", slice.identifier().into()),
            ("LibraryPath", format!("{NAME}.framework").into()),
            ("SupportedArchitectures", Value::Array(vec!["arm64".into()])),
            ("SupportedPlatform", slice.platform.into()),
        ];
        library.extend(
            slice
                .variant
                .map(|variant| ("SupportedPlatformVariant", variant.into())),
        );
        Value::Dict(library)
    });
    plist::document(&Value::Dict(vec![
        ("AvailableLibraries", Value::Array(libraries.collect())),
        ("CFBundlePackageType", "XFWK".into()),
        ("XCFrameworkFormatVersion", "1.0".into()),
    ]))
}

#[cfg(test)]
mod tests {
    use super::super::slice::SLICES;
    use super::*;

    fn parts(dir: &Path) -> Result<Vec<Part>> {
        let (library, metallib) = (dir.join("library"), dir.join("metallib"));
        fs::write(&library, "library")?;
        fs::write(&metallib, "shaders")?;
        let part = |slice| Part {
            slice,
            library: library.clone(),
            metallib: metallib.clone(),
        };
        Ok(SLICES.iter().map(part).collect())
    }

    #[test]
    fn every_slice_has_all_that_compilers_and_mlx_look_for() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let xcframework = assemble(&parts(dir.path())?, dir.path())?;
        for slice in &SLICES {
            let binary = slice.binary_in(&xcframework);
            assert_eq!(fs::read_to_string(&binary)?, "library");
            let beside = binary.parent().context("a folder")?;
            let shaders = [beside.join(METALLIB), beside.join("Resources/mlx.metallib")];
            assert!(shaders.iter().any(|file| file.is_file()), "{}", slice.name);
            let framework = xcframework.join(slice.identifier()).join("CUmrt.framework");
            assert!(framework.join("Headers/umrt.h").is_file());
            assert_eq!(
                fs::read_to_string(framework.join("Modules/module.modulemap"))?,
                MODULE_MAP
            );
            assert!(framework.join("CUmrt").is_file());
        }
        let links = xcframework.join("macos-arm64/CUmrt.framework");
        assert_eq!(
            fs::read_link(links.join("Resources"))?,
            Path::new("Versions/Current/Resources")
        );
        Ok(())
    }

    #[test]
    fn a_new_one_replaces_the_former() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut parts = parts(dir.path())?;
        assemble(&parts, dir.path())?;
        parts.truncate(1);
        let xcframework = assemble(&parts, dir.path())?;
        assert!(!xcframework.join("ios-arm64").exists());
        Ok(())
    }

    #[test]
    fn the_list_of_slices_tells_simulators_from_devices() {
        let info = xcframework_info(&SLICES.iter().collect::<Vec<_>>());
        assert_eq!(
            info.matches("<key>SupportedPlatformVariant</key>").count(),
            1
        );
        for slice in &SLICES {
            assert!(info.contains(&format!("<string>{}</string>", slice.identifier())));
        }
    }
}
