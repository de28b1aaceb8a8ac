//! How often changed rows are compared.

use std::time::Duration;

/// How many times as long as a comparison of changed rows the rest after it is,
const RESTS: f64 = 9.0;
/// and how long at most.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How often tables that changed and have no key are read whole again, at most.
const WHOLE_EVERY: Duration = Duration::from_secs(30);

/// How long to rest after whole tables were compared again, which took so long.
#[must_use]
pub fn rest_of_passes(took: Duration) -> Duration {
    took.mul_f64(RESTS).max(WHOLE_EVERY)
}

/// How long to rest after a comparison of changed rows that took so long. The servers have other
/// work to do, and a row that changes all the time need not be read each time; but where more
/// changes than is compared, the ledger, which is `filled` from 0 to 1, must not overflow.
#[must_use]
pub fn rest(took: Duration, filled: f64) -> Duration {
    let share = 1.0 - (filled * 2.0).min(1.0);
    took.mul_f64(RESTS * share).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparing_rests_unless_more_changes_than_is_compared() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(20), 0.0), ms(180));
        assert_eq!(rest(ms(20), 0.25), ms(90));
        assert_eq!(rest(ms(20), 0.5), Duration::ZERO);
        assert_eq!(rest(ms(20), 1.0), Duration::ZERO);
        assert_eq!(rest(ms(900), 0.0), LONGEST_REST);
    }

    #[test]
    fn whole_tables_are_compared_seldom() {
        let s = Duration::from_secs;
        assert_eq!((rest_of_passes(s(1)), rest_of_passes(s(60))), (s(30), s(540)));
    }
}
