//! The decoder: one transformer, described by data.
//!
//! - `spec`: config.json -> [`DecoderSpec`]; `mlp` reads feed-forward networks
//! - `families`: how model families differ, in the terms of `family`
//! - `rope`: rotary position embeddings
//! - `weights`: the checkpoint's tensors, mapped in place by `loader`; `prefix` finds them
//! - `adapter`: what LoRA adapters add to projections
//! - `heads`: which heads each layer has, and whose keys and values they see
//! - `latent`: attention whose keys and values are products of latent vectors
//! - `recurrent`: layers whose past is a state of fixed size
//! - `blocks`: layers that are a mixer or a feed-forward network
//! - `altup`: several states of each token, of which layers update one
//! - `beside`: mixtures of experts beside dense networks
//! - `layer_inputs`: narrow embeddings of tokens for each layer
//! - `attention`: a step's tokens over the caches of their sequences
//! - `forward`: tokens -> hidden states -> logits, as MLX graphs

mod adapter;
mod altup;
mod attention;
mod beside;
mod blocks;
mod copies;
mod families;
mod family;
mod forward;
mod heads;
mod latent;
mod layer_inputs;
mod loader;
mod mlp;
mod prefix;
mod recurrent;
mod rope;
mod spec;
mod weights;

pub use adapter::{Adapted, AdaptedColumns};
pub use altup::AltUpSpec;
pub use attention::Segment;
pub use family::{ExpertNames, JoinedNames, QkNorm};
pub use forward::{Decoder, Precision};
pub use heads::HeadsSpec;
pub use latent::LatentSpec;
pub use layer_inputs::LayerInputsSpec;
pub use mlp::{DenseForm, ExpertsSpec, MlpSpec};
pub use prefix::Prefix;
pub use recurrent::{MixerSpec, RecurrentSpec};
pub use rope::Rope;
pub use spec::{BranchScales, DecoderSpec, model_types};
pub use weights::LoadedBytes;
