//! What clients were told, against what is there: pure.
//!
//! A client's transaction is an interval of time with an answer. What must hold:
//!
//! - what was acknowledged is there, once; what the server refused, or the client rolled back, is
//!   not; the rest may be. What was taken back behind a savepoint has a receipt of the same number,
//!   so that it would be there twice;
//! - at every instant one side owned the writes: the acknowledged transactions of both sides can be
//!   laid on a line that changes sides no oftener than moves were decided, from one time when all
//!   clients were quiet to the next;
//! - nobody waited longer than allowed, the time in which the only way in was gone left out.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use cutover_core::model::side::Side;
use cutover_sandbox::shop::{Heard, Told};

/// A time in which clients could not be served by anybody's doing but ours.
#[derive(Debug, Clone)]
pub(crate) struct Outage {
    pub(crate) from: Instant,
    pub(crate) to: Instant,
    pub(crate) what: String,
}

/// The time between two instants at which no client was in the middle of anything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term {
    pub(crate) since: Instant,
    /// Who owned the writes when it began.
    pub(crate) owner: Side,
    /// How many moves the journal says were decided in it.
    pub(crate) decided: usize,
}

/// Everything that is known at the end of a round.
pub(crate) struct History<'a> {
    /// Every attempt since the beginning of the migration.
    pub(crate) heard: &'a [Heard],
    /// Receipts on the owner: client and number.
    pub(crate) receipts: &'a [(usize, u64)],
    /// Which side is behind a port.
    pub(crate) sides: HashMap<u16, Side>,
    /// One after the other; the first began before any attempt.
    pub(crate) terms: &'a [Term],
    pub(crate) outages: &'a [Outage],
    pub(crate) longest: Duration,
}

impl History<'_> {
    /// Everything that is wrong, in words.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut wrong = self.receipts_are_right();
        wrong.extend(self.one_owner());
        wrong.extend(self.nobody_waits());
        wrong
    }

    fn receipts_are_right(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut there: HashMap<(usize, u64), usize> = HashMap::new();
        for receipt in self.receipts {
            *there.entry(*receipt).or_default() += 1;
        }
        let mut asked = HashSet::new();
        for heard in self.heard {
            let Some(number) = heard.number else { continue };
            let key = (heard.client, number);
            asked.insert(key);
            let times = there.get(&key).copied().unwrap_or(0);
            match &heard.told {
                Told::Committed { .. } if times != 1 => {
                    wrong.push(format!("acknowledged, and there {times} times: {heard:?}"));
                }
                Told::No(code) if refused(code) && times != 0 => {
                    wrong.push(format!("refused, and there {times} times: {heard:?}"));
                }
                Told::RolledBack if times != 0 => {
                    wrong.push(format!("rolled back, and there {times} times: {heard:?}"));
                }
                // A key that is taken, a row that is not there: something was lost or came twice.
                Told::No(code) if code.starts_with("23") || code.starts_with("42") => {
                    wrong.push(format!("a client's data is not what it must be: {heard:?}"));
                }
                _ if times > 1 => wrong.push(format!("there {times} times: {heard:?}")),
                _ => {}
            }
        }
        for key in there.keys().filter(|key| !asked.contains(key)) {
            wrong.push(format!("nobody ever asked for receipt {key:?}"));
        }
        wrong
    }

    fn one_owner(&self) -> Vec<String> {
        let acknowledged: Vec<(Instant, Instant, Side)> = self
            .heard
            .iter()
            .filter_map(|h| match &h.told {
                Told::Committed { port } => {
                    self.sides.get(port).map(|side| (h.began, h.ended, *side))
                }
                _ => None,
            })
            .collect();
        let all = self.heard.iter().filter(|h| matches!(h.told, Told::Committed { .. })).count();
        if acknowledged.len() != all {
            return vec![format!("{} writes by no server of ours", all - acknowledged.len())];
        }
        let mut wrong = Vec::new();
        for (i, term) in self.terms.iter().enumerate() {
            let next = self.terms.get(i + 1);
            let of_it: Vec<_> = acknowledged
                .iter()
                .filter(|(began, ..)| *began >= term.since)
                .filter(|(began, ..)| next.is_none_or(|next| *began < next.since))
                .copied()
                .collect();
            let changes = fewest_changes(term.owner, &of_it);
            if changes > term.decided {
                wrong.push(format!(
                    "the answers need {changes} changes of the owner, which was {} at first, and \
                     {} moves were decided: both sides took writes",
                    term.owner, term.decided
                ));
            }
        }
        wrong
    }

    fn nobody_waits(&self) -> Vec<String> {
        self.heard
            .iter()
            .filter_map(|h| {
                let waited = self.waited(h);
                (waited > self.longest).then(|| {
                    format!("waited {waited:?} (allowed {:?}) beside outages: {h:?}", self.longest)
                })
            })
            .collect()
    }

    /// How long a client waited after the last outage in its time was over.
    pub(crate) fn waited(&self, heard: &Heard) -> Duration {
        let served = self
            .outages
            .iter()
            .filter(|o| o.from <= heard.ended && o.to >= heard.began)
            .map(|o| o.to)
            .max();
        let since = served.map_or(heard.began, |to| to.max(heard.began));
        heard.ended.saturating_duration_since(since)
    }
}

/// The fence, or a server that takes no writes.
fn refused(code: &str) -> bool {
    code == "25006"
}

/// How often the owner must have changed at least, beginning with `owner`, so that each transaction
/// was committed at some instant of its time on the side that owned the writes then.
fn fewest_changes(mut owner: Side, acknowledged: &[(Instant, Instant, Side)]) -> usize {
    let mut changes = 0;
    let mut since: Option<Instant> = None;
    loop {
        // The owner must have changed by the earliest end of those of the other side that did not
        // fit before; as late as possible is best.
        let next = acknowledged
            .iter()
            .filter(|(began, _, side)| *side != owner && since.is_none_or(|at| *began > at))
            .map(|(_, ended, _)| *ended)
            .min();
        let Some(at) = next else { return changes };
        changes += 1;
        owner = owner.other();
        since = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(at: Instant, from: u64, to: u64, number: u64, told: Told) -> Heard {
        let ms = |n| at + Duration::from_millis(n);
        Heard { client: 0, number: Some(number), began: ms(from), ended: ms(to), told }
    }

    fn faults(
        heard: &[Heard],
        receipts: &[u64],
        terms: &[Term],
        outages: &[Outage],
    ) -> Vec<String> {
        let receipts: Vec<_> = receipts.iter().map(|n| (0, *n)).collect();
        History {
            heard,
            receipts: &receipts,
            sides: [(1, Side::Blue), (2, Side::Green)].into(),
            terms,
            outages,
            longest: Duration::from_millis(100),
        }
        .faults()
    }

    fn term(since: Instant, owner: Side, decided: usize) -> Term {
        Term { since, owner, decided }
    }

    const ON_BLUE: Told = Told::Committed { port: 1 };
    const ON_GREEN: Told = Told::Committed { port: 2 };

    #[test]
    fn receipts() {
        let at = Instant::now();
        let one = |told| vec![heard(at, 0, 10, 1, told)];
        for (heard, receipts, right) in [
            (one(ON_BLUE), &[1][..], true),
            (one(ON_BLUE), &[], false),
            (one(ON_BLUE), &[1, 1], false),
            (one(ON_BLUE), &[1, 2], false),
            (one(Told::RolledBack), &[], true),
            (one(Told::RolledBack), &[1], false),
            (one(Told::Nothing), &[], true),
            (one(Told::Nothing), &[1], true),
            (one(Told::Nothing), &[1, 1], false),
            (one(Told::No("25006".into())), &[], true),
            (one(Told::No("25006".into())), &[1], false),
            (one(Told::No("08006".into())), &[1], true),
            (one(Told::No("23505".into())), &[], false),
        ] {
            let found = faults(&heard, receipts, &[term(at, Side::Blue, 0)], &[]);
            assert_eq!(found.is_empty(), right, "{heard:?} {receipts:?}: {found:?}");
        }
    }

    #[test]
    fn one_side_at_every_instant() {
        let at = Instant::now();
        let h = |from, to, n, told| heard(at, from, to, n, told);
        for (history, fewest) in [
            (vec![h(0, 10, 1, ON_BLUE)], 0),
            (vec![h(0, 10, 1, ON_BLUE), h(11, 20, 2, ON_GREEN)], 1),
            // They overlap: blue may have been first.
            (vec![h(0, 50, 1, ON_BLUE), h(20, 40, 2, ON_GREEN)], 1),
            // Blue again after green.
            (vec![h(0, 10, 1, ON_BLUE), h(11, 20, 2, ON_GREEN), h(21, 30, 3, ON_BLUE)], 2),
            (vec![h(0, 10, 1, ON_GREEN), h(5, 6, 2, ON_BLUE)], 1),
            (vec![h(0, 4, 1, ON_GREEN), h(5, 6, 2, ON_BLUE)], 2),
        ] {
            let receipts: Vec<u64> = history.iter().filter_map(|h| h.number).collect();
            let found = |n| faults(&history, &receipts, &[term(at, Side::Blue, n)], &[]);
            assert!(found(fewest).is_empty(), "{history:?}");
            assert!(fewest.checked_sub(1).is_none_or(|n| !found(n).is_empty()), "{history:?}");
        }
    }

    #[test]
    fn a_move_of_one_term_does_not_excuse_a_write_in_another() {
        let at = Instant::now();
        let h = |from, to, n, told| heard(at, from, to, n, told);
        let later = at + Duration::from_millis(100);
        let terms = |first: usize, owner, second: usize| {
            [term(at, Side::Blue, first), term(later, owner, second)]
        };
        let (blue, green) = (Side::Blue, Side::Green);
        for (history, terms, right) in [
            // Nobody wrote between the two moves of the first term.
            (vec![h(0, 10, 1, ON_BLUE), h(110, 120, 2, ON_BLUE)], terms(2, blue, 0), true),
            (vec![h(0, 10, 1, ON_BLUE), h(110, 120, 2, ON_GREEN)], terms(2, blue, 0), false),
            (vec![h(0, 10, 1, ON_BLUE), h(110, 120, 2, ON_GREEN)], terms(2, blue, 1), true),
            (vec![h(0, 10, 1, ON_GREEN), h(110, 120, 2, ON_GREEN)], terms(1, green, 0), true),
            (vec![h(0, 10, 1, ON_GREEN), h(110, 120, 2, ON_BLUE)], terms(1, green, 0), false),
            (vec![h(0, 10, 1, ON_GREEN), h(110, 120, 2, ON_BLUE)], terms(1, green, 1), true),
            (vec![h(0, 10, 1, ON_GREEN), h(110, 120, 2, ON_BLUE)], terms(0, green, 2), false),
        ] {
            let found = faults(&history, &[1, 2], &terms, &[]);
            assert_eq!(found.is_empty(), right, "{history:?} {terms:?}: {found:?}");
        }
    }

    #[test]
    fn what_was_acknowledged_in_an_earlier_round_is_looked_for_again() {
        let at = Instant::now();
        let later = at + Duration::from_millis(100);
        let terms = [term(at, Side::Blue, 0), term(later, Side::Blue, 0)];
        let history = [heard(at, 0, 10, 1, ON_BLUE), heard(at, 110, 120, 2, ON_BLUE)];
        assert!(faults(&history, &[1, 2], &terms, &[]).is_empty());
        assert!(!faults(&history, &[2], &terms, &[]).is_empty());
    }

    #[test]
    fn an_outage_of_one_round_excuses_nobody_in_another() {
        let at = Instant::now();
        let ms = |n| at + Duration::from_millis(n);
        let terms = [term(at, Side::Blue, 0), term(ms(200), Side::Blue, 0)];
        let outage = Outage { from: ms(10), to: ms(140), what: String::new() };
        let waits = |from, to| {
            let history = [heard(at, 0, 150, 1, ON_BLUE), heard(at, from, to, 2, ON_BLUE)];
            faults(&history, &[1, 2], &terms, std::slice::from_ref(&outage))
        };
        assert!(waits(200, 300).is_empty());
        assert_eq!(waits(200, 350).len(), 1);
    }

    #[test]
    fn waiting() {
        let at = Instant::now();
        let ms = |n| at + Duration::from_millis(n);
        let outage = |from, to| Outage { from: ms(from), to: ms(to), what: String::new() };
        for (from, to, outages, right) in [
            (0, 100, vec![], true),
            (0, 101, vec![], false),
            (0, 150, vec![outage(20, 60)], true),
            (0, 170, vec![outage(20, 60)], false),
            (0, 150, vec![outage(200, 300)], false),
            (50, 151, vec![outage(0, 40)], false),
        ] {
            let terms = [term(at, Side::Blue, 0)];
            let found = faults(&[heard(at, from, to, 1, ON_BLUE)], &[1], &terms, &outages);
            assert_eq!(found.is_empty(), right, "{from} {to} {outages:?}: {found:?}");
        }
    }
}
