//! [`Pace`]: how many tokens to guess, from how often guesses were right. No clock is
//! looked at, so that the same seed gives the same tokens.

use crate::kernels::Activations;

/// What the last guess counts in the average, against all before.
const WEIGHT: f64 = 0.15;
const FIRST_RATE: f64 = 0.7;

/// Tokens without guesses after guessing stopped to pay: at first, and as long as
/// trying again shows no change.
const SHORTEST_PAUSE: usize = 8;
const LONGEST_PAUSE: usize = 64;
const TRIED: usize = 3;

/// Relative to a step of one row.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Of a row behind the first of a step: weights are read once, and arithmetic is
    /// what rows cost.
    pub row: f64,
    /// Of a guess itself.
    pub guess: f64,
}

impl Costs {
    /// Where guesses cost nothing.
    pub fn of_steps(activations: Activations) -> Costs {
        Costs {
            row: match activations {
                Activations::Auto => 0.4,
                Activations::EightBits => 0.27,
            },
            guess: 0.0,
        }
    }
}

/// What a step has for guesses.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Guesses at most.
    pub most: usize,
    /// Rows of other sequences, each of which gives a token. They share what reading the
    /// weights costs, so that a guess must be right more often.
    pub n_others: usize,
}

#[derive(Debug)]
pub struct Pace {
    most: usize,
    costs: Costs,
    /// The share of guesses that are right, as far as they are checked.
    rate: f64,
    pause: usize,
    next_pause: usize,
}

impl Pace {
    pub fn new(most: usize, costs: Costs) -> Pace {
        Pace {
            most,
            costs,
            rate: FIRST_RATE,
            pause: 0,
            next_pause: SHORTEST_PAUSE,
        }
    }

    /// How many tokens to guess next; 0: it does not pay.
    pub fn next_length(&mut self, room: Room) -> usize {
        let most = self.most.min(room.most);
        if self.pause > 0 {
            self.pause -= 1;
            return match self.pause {
                0 => TRIED.min(most),
                _ => 0,
            };
        }
        if most == 0 {
            return 0;
        }
        let best = self.best(most, room.n_others);
        if best > 0 {
            self.next_pause = SHORTEST_PAUSE;
        } else {
            self.pause = self.next_pause;
            self.next_pause = (2 * self.next_pause).min(LONGEST_PAUSE);
        }
        best
    }

    /// Learns from a guess that was checked. Those behind a wrong one are not.
    pub fn observe(&mut self, was_right: bool) {
        self.rate += WEIGHT * (f64::from(u8::from(was_right)) - self.rate);
    }

    /// The length that gives most tokens for their cost.
    fn best(&self, most: usize, n_others: usize) -> usize {
        let n_others = n_others as f64;
        let certain_cost = 1.0 + n_others * self.costs.row;
        let guess_cost = self.costs.row + self.costs.guess;
        let (mut tokens, mut right) = (1.0 + n_others, 1.0);
        let mut best = (0, tokens / certain_cost);
        for length in 1..=most {
            right *= self.rate;
            tokens += right;
            let speed = tokens / (certain_cost + length as f64 * guess_cost);
            if speed > best.1 {
                best = (length, speed);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Room = Room {
        most: 8,
        n_others: 0,
    };

    fn pace(guess: f64) -> Pace {
        Pace::new(8, Costs { row: 0.35, guess })
    }

    /// The lengths of some rounds whose first `n_right` guesses are right.
    fn rounds(pace: &mut Pace, n: usize, n_right: usize) -> Vec<usize> {
        let mut round = || {
            let length = pace.next_length(ALONE);
            (0..length.min(n_right)).for_each(|_| pace.observe(true));
            if length > n_right {
                pace.observe(false);
            }
            length
        };
        (0..n).map(|_| round()).collect()
    }

    #[test]
    fn guesses_that_are_always_right_become_as_many_as_allowed() {
        assert_eq!(rounds(&mut pace(0.0), 20, 8).last(), Some(&8));
        assert_eq!(rounds(&mut pace(0.2), 40, 8).last(), Some(&8));
    }

    #[test]
    fn guesses_that_are_never_right_stop_but_are_tried_again() {
        let mut pace = pace(0.0);
        let lengths = rounds(&mut pace, 500, 0);
        let late = &lengths[250..];
        assert!(late.iter().sum::<usize>() <= 4 * TRIED, "{late:?}");
        assert!(late.contains(&TRIED), "{late:?}");
        assert_eq!(rounds(&mut pace, 400, 8).last(), Some(&8), "it got better");
    }

    #[test]
    fn what_costs_as_much_as_it_saves_is_not_done() {
        let costly = rounds(&mut pace(1.0), 100, 8);
        assert!(costly.iter().sum::<usize>() < 20 * TRIED, "{costly:?}");
    }

    #[test]
    fn the_more_others_share_a_step_the_fewer_are_guessed() {
        let length = |n_others| {
            let room = Room { most: 8, n_others };
            pace(0.0).next_length(room)
        };
        let lengths = [0, 1, 3, 11].map(length);
        assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
        assert!(lengths[0] > 0 && lengths[3] == 0, "{lengths:?}");
    }

    #[test]
    fn where_rows_cost_less_more_are_guessed() {
        let length = |activations| {
            let mut pace = Pace::new(8, Costs::of_steps(activations));
            (0..5).for_each(|_| pace.observe(true));
            pace.next_length(ALONE)
        };
        assert!(length(Activations::EightBits) > length(Activations::Auto));
    }

    #[test]
    fn a_step_without_room_is_no_reason_to_pause() {
        let mut pace = pace(0.0);
        let full = Room {
            most: 0,
            n_others: 11,
        };
        assert_eq!(pace.next_length(full), 0);
        assert!(pace.next_length(ALONE) > 0);
    }

    #[test]
    fn the_longer_the_right_runs_the_longer_the_guesses() {
        let mean = |n_right| {
            rounds(&mut pace(0.05), 200, n_right)[100..]
                .iter()
                .sum::<usize>()
        };
        assert!(mean(1) < mean(3) && mean(3) < mean(7));
    }
}
