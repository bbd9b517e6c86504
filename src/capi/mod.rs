//! The C boundary, `umrt.h`. Each export does three moves: check and convert
//! the arguments, call `runtime`, convert back. No logic lives here.
//!
//! - `guard`: status codes, the thread's last error, panics as a status
//! - `handle`: reference-counted handles, freed in any order
//! - `structs`: parameter and result structures that grow with versions
//! - `arguments`: pointers from C as slices, text and buffers
//! - the other files: one topic of the header each

// The names are those of the header.
#![allow(non_camel_case_types)]

pub mod adapter;
mod arguments;
pub mod cancel;
pub mod constraint;
pub mod context;
pub mod embedding;
pub mod estimate;
pub mod evaluation;
pub mod generate;
pub mod guard;
mod handle;
pub mod library;
pub mod memory;
pub mod model;
mod prefix;
pub mod quantize;
pub mod residency;
pub mod sampler;
pub mod saving;
pub mod schedule;
pub mod scoring;
mod structs;
pub mod text;
