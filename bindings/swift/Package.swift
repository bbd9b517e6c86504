// swift-tools-version: 6.0
import PackageDescription

// The C library comes from an XCFramework on Apple's platforms, and from pkg-config
// elsewhere. UMRT_SWIFT_LIBRARY=system or =xcframework decides otherwise.
#if canImport(Darwin)
    let defaultLibrary = "xcframework"
#else
    let defaultLibrary = "system"
#endif
let library = Context.environment["UMRT_SWIFT_LIBRARY"] ?? defaultLibrary

// Written by `cargo xtask xcframework --url URL`; without it the XCFramework is the
// one that `cargo xtask xcframework` left here.
let release: (url: String, checksum: String)? = nil

let cUmrt: Target =
    if library == "system" {
        .systemLibrary(name: "CUmrt", pkgConfig: "umrt")
    } else if let release {
        .binaryTarget(name: "CUmrt", url: release.url, checksum: release.checksum)
    } else {
        .binaryTarget(name: "CUmrt", path: "CUmrt.xcframework")
    }

let package = Package(
    name: "umrt",
    platforms: [.macOS(.v14), .iOS(.v17)],
    products: [.library(name: "Umrt", targets: ["Umrt"])],
    targets: [
        cUmrt,
        .target(name: "Umrt", dependencies: ["CUmrt"]),
        .testTarget(name: "UmrtTests", dependencies: ["Umrt"]),
    ],
    swiftLanguageModes: [.v6]
)
