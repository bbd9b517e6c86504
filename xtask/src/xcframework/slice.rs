//! The platforms that an XCFramework is for.

use std::path::{Path, PathBuf};

use super::NAME;

#[derive(Debug)]
pub struct Slice {
    pub name: &'static str,
    pub triple: &'static str,
    /// As the XCFramework's Info.plist names the platform.
    pub platform: &'static str,
    pub variant: Option<&'static str>,
    /// As bundles name the platform.
    pub bundle_platform: &'static str,
    /// `PLATFORM_*` of Mach-O's LC_BUILD_VERSION.
    pub macho_platform: u32,
    pub minimum_os: (u16, u8),
    pub minimum_os_key: &'static str,
    /// Tells rustc and clang the minimum version.
    pub deployment_target: &'static str,
    /// Bundles on macOS have versions, with symbolic links to the current one.
    pub is_versioned: bool,
}

pub const SLICES: [Slice; 3] = [
    Slice {
        name: "macos",
        triple: "aarch64-apple-darwin",
        platform: "macos",
        variant: None,
        bundle_platform: "MacOSX",
        macho_platform: object::macho::PLATFORM_MACOS,
        minimum_os: (14, 0),
        minimum_os_key: "LSMinimumSystemVersion",
        deployment_target: "MACOSX_DEPLOYMENT_TARGET",
        is_versioned: true,
    },
    Slice {
        name: "ios",
        triple: "aarch64-apple-ios",
        platform: "ios",
        variant: None,
        bundle_platform: "iPhoneOS",
        macho_platform: object::macho::PLATFORM_IOS,
        minimum_os: (17, 0),
        minimum_os_key: "MinimumOSVersion",
        deployment_target: "IPHONEOS_DEPLOYMENT_TARGET",
        is_versioned: false,
    },
    Slice {
        name: "ios-simulator",
        triple: "aarch64-apple-ios-sim",
        platform: "ios",
        variant: Some("simulator"),
        bundle_platform: "iPhoneSimulator",
        macho_platform: object::macho::PLATFORM_IOSSIMULATOR,
        minimum_os: (17, 0),
        minimum_os_key: "MinimumOSVersion",
        deployment_target: "IPHONEOS_DEPLOYMENT_TARGET",
        is_versioned: false,
    },
];

impl Slice {
    /// The folder of this slice inside an XCFramework.
    pub fn identifier(&self) -> String {
        let variant = self.variant.map(|variant| format!("-{variant}"));
        format!("{}-arm64{}", self.platform, variant.unwrap_or_default())
    }

    pub fn minimum_os_text(&self) -> String {
        format!("{}.{}", self.minimum_os.0, self.minimum_os.1)
    }

    /// Where the binary is, from the folder that the framework lies in.
    pub fn binary_path(&self) -> String {
        match self.is_versioned {
            true => format!("{NAME}.framework/Versions/A/{NAME}"),
            false => format!("{NAME}.framework/{NAME}"),
        }
    }

    /// How programs that link to the framework will look for it.
    pub fn install_name(&self) -> String {
        format!("@rpath/{}", self.binary_path())
    }

    pub fn binary_in(&self, xcframework: &Path) -> PathBuf {
        xcframework.join(self.identifier()).join(self.binary_path())
    }
}
