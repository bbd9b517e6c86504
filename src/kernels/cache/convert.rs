//! Tokens that go from one format to another.

use super::block::CacheBlock;
use super::layout::{CacheLayout, RowsLayout};
use crate::kernels::level::Level;
use crate::kernels::pool::Pool;
use crate::kernels::{Floats, FloatsMut};

/// The keys or the values of a head, as both layouts have them.
struct Part {
    from: RowsLayout,
    to: RowsLayout,
    head: usize,
}

impl CacheBlock {
    /// Writes the first `n` tokens into a block that was made for `layouts[1]`; this one
    /// was for `layouts[0]`. As for `copy_shared`, nobody writes into them any more.
    ///
    /// # Panics
    /// If the layouts differ in more than their format, or the tokens are in one of the
    /// blocks only.
    pub(crate) fn convert_tokens(
        &self,
        layouts: [&CacheLayout; 2],
        n: usize,
        target: &mut CacheBlock,
        pool: Option<&Pool>,
    ) {
        let [from, to] = layouts.map(|layout| layout.layers().iter());
        let parts = from.zip(to).flat_map(|(from, to)| {
            assert_eq!(from.shape(), to.shape());
            [(from.keys, to.keys), (from.values, to.values)]
        });
        let parts: Vec<_> = parts
            .filter(|(from, _)| from.dim > 0)
            .flat_map(|(from, to)| (0..from.n_heads).map(move |head| Part { from, to, head }))
            .collect();
        let (level, target) = (Level::detect(), &*target);
        // SAFETY: what is read stays as it is, and the target is exclusive; parts have
        // nothing in common.
        let work = |index: usize| unsafe { parts[index].convert(level, self, target, n) };
        match pool {
            Some(pool) => pool.run(parts.len(), &work),
            None => (0..parts.len()).for_each(work),
        }
    }
}

impl Part {
    /// # Safety
    /// Nobody writes this part of the source, and nobody else uses that of the target.
    unsafe fn convert(&self, level: Level, source: &CacheBlock, target: &CacheBlock, n: usize) {
        let dim = self.from.dim;
        let mut row = vec![0.0; dim];
        for position in 0..n {
            // SAFETY: the caller's.
            unsafe {
                let stored = self.from.read(source, self.head, position..position + 1);
                stored.widen(level, dim, &mut row, dim);
                let fill = |out: FloatsMut<'_>| level.convert(Floats::from(&row[..]), out);
                self.to.write(level, target, (self.head, position), fill);
            }
        }
    }
}
