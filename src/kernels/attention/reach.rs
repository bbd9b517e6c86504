//! [`Reach`]: how far back queries see.

use std::ops::Range;

/// Which of the positions up to its own a query sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    #[default]
    All,
    /// So many at most, the last of them its own.
    Window(usize),
    /// Those of its own chunk. Chunks have this length and begin at its multiples.
    Chunk(usize),
}

impl Reach {
    /// Whether some of the earlier positions may be out of sight.
    pub fn is_bounded(self) -> bool {
        self != Reach::All
    }

    /// The first position that the query at `position` sees. It never decreases.
    pub fn first(self, position: usize) -> usize {
        match self {
            Reach::All => 0,
            Reach::Window(length) => (position + 1).saturating_sub(length),
            Reach::Chunk(length) => position - position % length,
        }
    }

    /// How many positions the one that sees most of these queries sees.
    pub fn most(self, queries: Range<usize>) -> usize {
        let last = queries.end - 1;
        let first = self.first(last);
        match self {
            Reach::Chunk(length) if first > queries.start => length,
            _ => last + 1 - first,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reaches() -> impl Strategy<Value = Reach> {
        prop_oneof![
            Just(Reach::All),
            (1_usize..40).prop_map(Reach::Window),
            (1_usize..40).prop_map(Reach::Chunk),
        ]
    }

    #[test]
    fn chunks_begin_at_multiples_of_their_length() {
        let firsts: Vec<_> = (0..10).map(|at| Reach::Chunk(4).first(at)).collect();
        assert_eq!(firsts, [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]);
    }

    proptest! {
        #[test]
        fn most_is_the_largest_count_of_any_query(
            reach in reaches(),
            start in 0_usize..200,
            n in 1_usize..100,
        ) {
            let counts = (start..start + n).map(|at| at + 1 - reach.first(at));
            prop_assert_eq!(Some(reach.most(start..start + n)), counts.max());
        }

        #[test]
        fn what_later_queries_see_begins_no_earlier(reach in reaches(), at in 0_usize..500) {
            prop_assert!(reach.first(at) <= at);
            prop_assert!(reach.first(at) <= reach.first(at + 1));
        }
    }
}
