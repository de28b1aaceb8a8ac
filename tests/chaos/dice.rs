//! Chance that can be repeated.

use std::time::Duration;

/// The same seed gives the same campaign everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Dice(cutover_testkit::Dice);

impl Dice {
    /// One of its own for each `number`, so that what is drawn for one says nothing about another.
    pub(crate) fn of(seed: u64, number: u64) -> Self {
        let mix = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(cutover_testkit::Dice::new(cutover_testkit::Dice::new(mix).roll()))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.roll()
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    /// Whether one chance in `of` comes true.
    pub(crate) fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub(crate) fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap_or(0)]
    }

    /// One of these, each as often as its weight says.
    pub(crate) fn weighted<T: Copy>(&mut self, of: &[(u64, T)]) -> T {
        let mut left = self.below(of.iter().map(|(weight, _)| weight).sum());
        for (weight, what) in of {
            if left < *weight {
                return *what;
            }
            left -= weight;
        }
        of[0].1
    }
}

/// The card that comes at `place` when a deck is dealt to its end, shuffled, dealt again, and so
/// on. In any row of places every card comes about as often as it must, which chance alone does
/// only in the long run.
pub(crate) fn dealt<T: Copy>(mut deck: Vec<T>, seed: u64, place: u64) -> T {
    let cards = deck.len() as u64;
    let mut dice = Dice::of(!seed, place / cards);
    let at = |index: u64| usize::try_from(index).unwrap_or(0);
    for left in (1..cards).rev() {
        deck.swap(at(left), at(dice.below(left + 1)));
    }
    deck[at(place % cards)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deck_is_dealt_to_its_end_in_an_order_of_its_own() {
        let deal = |seed, from: u64| (from..from + 20).map(move |place| (seed, place));
        let cards = |seed, from| -> Vec<u64> {
            deal(seed, from).map(|(seed, place)| dealt((0..20).collect(), seed, place)).collect()
        };
        for from in [0, 20, 400] {
            let mut sorted = cards(7, from);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..20).collect::<Vec<_>>());
            assert_eq!(cards(7, from), cards(7, from));
        }
        assert_ne!(cards(7, 0), cards(7, 20));
        assert_ne!(cards(7, 0), cards(8, 0));
    }
}
