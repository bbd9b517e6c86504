"""Versions: the package's is the library's in Cargo.toml, MLX's the one it links."""

__version__ = "0.1.0"
MLX_VERSION = "0.32.2"
