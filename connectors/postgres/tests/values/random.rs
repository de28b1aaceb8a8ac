//! Where the values come from: a seed that is printed, and what a range of literals is made of.

use std::time::{SystemTime, UNIX_EPOCH};

use cutover_testkit::Dice;

/// Repeats the run with this seed.
const SEED: &str = "CUTOVER_VALUES_SEED";

/// Rows per type and step; more find more.
const CASES: &str = "CUTOVER_VALUES_CASES";

/// The seed of this run: the one that was asked for, else a new one.
pub(crate) fn seed() -> u64 {
    let asked = std::env::var(SEED).ok();
    let seed = asked.map_or_else(
        || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
        |text| text.parse().unwrap_or_else(|_| panic!("{SEED} is a number")),
    );
    eprintln!("to repeat: {SEED}={seed}");
    seed
}

/// Rows per type and step.
pub(crate) fn cases() -> usize {
    std::env::var(CASES)
        .map_or(6, |text| text.parse().unwrap_or_else(|_| panic!("{CASES} is a number")))
}

/// A small generator (SplitMix64): the same numbers for the same seed, everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(Dice);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Dice::new(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.roll()
    }

    /// From `0` to `end - 1`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.below(end)
    }

    /// Both ends included.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = (i128::from(high) - i128::from(low) + 1) as u128;
        (i128::from(low) + (u128::from(self.next()) % width) as i128) as i64
    }

    /// Once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn digits(&mut self, n: usize) -> String {
        (0..n).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
    }

    pub(crate) fn bits(&mut self, n: usize) -> String {
        (0..n).map(|_| if self.one_in(2) { '1' } else { '0' }).collect()
    }

    pub(crate) fn hex(&mut self, bytes: usize) -> String {
        (0..bytes).map(|_| format!("{:02x}", self.below(256))).collect()
    }

    /// A whole number: small, at an edge, or any.
    pub(crate) fn int(&mut self, bits: u32) -> i64 {
        let low = i64::MIN >> (64 - bits);
        let high = i64::MAX >> (64 - bits);
        match self.below(4) {
            0 => self.between(-3, 3),
            1 => self.pick(&[low, high, low + 1, high - 1]),
            _ => self.between(low, high),
        }
    }

    /// Characters that somebody has stumbled over.
    pub(crate) fn text(&mut self, most: usize) -> String {
        const AWKWARD: &[&str] = &[
            "\\",
            "'",
            "\"",
            "\n",
            "\r",
            "\t",
            "\r\n",
            "\u{8}",
            "\u{c}",
            "\u{b}",
            "\u{1}",
            "\u{1f}",
            "\u{7f}",
            "\u{80}",
            "\u{a0}",
            "\u{2028}",
            "\u{feff}",
            "\u{fffd}",
            "\u{10ffff}",
            "\u{e000}",
            "é",
            "e\u{301}",
            "ß",
            "İ",
            "ǆ",
            "日本",
            "😀",
            "👩‍👩‍👧",
            "\u{202e}",
            "\\.",
            "\\N",
            "\\x",
            "NULL",
            "null",
            "{",
            "}",
            "(",
            ")",
            "[",
            "]",
            ",",
            ";",
            ":",
            " ",
            "  ",
            "%",
            "%s",
            "$1",
            "$$",
            "--",
            "/*",
            "<",
            "&amp;",
            "=>",
            "a",
            "B",
            "z",
            "0",
            "1.0",
            "-",
            "_",
            "|",
            "E'",
            "\u{300}",
        ];
        if self.one_in(12) {
            return self
                .pick(&["", "\\N", "\\.", "NULL", "\"\"", "''", " ", "{}", "()"])
                .to_owned();
        }
        let n = self.below(most + 1);
        (0..n).map(|_| self.pick(AWKWARD)).collect()
    }

    /// Letters and digits, at least one.
    pub(crate) fn word(&mut self) -> String {
        let n = 1 + self.below(8);
        (0..n).map(|_| char::from(self.pick(b"abcdefgXYZ0123_"))).collect()
    }
}
