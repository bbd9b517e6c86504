//! How families call their modules.

/// Names of modules, below the model or the layer they belong to.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    pub embedding: &'static str,
    /// Of a table of what is added to the embeddings, by position.
    pub positions: Option<&'static str>,
    /// The row of the first position in it.
    pub first_position: usize,
    pub final_norm: &'static str,
    /// Of the output projection, beside the model.
    pub head: &'static str,
    /// Of the module that has the layers by number, in different copies.
    pub layers: &'static [&'static str],
    /// In front of, and behind attention and feed-forward network.
    pub attention_norm: Option<&'static str>,
    pub after_attention: Option<&'static str>,
    pub mlp_norm: Option<&'static str>,
    pub after_mlp: Option<&'static str>,
    /// Of recurrent layers, which have their norms in front: of the mixer and of the
    /// network, in different copies; none: where all layers have them.
    pub recurrent_norms: &'static [[&'static str; 2]],
    /// Of a tensor of one number, which a layer's result is multiplied with.
    pub layer_factor: Option<&'static str>,
    pub attention: AttentionNames,
    pub mlp: MlpNames,
    /// Publishers have the layers' matrices by input.
    pub may_be_transposed: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct AttentionNames {
    pub query_key_value: Fused<3>,
    pub output: &'static str,
    pub query_norm: &'static str,
    pub key_norm: &'static str,
    pub sinks: &'static str,
    /// Of the projection to the heads' gates, where they are not behind the queries.
    pub gate: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub struct MlpNames {
    /// The first is not there without a gate.
    pub gate_up: Fused<2>,
    pub down: &'static str,
    /// Gate, up and down as mlx-lm calls them, if otherwise.
    pub converted: Option<[&'static str; 3]>,
}

/// Matrices with the same input.
#[derive(Clone, Copy, Debug)]
pub enum Fused<const N: usize> {
    Separate([&'static str; N]),
    /// One matrix whose rows are those of all, one after the other.
    Together(&'static str),
    /// One matrix that has those of a key-value head next to each other: its queries,
    /// its key, its value.
    ByHead(&'static str),
}
