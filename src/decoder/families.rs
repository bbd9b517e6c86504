//! The table of families: a file for each lineage, whose rows say how they differ from others.

mod bases;
mod cohere;
mod exaone;
mod experts;
mod gemma;
mod glm;
mod gpt;
mod granite;
mod hunyuan;
mod latent;
mod llama;
mod llama4;
mod mistral;
mod olmo;
mod phi;
mod qwen;
mod recurrent;

use super::family::Family;

const LINEAGES: &[&[Family]] = &[
    llama::MODELS,
    llama4::MODELS,
    mistral::MODELS,
    qwen::MODELS,
    gemma::MODELS,
    phi::MODELS,
    granite::MODELS,
    olmo::MODELS,
    exaone::MODELS,
    cohere::MODELS,
    glm::MODELS,
    hunyuan::MODELS,
    experts::MODELS,
    latent::MODELS,
    recurrent::MODELS,
    gpt::MODELS,
];

/// Each with what its models are called.
pub fn all() -> impl Iterator<Item = &'static Family> {
    LINEAGES.iter().copied().flatten()
}
