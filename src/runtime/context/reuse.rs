//! Texts that begin like one that was evaluated before.

use std::sync::Arc;

use super::{ActiveAdapters, Context, ContextPlan, Model, Sequences};
use crate::error::{Error, Result};
use crate::kv::{Recipe, Sequence, common_prefix};
use crate::runtime::prefix_cache;

impl Context {
    /// Makes a sequence hold as much of the beginning of `tokens` as is known: what it
    /// holds itself, or what the prefix cache does if that is more. The rest is up to
    /// `eval`: at least the last token, whose logits nobody kept. Gives how many tokens
    /// the sequence holds now.
    pub fn reuse_prefix(&mut self, sequence: i32, tokens: &[i32]) -> Result<usize> {
        let index = self.index_of(sequence)?;
        let Some((_, wanted)) = tokens.split_last() else {
            return Err(Error::invalid(
                "there are no tokens whose beginning to reuse",
            ));
        };
        let shared = self.sequences.clone();
        let mut sequences = Sequences::of(&shared);
        let cache = &mut sequences[index];
        let usable = cache.lineage().n_tokens(&self.recipe);
        let own = cache.most_kept(common_prefix(&cache.tokens()[..usable], wanted));
        let n = self.adopt(cache, wanted, own)?;
        if n == own {
            self.let_go(cache, own);
            cache.truncate(own);
        }
        sequences.account();
        drop(sequences);
        prefix_cache::fit();
        Ok(n)
    }

    /// Appends what the prefix cache has of the beginning of `tokens` behind those of a
    /// sequence, but for the last token; gives how many that are.
    pub fn append_known(&mut self, sequence: i32, tokens: &[i32]) -> Result<usize> {
        let index = self.index_of(sequence)?;
        if self.prefix_cache.is_none() {
            return Ok(0);
        }
        let shared = self.sequences.clone();
        let mut sequences = Sequences::of(&shared);
        let cache = &mut sequences[index];
        let own = cache.length();
        let is_known = cache.lineage().known().map_or(0, |(_, n)| n) == own;
        let (Some((_, new)), true) = (tokens.split_last(), is_known || own == 0) else {
            return Ok(0);
        };
        let wanted = [cache.tokens(), new].concat();
        let n = self.adopt(cache, &wanted, own)?;
        sequences.account();
        Ok(n - own)
    }

    /// Replaces a sequence by the cached beginning of `tokens`, if that is longer than
    /// `own`, of which it may hold more already; gives how long.
    fn adopt(&mut self, sequence: &mut Sequence, tokens: &[i32], own: usize) -> Result<usize> {
        let Some(cache) = &self.prefix_cache else {
            return Ok(own);
        };
        let limit = tokens.len().min(self.plan.n_ctx());
        let (blocks, n) = cache.find(&self.recipe, &tokens[..limit]);
        if n <= own {
            return Ok(own);
        }
        self.let_go(sequence, own);
        sequence.adopt(&self.recipe, &tokens[..n], &blocks)?;
        self.perf.n_prefix_hits += 1;
        self.perf.n_prefix_tokens += (n - own) as u64;
        Ok(n)
    }

    /// Before a sequence gives up all but `n_staying` tokens; gives whether the prefix
    /// cache has some of them now.
    pub(super) fn let_go(&self, sequence: &Sequence, n_staying: usize) -> bool {
        let cache = self.prefix_cache.as_ref();
        cache.is_some_and(|cache| cache.keep_leaving(&self.ops, sequence, n_staying))
    }

    pub(super) fn kind_of_rotation(&self) -> u32 {
        kind_of_rotation(&self.model, &self.plan)
    }
}

/// What tells how keys are rotated from how they are in contexts of other lengths.
fn kind_of_rotation(model: &Model, plan: &ContextPlan) -> u32 {
    let ropes = &model.decoder().spec().ropes;
    let kinds = ropes.iter().map(|rope| rope.kind(plan.n_ctx()));
    kinds.max().unwrap_or(0)
}

/// How a context computes keys and values.
pub(super) fn recipe(model: &Model, plan: &ContextPlan, adapters: &ActiveAdapters) -> Arc<Recipe> {
    Arc::new(Recipe {
        layout: plan.cache.layout().clone(),
        rotation: kind_of_rotation(model, plan),
        adapters: adapters.numbers().collect(),
    })
}
