//! Sequences in the files of mlx-lm's `save_prompt_cache`.

use std::path::Path;

use super::{Context, states};
use crate::checkpoint::{Dtype, NewArray, NewPromptCache, NewRows, PromptCache, TensorInfo};
use crate::error::{Error, Result, ResultExt};
use crate::kernels::{CacheFormat, CacheLayout, Float, RowsLayout};
use crate::kv::{CacheShape, TokenRows};

impl Context {
    /// Replaces what a sequence holds by what mlx-lm computed of these tokens, or of those
    /// that umrt wrote into the file. If that fails, the sequence is as before.
    pub fn import_mlx(&mut self, sequence: i32, path: &Path, tokens: Option<&[i32]>) -> Result<()> {
        self.ensure_exchangeable()?;
        let file = PromptCache::open(path)?;
        self.import(sequence, &file, tokens).at(path.display())
    }

    fn import(&mut self, sequence: i32, file: &PromptCache, tokens: Option<&[i32]>) -> Result<()> {
        self.index_of(sequence)?;
        let tokens = tokens.or(file.tokens()).ok_or_else(|| {
            Error::invalid(
                "holds no ids of its tokens; name them with umrt_seq_import_mlx, as mlx-lm has \
                 evaluated them",
            )
        })?;
        if tokens.len() != file.n_tokens() {
            return Err(Error::invalid(format!(
                "holds {} tokens, and {} were named",
                file.n_tokens(),
                tokens.len()
            )));
        }
        self.ensure_known(tokens)?;
        let shape = self.shape_of(file)?.clone();
        let tensors = tensors_for(file, shape.layout())?;
        let arrays: Vec<_> = tensors
            .into_iter()
            .map(|tensor| TokenRows {
                bytes: file.bytes(tensor),
                capacity: tensor.shape[2],
            })
            .collect();
        self.replace(sequence, tokens.len(), |sequence| {
            sequence.replace_by_rows(&shape, tokens.to_vec(), &arrays)
        })
    }

    /// Writes a sequence as mlx-lm would, with the ids of its tokens beside it.
    pub fn export_mlx(&mut self, sequence: i32, path: &Path) -> Result<()> {
        self.ensure_exchangeable()?;
        self.write_with(sequence, |sequence| {
            let layout = sequence.shape().layout();
            let mut copies = sequence.copy_rows(&self.ops)?.into_iter();
            let mut rows = |rows: &RowsLayout| NewRows {
                n_heads: rows.n_heads,
                arrays: arrays_of(rows)
                    .into_iter()
                    .zip(&mut copies)
                    .map(|((dtype, columns), bytes)| NewArray {
                        dtype,
                        columns,
                        bytes,
                    })
                    .collect(),
            };
            let layers = layout.layers().iter();
            let layers = layers.map(|layer| [rows(&layer.keys), rows(&layer.values)]);
            let file = NewPromptCache {
                tokens: sequence.tokens(),
                layers: layers.collect(),
                bits_and_group_size: bits_and_group_size(layout.format()),
            };
            file.write(path)
        })
    }

    fn ensure_exchangeable(&self) -> Result<()> {
        states::ensure_none(
            &self.model,
            "prompt caches of mlx-lm have keys and values only; save the sequence with \
             umrt_seq_save",
        )?;
        match self.model.decoder().spec().latent {
            None => Ok(()),
            Some(_) => Err(Error::unsupported(
                "mlx-lm caches latent attention in another form; save the sequence with \
                 umrt_seq_save",
            )),
        }
    }

    /// The one of the context's shapes that stores numbers as the file does.
    fn shape_of(&self, file: &PromptCache) -> Result<&CacheShape> {
        let has_format = |shape: &&CacheShape| tensors_for(file, shape.layout()).is_ok();
        let found = self.plan.shapes().find(has_format);
        let shape = found.unwrap_or(&self.plan.cache);
        match file.n_tokens() <= shape.max_tokens {
            true => Ok(shape),
            false => Err(Error::no_space(format!(
                "holds {} tokens, more than the context's {}; make a context with a larger n_ctx",
                file.n_tokens(),
                shape.max_tokens
            ))),
        }
    }
}

/// The file's tensors in the order of the layout's parts, each of the part's size.
fn tensors_for<'a>(file: &'a PromptCache, layout: &CacheLayout) -> Result<Vec<&'a TensorInfo>> {
    let n_layers = layout.layers().len();
    if file.layers().len() != n_layers {
        return Err(Error::invalid(format!(
            "has {} layers, and the model has {n_layers}",
            file.layers().len()
        )));
    }
    let fits_format = file.bits_and_group_size() == bits_and_group_size(layout.format());
    let mut tensors = Vec::new();
    for (stored, layer) in file.layers().iter().zip(layout.layers()) {
        for (stored, rows) in stored.iter().zip([layer.keys, layer.values]) {
            let expected = arrays_of(&rows);
            let fits = |(tensor, (dtype, columns)): (&TensorInfo, &(Dtype, usize))| {
                tensor.dtype == *dtype
                    && tensor.shape[1] == rows.n_heads
                    && tensor.shape[3] == *columns
            };
            let fits_rows =
                stored.len() == expected.len() && stored.iter().zip(&expected).all(fits);
            if !fits_format || !fits_rows {
                return Err(Error::invalid(format!(
                    "has {} where the context stores {} heads of {} as {:?}; it takes the same \
                     model and a kv_type that is stored alike",
                    stored[0].stored(),
                    rows.n_heads,
                    rows.dim,
                    rows.format
                )));
            }
            tensors.extend(stored);
        }
    }
    Ok(tensors)
}

fn bits_and_group_size(format: CacheFormat) -> Option<(usize, usize)> {
    match format {
        CacheFormat::Float(_) => None,
        CacheFormat::Affine {
            bits, group_size, ..
        } => Some((bits, group_size)),
    }
}

/// Types and lengths of the rows that keys or values consist of.
fn arrays_of(rows: &RowsLayout) -> Vec<(Dtype, usize)> {
    match rows.format {
        CacheFormat::Float(float) => vec![(dtype_of(float), rows.dim)],
        CacheFormat::Affine {
            bits,
            group_size,
            float,
        } => {
            let groups = (dtype_of(float), rows.dim / group_size);
            vec![(Dtype::U32, rows.dim * bits / 32), groups, groups]
        }
    }
}

fn dtype_of(float: Float) -> Dtype {
    match float {
        Float::F32 => Dtype::F32,
        Float::F16 => Dtype::F16,
        Float::Bf16 => Dtype::BF16,
    }
}
