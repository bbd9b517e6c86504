// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "generate",
    platforms: [.macOS(.v14)],
    dependencies: [.package(name: "umrt", path: "../../../bindings/swift")],
    targets: [
        .executableTarget(
            name: "generate", dependencies: [.product(name: "Umrt", package: "umrt")])
    ],
    swiftLanguageModes: [.v6]
)
