//! [`Family`]: the features by which model families differ. `families` has the
//! table.
//!
//! - here: what there is in a model
//! - `experts`: mixtures of experts
//! - `names`: how modules are called

mod experts;
mod names;

use super::recurrent::{DeltaInputs, ScanNames};
use crate::mlx::{Activation, NormKind, Pairing};

pub use self::experts::{
    ExpertNames, ExpertsForm, JoinedNames, Normalized, RouterForm, SharedForm,
};
pub use self::names::{AttentionNames, Fused, MlpNames, Names};

/// What distinguishes a family from the others.
#[derive(Clone, Copy)]
pub struct Family {
    /// Values of `model_type`.
    pub model_types: &'static [&'static str],
    pub norm: NormForm,
    /// Attention and feed-forward network read the same input, not each other.
    pub is_parallel: Flag,
    pub qkv_bias: Flag,
    pub output_bias: Flag,
    pub mlp_bias: Flag,
    pub head_bias: Flag,
    /// Keys and values are products of latent vectors.
    pub is_latent: bool,
    /// Some layers have a state instead of keys and values.
    pub recurrent: Option<RecurrentForm>,
    /// Each layer is a mixer or a network.
    pub blocks: Option<BlockKeys>,
    /// Heads have gates for what they see, behind their queries or in a projection of
    /// their own.
    pub gates_attention: bool,
    pub heads: HeadsForm,
    pub qk_norm: QkNorm,
    /// The key that may turn it off, and what its absence means.
    pub qk_norm_if: Option<(&'static str, bool)>,
    /// The key of the bound of queries, keys and values.
    pub qkv_limit: Option<&'static str>,
    /// Sizes that config.json may leave out. A `head_dim` that isn't here either
    /// is hidden size / heads.
    pub defaults: &'static [(&'static str, usize)],
    /// Those that the `text_config` of a larger model may leave out besides.
    pub nested_defaults: &'static [(&'static str, usize)],
    pub windows: Windows,
    pub rope: RopeForm,
    pub mlp: MlpForm,
    pub experts: Option<ExpertsForm>,
    /// Beside the dense network of each layer, if this key says so.
    pub experts_beside: Option<(&'static str, ExpertsForm)>,
    pub scales: Scales,
    /// When config.json has no `tie_word_embeddings`.
    pub is_tied: bool,
    /// Embeddings are normalized as states are.
    pub normalizes_embeddings: bool,
    /// Each head has a score that takes part in the softmax without a value.
    pub has_sinks: bool,
    /// Tokens have several states, of which layers update one.
    pub alternates: bool,
    /// Each layer has inputs of its own.
    pub has_layer_inputs: bool,
    pub names: Names,
    /// Keys of config.json whose values, other than these, change the
    /// architecture in ways that this version lacks.
    pub fixed: &'static [(&'static str, Fixed)],
}

/// Norms of the whole model.
#[derive(Clone, Copy)]
pub struct NormForm {
    pub kind: NormKind,
    pub has_bias: bool,
    pub has_weight: bool,
    /// When config.json has none.
    pub eps: f32,
}

/// Whether there is something, such as a projection's bias.
#[derive(Clone, Copy)]
pub enum Flag {
    Never,
    Always,
    /// As this key says, or else as given here.
    Configured(&'static str, bool),
}

/// How layers differ in their heads from what config.json says of all.
#[derive(Clone, Copy)]
pub struct HeadsForm {
    /// The key of how many have keys and values; `None`: it is not said.
    pub n_kv_heads: Option<&'static str>,
    /// Of layers without windows.
    pub full: Option<FullHeads>,
    /// The key of how many of the last layers see the keys and values of others.
    pub shared: Option<&'static str>,
    /// Values are normalized, too, without a weight.
    pub value_norm: bool,
}

/// The keys of what such layers have.
#[derive(Clone, Copy)]
pub struct FullHeads {
    /// And what its absence means.
    pub head_dim: (&'static str, usize),
    /// Where values are keys.
    pub n_kv_heads: &'static str,
    /// Whether keys, before they are normalized and rotated, are the values.
    pub values_are_keys: &'static str,
}

/// How queries and keys are normalized, before they are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// Each head by itself, with one weight for all.
    Heads,
    /// The same behind the rotation.
    HeadsBehindRotation,
    /// All heads of a token as one row.
    Rows,
    /// Each head by itself, without a weight, in layers that rotate: behind the rotation,
    /// which changes no length, as well as in front of it.
    Unweighted,
}

/// Which layers see only the last tokens, or those of their chunk.
#[derive(Clone, Copy)]
pub enum Windows {
    None,
    /// Every layer, `sliding_window` tokens; null: none; absent: as given here.
    Every {
        absent: Option<u32>,
    },
    /// Every layer, if `use_sliding_window` says so.
    EveryIfUsed,
    /// Those `layer_types` names, or from layer `max_window_layers` on, if
    /// `use_sliding_window` says so.
    Chosen,
    /// Those `layer_types` names, or all but each n-th; n is
    /// `sliding_window_pattern` or else as given here.
    AllButEach {
        absent: u32,
        window: u32,
    },
    /// Those that `attention_layers`, or `attention_types` repeated, call local:
    /// `window_size` tokens.
    Local {
        window: u32,
    },
    /// Those `layer_types` names, or those that `no_rope_layers` has rotate, in chunks of
    /// `attention_chunk_size` tokens; null: none; absent: as given here.
    Chunks {
        absent: u32,
    },
    /// Those `layer_types` names, which must be there.
    Named {
        window: u32,
    },
}

/// Keys of what each layer is: names, or else a letter for each.
#[derive(Clone, Copy)]
pub struct BlockKeys {
    pub list: &'static [&'static str],
    pub pattern: &'static str,
}

/// Layers whose past is a state of fixed size.
#[derive(Clone, Copy)]
pub struct RecurrentForm {
    pub mixer: RecurrentMixer,
    /// What `layer_types` calls them.
    pub layer_types: &'static [&'static str],
    pub layers: RecurrentLayers,
    /// These layers attend as well, and both is added.
    pub is_beside_attention: bool,
    /// The key of the activation of convolutions, where it is not that of networks.
    pub activation: Option<&'static str>,
}

#[derive(Clone, Copy)]
pub enum RecurrentMixer {
    /// Gated convolutions over a few tokens.
    ShortConv,
    /// Heads that correct what they recall.
    Delta(DeltaInputs),
    /// Heads whose memories fade.
    Scan(&'static ScanForm),
}

/// Which layers are recurrent when config.json has no `layer_types`.
#[derive(Clone, Copy)]
pub enum RecurrentLayers {
    /// Those that this key does not list; without it all or none.
    Unlisted(&'static str, bool),
    /// All but each n-th; n is this key's value, or else this one.
    ButEach(&'static str, usize),
    All,
}

/// Selective state spaces.
#[derive(Clone, Copy)]
pub struct ScanForm {
    pub keys: ScanKeys,
    pub names: ScanNames,
    /// When config.json does not say them.
    pub n_groups: usize,
    pub state_dim: usize,
    /// The key without which there is no norm behind the memories; `None`: there is one.
    pub norm_if: Option<&'static str>,
    /// The key that may put the norm behind the gate; `None`: it is there.
    pub norm_before_gate_if: Option<&'static str>,
}

/// Keys of config.json.
#[derive(Clone, Copy)]
pub struct ScanKeys {
    pub n_heads: &'static str,
    pub head_dim: &'static str,
    pub n_groups: &'static str,
    pub state_dim: &'static str,
    /// Of the values of all heads together.
    pub inner_size: Option<&'static str>,
    /// How many hidden sizes they are, where that is not said; `None`: as many as heads have.
    pub expansion: Option<&'static str>,
    pub taps: &'static str,
    pub conv_bias: &'static str,
    pub input_bias: &'static str,
    pub output_bias: &'static str,
}

/// Rotary position embeddings.
#[derive(Clone, Copy)]
pub struct RopeForm {
    pub pairing: Pairing,
    /// When config.json has no `rope_theta`.
    pub theta: f64,
    /// The part of a head that rotates, when config.json doesn't say it.
    pub share: f64,
    /// All that may rotate does, whatever config.json says of its share.
    pub is_whole: bool,
    /// Heads turn the other way.
    pub is_backward: bool,
    /// The key of how many dimensions that is.
    pub dims: Option<&'static str>,
    pub layers: RopeLayers,
    /// Layers with windows rotate unscaled, with the base that this key or else
    /// this value says.
    pub local: Option<(&'static str, f64)>,
    /// Without `rope_parameters`: the part of a head that rotates with the wavelengths of
    /// the whole.
    pub proportional: Option<f64>,
    /// `yarn` is another name of `longrope`.
    pub yarn_is_longrope: bool,
    /// Positions scale queries in layers where they do not rotate, as
    /// `attn_temperature_tuning` and what belongs to it say.
    pub unrotated_scale: bool,
}

/// Which layers know positions.
#[derive(Clone, Copy)]
pub enum RopeLayers {
    All,
    /// Those with windows; all where no layer has one.
    Windowed,
    /// Those with windows.
    OnlyWindowed,
    /// Those with a 1 in `no_rope_layers`, or all but each
    /// `no_rope_layer_interval`-th.
    Listed,
    /// All, if the base is said.
    IfBased,
    /// All, if this key has this value.
    If(&'static str, &'static str),
    /// None.
    None,
}

/// The feed-forward network.
#[derive(Clone, Copy)]
pub struct MlpForm {
    pub is_gated: bool,
    /// When config.json has none.
    pub activation: Activation,
    /// What "gelu" means.
    pub gelu: Activation,
    /// The key that says whether the networks of layers that see others' keys and
    /// values are twice as wide.
    pub doubled_if_shared: Option<&'static str>,
    /// Gates may be cut off where `activation_sparsity_pattern` says so.
    pub may_be_sparse: bool,
    /// When config.json has no intermediate size, it is so many hidden sizes.
    pub widening: Option<usize>,
    /// The intermediate size that config.json has is adjusted, as `block_auto_adjust_ff_dim`
    /// and what belongs to it say.
    pub is_adjusted: bool,
    /// The key of the intermediate size, where it is not the usual one.
    pub size_key: Option<&'static str>,
    /// The key of factors of gates and of outputs.
    pub factors_key: Option<&'static str>,
    /// Layers have none.
    pub is_absent: bool,
}

/// Factors and bounds.
#[derive(Clone, Copy)]
pub struct Scales {
    pub embedding: EmbeddingScale,
    pub residual: ResidualScale,
    /// Inputs and outputs of mixers, and of feed-forward networks, have factors.
    pub has_branch_factors: bool,
    pub attention: AttentionScale,
    pub logits: LogitScale,
    pub logit_cap: Option<Cap>,
    pub score_cap: Option<Cap>,
}

#[derive(Clone, Copy)]
pub enum EmbeddingScale {
    One,
    RootOfHiddenSize,
    /// The same if this key says so.
    RootOfHiddenSizeIf(&'static str),
    /// This key's value, or else this one.
    Key(&'static str, f32),
}

/// Of a block's output.
#[derive(Clone, Copy)]
pub enum ResidualScale {
    One,
    /// This key's value, or else 1.
    Factor(&'static str),
    /// This key's value, or else this one, divided by the root of the number of layers.
    /// With null it is 1.
    OfDepth(&'static str, f32),
}

#[derive(Clone, Copy)]
pub enum AttentionScale {
    One,
    /// `1 / sqrt(head_dim)`
    HeadDim,
    /// `1 / sqrt` of this key's value, or else of this one.
    InverseRoot(&'static str, f32),
    /// This key's value, or else 1.
    Factor(&'static str),
    /// `1 / sqrt(head_dim)` times this key's value and twice the second's.
    Multiplied(&'static str, &'static str),
}

#[derive(Clone, Copy)]
pub enum LogitScale {
    One,
    /// This key's value, or else this one.
    Factor(&'static str, f32),
    Divisor(&'static str),
    /// This key's value, or else this one, divided by the hidden size. With null it
    /// is 1.
    OfWidth(&'static str, f32),
}

/// A soft bound: the key of config.json, and what its absence means.
#[derive(Clone, Copy)]
pub struct Cap {
    pub key: &'static str,
    pub absent: Option<f32>,
}

#[derive(Clone, Copy)]
pub enum Fixed {
    False,
    True,
    Null,
    /// Anything but this.
    Not(&'static str),
    /// Nothing but this.
    Only(&'static str),
    /// What this other key says.
    As(&'static str),
}
