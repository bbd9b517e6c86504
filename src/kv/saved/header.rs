//! [`Header`]: whose keys and values they are, and how they are stored.

use std::ops::Range;

use super::super::shape::{BLOCK, CacheShape};
use super::{CHECKSUM_BYTES, HEADER, checksum};
use crate::error::{Error, Result};
use crate::kernels::{CacheFormat, Float, LayerLayout};

/// As in PNG: the line ends show what a transfer as text does to a file.
const MAGIC: [u8; 8] = *b"UMRTKV\r\n";
const VERSION: u32 = 2;
pub(super) const FIXED_BYTES: usize = 72;
const BYTES_PER_LAYER: usize = 12;
const MAX_LAYERS: usize = 1 << 16;

/// What keys and values depend on besides the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The checkpoint's identity.
    pub model: u128,
    /// What tells how keys were rotated from how they are in contexts of other lengths.
    pub rotation: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub origin: Origin,
    pub format: CacheFormat,
    /// `n_kv_heads`, `key_dim`, `value_dim`
    layers: Vec<[u32; 3]>,
    pub n_tokens: usize,
    /// Of the states of recurrent layers.
    pub n_floats: usize,
}

impl Header {
    pub fn new(origin: Origin, shape: &CacheShape, n_tokens: usize) -> Header {
        let layout = shape.layout();
        Header {
            origin,
            n_floats: shape.states().n_floats(),
            format: layout.format(),
            layers: layout.layers().iter().map(numbers_of).collect(),
            n_tokens,
        }
    }

    pub fn bytes(&self) -> usize {
        FIXED_BYTES + self.layers.len() * BYTES_PER_LAYER
    }

    /// With its checksum.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (float, bits, group_size) = match self.format {
            CacheFormat::Float(float) => (float, 0, 0),
            CacheFormat::Affine {
                bits,
                group_size,
                float,
            } => (float, bits, group_size),
        };
        let mut bytes = MAGIC.to_vec();
        let mut number = |number: u32| bytes.extend(number.to_le_bytes());
        number(VERSION);
        number(self.bytes() as u32);
        for shift in [0, 32, 64, 96] {
            number((self.origin.model >> shift) as u32);
        }
        number(self.origin.rotation);
        number(code_of(float));
        number(bits as u32);
        number(group_size as u32);
        number(BLOCK as u32);
        number(self.layers.len() as u32);
        for n in [self.n_tokens, self.n_floats] {
            number(n as u32);
            number((n as u64 >> 32) as u32);
        }
        self.layers.iter().flatten().for_each(|&n| number(n));
        debug_assert_eq!(bytes.len(), self.bytes());
        bytes.extend(checksum(HEADER, &bytes));
        bytes
    }

    /// How many bytes the header has, from its beginning.
    pub fn length(fixed: &[u8; FIXED_BYTES]) -> Result<usize> {
        if fixed[..MAGIC.len()] != MAGIC {
            return Err(Error::format("it is no saved sequence of umrt"));
        }
        match number(fixed, 8) {
            VERSION => {}
            version => {
                return Err(Error::unsupported(format!(
                    "it is of version {version}, and this is umrt {}, which reads version \
                     {VERSION}; update umrt",
                    env!("CARGO_PKG_VERSION")
                )));
            }
        }
        let length = number(fixed, 12) as usize;
        let n_layers = length.saturating_sub(FIXED_BYTES) / BYTES_PER_LAYER;
        match length == FIXED_BYTES + n_layers * BYTES_PER_LAYER && n_layers <= MAX_LAYERS {
            true => Ok(length + CHECKSUM_BYTES),
            false => Err(Error::format(format!("its header has {length} bytes"))),
        }
    }

    /// `bytes` are as many as `length` says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Header> {
        let (header, found) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
        if checksum(HEADER, header) != found {
            return Err(Error::format("its header is damaged"));
        }
        let model = [16, 20, 24, 28].into_iter().rev();
        let model = model.fold(0, |model, at| model << 32 | u128::from(number(header, at)));
        let layers = header[FIXED_BYTES..].chunks_exact(BYTES_PER_LAYER);
        let fits =
            number(header, 48) as usize == BLOCK && number(header, 52) as usize == layers.len();
        let sizes = [56, 64].map(|at| long_number(header, at));
        let (Some(format), [Some(n_tokens), Some(n_floats)], true) =
            (format_of(header), sizes, fits)
        else {
            return Err(Error::format("its header contradicts itself"));
        };
        Ok(Header {
            origin: Origin {
                model,
                rotation: number(header, 32),
            },
            format,
            layers: layers.map(|l| [0, 4, 8].map(|at| number(l, at))).collect(),
            n_tokens,
            n_floats,
        })
    }

    /// Refuses what does not belong into a sequence of this origin and shape.
    pub fn ensure_fits(&self, origin: Origin, shape: &CacheShape) -> Result<()> {
        let own = Header::new(origin, shape, self.n_tokens);
        let is_alike = self.layers == own.layers && self.n_floats == own.n_floats;
        if self.origin.model != origin.model || !is_alike {
            return Err(Error::invalid(format!(
                "it was saved with another model, {:032x}; this one is {:032x}",
                self.origin.model, origin.model
            )));
        }
        if self.format != own.format {
            return Err(Error::invalid(format!(
                "its keys and values are {}, and the context's are {}; make a context with the \
                 same kv_type or such a pressure_kv_type",
                name_of(self.format),
                name_of(own.format)
            )));
        }
        if self.origin.rotation != origin.rotation {
            return Err(Error::invalid(
                "it was rotated for another context length; make a context with the n_ctx of the \
                 one that saved it",
            ));
        }
        if self.n_tokens > shape.max_tokens {
            return Err(Error::no_space(format!(
                "it holds {} tokens, more than the context's {}; make a context with a larger \
                 n_ctx",
                self.n_tokens, shape.max_tokens
            )));
        }
        Ok(())
    }
}

fn numbers_of(layer: &LayerLayout) -> [u32; 3] {
    [layer.keys.n_heads, layer.keys.dim, layer.values.dim].map(|n| n as u32)
}

fn code_of(float: Float) -> u32 {
    match float {
        Float::F32 => 0,
        Float::F16 => 1,
        Float::Bf16 => 2,
    }
}

fn format_of(header: &[u8]) -> Option<CacheFormat> {
    let [float, bits, group_size] = [36, 40, 44].map(|at| number(header, at));
    let mut floats = [Float::F32, Float::F16, Float::Bf16].into_iter();
    let float = floats.find(|f| code_of(*f) == float)?;
    match (bits as usize, group_size as usize) {
        (0, 0) => Some(CacheFormat::Float(float)),
        (bits @ (4 | 8), group_size @ (32 | 64)) => Some(CacheFormat::Affine {
            bits,
            group_size,
            float,
        }),
        _ => None,
    }
}

fn name_of(format: CacheFormat) -> String {
    match format {
        CacheFormat::Float(float) => format!("{float:?}"),
        CacheFormat::Affine {
            bits, group_size, ..
        } => format!("of {bits} bits in groups of {group_size}"),
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let part: Range<usize> = at..at + size_of::<u32>();
    u32::from_le_bytes(bytes[part].try_into().expect("four bytes"))
}

/// `None`: more than can be addressed.
fn long_number(bytes: &[u8], at: usize) -> Option<usize> {
    let [low, high] = [at, at + size_of::<u32>()].map(|at| u64::from(number(bytes, at)));
    usize::try_from(low | high << 32).ok()
}
