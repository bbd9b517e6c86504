//! Mixtures of experts.

use super::Flag;
use crate::mlx::{Gate, RowOrder, Scores, Shares};

#[derive(Clone, Copy)]
pub struct ExpertsForm {
    pub n_experts: &'static [&'static str],
    /// Without experts there is a dense network.
    pub may_be_dense: bool,
    pub intermediate_size: &'static str,
    pub router: RouterForm,
    pub shared: Option<SharedForm>,
    pub bias: bool,
    /// In place of the activation.
    pub gate: Option<Gate>,
    pub names: ExpertNames,
}

/// How experts are chosen.
#[derive(Clone, Copy)]
pub struct RouterForm {
    pub scores: Scores,
    /// The key that names them.
    pub scores_key: Option<&'static str>,
    pub normalized: Normalized,
    /// What is multiplied with shares.
    pub shares: Shares,
    /// The key of the factor of shares.
    pub scale: Option<&'static str>,
    /// How many experts a group's worth comes from, where `n_group` is above 1.
    pub group_best: Option<usize>,
    /// The tensor that is added to scores before they are compared.
    pub corrections: Option<&'static str>,
    /// As mlx-lm calls it, if otherwise.
    pub converted_corrections: Option<&'static str>,
    /// Whether there is one.
    pub has_corrections: Flag,
}

/// Whether the shares of a token's experts are made to add up to 1.
#[derive(Clone, Copy)]
pub enum Normalized {
    Never,
    Always,
    /// As this key says, or else as given here.
    Configured(&'static str, bool),
}

#[derive(Clone, Copy)]
pub struct SharedForm {
    pub intermediate_size: &'static str,
    /// The key of the number of experts that are as one; 0: there is none.
    pub count: Option<&'static str>,
    pub name: &'static str,
    /// Of the matrices, where gate and up are one.
    pub fused: Option<[&'static str; 2]>,
    /// Of the projection to its share; `None`: the share is 1.
    pub share_name: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub struct ExpertNames {
    pub router: &'static str,
    /// As mlx-lm calls it, if otherwise.
    pub converted_router: Option<&'static str>,
    /// Of the module whose tensors have a dimension for the expert.
    pub stacked: &'static str,
    /// Of the module that has the experts by number.
    pub separate: &'static str,
    /// Gate, up and down of a separate expert.
    pub linears: [&'static str; 3],
    pub joined: Option<JoinedNames>,
}

/// Modules with a dimension for the expert, where gate and up are one.
#[derive(Clone, Copy, Debug)]
pub struct JoinedNames {
    pub gate_up: &'static str,
    pub down: &'static str,
    pub order: RowOrder,
    /// Where they have no suffix, they are stored by input.
    pub by_input: bool,
}
