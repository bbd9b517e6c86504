//! [`Lineage`]: how a sequence's keys and values came to be.

use std::sync::Arc;

use crate::kernels::CacheLayout;

/// What keys and values depend on besides the tokens and the model's weights.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    pub layout: Arc<CacheLayout>,
    /// What tells how keys were rotated from how they are in contexts of other lengths.
    pub rotation: u32,
    /// Each one's number and the bits of its scale, in their order.
    pub adapters: Vec<(u64, u32)>,
}

/// Of how many tokens, from the first on, keys and values were computed from all
/// tokens in front of them, by one recipe.
#[derive(Clone, Default)]
pub struct Lineage {
    /// `None`: nobody knows which one; they were loaded.
    recipe: Option<Arc<Recipe>>,
    n_tokens: usize,
    /// What is stored is not what the recipe computed, but was converted.
    is_converted: bool,
}

impl Lineage {
    pub fn unknown(n_tokens: usize) -> Lineage {
        Lineage {
            n_tokens,
            ..Lineage::default()
        }
    }

    pub fn of(recipe: &Arc<Recipe>, n_tokens: usize) -> Lineage {
        Lineage {
            recipe: Some(recipe.clone()),
            ..Lineage::unknown(n_tokens)
        }
    }

    /// Counts tokens `first..end`, which this recipe computed.
    pub fn extend(&mut self, recipe: &Arc<Recipe>, first: usize, end: usize) {
        if first == 0 {
            *self = Lineage::of(recipe, end);
        } else if self.n_tokens == first && self.agrees(recipe) {
            self.n_tokens = end;
        }
    }

    pub fn truncate(&mut self, length: usize) {
        self.n_tokens = self.n_tokens.min(length);
    }

    /// Tokens that can go on as if this recipe had computed them.
    pub fn n_tokens(&self, recipe: &Arc<Recipe>) -> usize {
        match self.agrees(recipe) {
            true => self.n_tokens,
            false => 0,
        }
    }

    /// From now on the sequence is not what others of this recipe are.
    pub fn convert(&mut self) {
        self.is_converted = true;
    }

    /// The recipe that certainly computed so many tokens as they are stored.
    pub fn known(&self) -> Option<(&Arc<Recipe>, usize)> {
        let recipe = self.recipe.as_ref().filter(|_| !self.is_converted)?;
        Some((recipe, self.n_tokens))
    }

    fn agrees(&self, recipe: &Arc<Recipe>) -> bool {
        let own = self.recipe.as_ref();
        own.is_none_or(|own| Arc::ptr_eq(own, recipe) || own == recipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{CacheFormat, Float};

    fn recipe(adapters: &[(u64, u32)]) -> Arc<Recipe> {
        Arc::new(Recipe {
            layout: Arc::new(CacheLayout::new(&[], CacheFormat::Float(Float::F32))),
            rotation: 0,
            adapters: adapters.to_vec(),
        })
    }

    #[test]
    fn a_lineage_ends_where_another_recipe_begins() {
        let (plain, adapted) = (recipe(&[]), recipe(&[(1, 2)]));
        let mut lineage = Lineage::default();
        lineage.extend(&plain, 0, 10);
        lineage.extend(&recipe(&[]), 10, 12);
        lineage.extend(&adapted, 12, 20);
        lineage.extend(&plain, 20, 30);
        assert_eq!(lineage.n_tokens(&plain), 12);
        assert_eq!(lineage.n_tokens(&adapted), 0);
        lineage.truncate(5);
        lineage.extend(&adapted, 5, 6);
        assert_eq!(lineage.known().map(|(_, n)| n), Some(5));
        lineage.truncate(0);
        lineage.extend(&adapted, 0, 6);
        assert_eq!(lineage.n_tokens(&adapted), 6);
    }

    #[test]
    fn what_was_converted_goes_on_by_its_recipe_and_is_known_to_nobody() {
        let (plain, adapted) = (recipe(&[]), recipe(&[(1, 2)]));
        let mut lineage = Lineage::of(&plain, 8);
        lineage.convert();
        lineage.extend(&plain, 8, 9);
        assert_eq!(lineage.n_tokens(&plain), 9);
        assert_eq!(lineage.n_tokens(&adapted), 0);
        assert!(lineage.known().is_none());
        lineage.extend(&plain, 0, 2);
        assert_eq!(lineage.known().map(|(_, n)| n), Some(2));
    }

    #[test]
    fn what_was_loaded_may_go_on_but_is_known_to_nobody() {
        let mut lineage = Lineage::unknown(8);
        lineage.extend(&recipe(&[]), 8, 9);
        assert_eq!(lineage.n_tokens(&recipe(&[(1, 2)])), 9);
        assert!(lineage.known().is_none());
    }
}
