//! Finds, validates and maps a model directory before a byte of it reaches MLX.
//!
//! Everything in such a directory is untrusted input. This room reads names,
//! sizes and settings, refuses what is malformed with a sentence that says
//! where, and hands out byte ranges that were proven to lie inside their file.
//!
//! - `directory`: which files make up the model.
//! - `config`, `generation`, `quantization`, `chat_template`: what the JSON files
//!   beside the weights say.
//! - `header`, `tensors`, `dtype`: what the safetensors headers say.
//! - `foreign`: weights that other tools have quantized.
//! - `gguf`: GGUF files, which have all of that in one header.
//! - `sentence_piece`: vocabularies of SentencePiece, in files of their own or not.
//! - `ranked_tokens`: vocabularies of tiktoken; `words`: rules of both that no file has.
//! - `mmap`: the weights in memory, mapped or read; which pages are resident.
//! - `manifest`: the two handles, [`Manifest`] (read, cheap) and [`Checkpoint`]
//!   (mapped).
//! - `adapter`: files of LoRA adapters.
//! - `identity`: a fingerprint, to match saved states with their model.
//! - `replace`: replaces a file as a whole.
//! - `layout`, `writer`: writes safetensors files that map without a copy.
//! - `prompt_cache`: mlx-lm's files of keys and values
//! - `target`: writes whole directories of them, piece by piece.

mod adapter;
mod chat_template;
mod config;
mod directory;
mod dtype;
mod file;
mod foreign;
mod generation;
mod gguf;
mod header;
mod identity;
mod json;
mod layout;
mod manifest;
mod mmap;
mod prompt_cache;
mod quantization;
mod ranked_tokens;
mod replace;
mod sentence_piece;
mod target;
mod tensors;
mod words;
mod writer;

pub use adapter::{AdapterFiles, AdapterFormat, AdapterPair};
pub use chat_template::{ChatTemplate, ChatTemplates};
pub use config::{Config, Keys};
pub use directory::ModelDirectory;
pub use dtype::Dtype;
pub use file::FileStamp;
pub(crate) use file::{open_regular, read_bounded};
pub use generation::GenerationDefaults;
pub use identity::Identity;
pub use layout::TensorShape;
pub use manifest::{Checkpoint, Manifest, WeightFile};
pub use mmap::{Advice, LoadMode, MappedFile};
pub use prompt_cache::{NewArray, NewPromptCache, NewRows, PromptCache};
pub use quantization::{Mode, QuantSpec, Quantization};
pub use ranked_tokens::RankedTokens;
pub use replace::replace_file;
pub use sentence_piece::{PieceSettings, SentencePieces};
pub use target::{NewDirectory, NewFile};
pub use tensors::{TensorInfo, TensorTable};
pub use writer::{NewTensor, write_safetensors};
