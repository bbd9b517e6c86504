//! ggml's types of tensors, by their numbers in files.

use crate::checkpoint::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::BlockFormat;

/// How a tensor's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub dtype: Dtype,
    pub blocks: Option<BlockFormat>,
}

pub fn stored(number: u32) -> Result<Stored> {
    let plain = |dtype| Stored {
        dtype,
        blocks: None,
    };
    let blocks = |format| Stored {
        dtype: Dtype::U8,
        blocks: Some(format),
    };
    Ok(match number {
        0 => plain(Dtype::F32),
        1 => plain(Dtype::F16),
        30 => plain(Dtype::BF16),
        24 => plain(Dtype::I8),
        25 => plain(Dtype::I16),
        26 => plain(Dtype::I32),
        27 => plain(Dtype::I64),
        28 => plain(Dtype::F64),
        2 => blocks(BlockFormat::Q4_0),
        3 => blocks(BlockFormat::Q4_1),
        6 => blocks(BlockFormat::Q5_0),
        7 => blocks(BlockFormat::Q5_1),
        8 => blocks(BlockFormat::Q8_0),
        10 => blocks(BlockFormat::Q2K),
        11 => blocks(BlockFormat::Q3K),
        20 => blocks(BlockFormat::Iq4Nl),
        23 => blocks(BlockFormat::Iq4Xs),
        39 => blocks(BlockFormat::Mxfp4),
        12 => blocks(BlockFormat::Q4K),
        13 => blocks(BlockFormat::Q5K),
        14 => blocks(BlockFormat::Q6K),
        other => return Err(unknown(other)),
    })
}

/// Types that exist, but not here.
const OTHERS: [(u32, &str); 12] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (40, "NVFP4"),
];

fn unknown(number: u32) -> Error {
    let formats: Vec<_> = BlockFormat::ALL.iter().map(ToString::to_string).collect();
    let known = OTHERS.iter().find(|(other, _)| *other == number);
    let name = known.map_or_else(
        || format!("number {number}"),
        |(_, name)| (*name).to_owned(),
    );
    Error::unsupported(format!(
        "is of ggml's type {name}; this version reads F32, F16, BF16, {}",
        formats.join(", ")
    ))
}
