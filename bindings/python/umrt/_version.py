"""The version of the package: the same as the library's in Cargo.toml."""

__version__ = "0.1.0"
