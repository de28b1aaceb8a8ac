//! How long a pause would be, from what was measured: pure.

use std::time::Duration;

use cutover_core::port::primary::OpenTransaction;
use serde::{Deserialize, Serialize};

/// What was measured about the origin, the target, the switches and the stream between them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measured {
    /// One empty round trip to the origin.
    pub origin_round_trip: Option<Duration>,
    /// One empty round trip to the target.
    pub target_round_trip: Option<Duration>,
    /// How long each switch took to answer a question.
    pub switches: Vec<Option<Duration>>,
    /// Usual time from a marker on the origin until it is applied on the target.
    pub marker: Option<Duration>,
    /// Bytes of log that are not applied.
    pub lag_bytes: Option<u64>,
    /// Bytes of log applied per second when there is enough to do.
    pub drain_bytes_per_second: Option<f64>,
    /// Transactions open on the origin.
    pub open: Vec<OpenTransaction>,
    /// Tables the fence closes.
    pub tables: usize,
    /// Sequences to carry over.
    pub sequences: usize,
    /// Changed rows that are not compared yet.
    pub changed_rows: Option<u64>,
    /// Rows compared by key per second.
    pub rows_compared_per_second: Option<f64>,
    /// Bytes of tables that are compared as a whole, since no key says which rows changed.
    pub read_whole: u64,
    /// One append to the journal.
    pub journal_append: Option<Duration>,
    /// Earlier moves and rehearsals of this run, oldest first: [`Estimate::by_parts`] and the real
    /// pause, in milliseconds.
    pub history: Vec<(f64, f64)>,
}

/// One part of an estimate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Name of the step.
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
    /// Where the number comes from.
    pub why: String,
}

/// A predicted pause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Milliseconds; a lower bound while something is unknown.
    pub ms: f64,
    /// What it is made of, in the order of the steps.
    pub parts: Vec<Part>,
    /// What is not known; unknown is not zero.
    pub unknown: Vec<String>,
}

impl Estimate {
    /// Whether the pause fits into `budget`; `None` when that is not known.
    #[must_use]
    pub fn fits(&self, budget: Duration) -> Option<bool> {
        let budget = budget.as_secs_f64() * 1000.0;
        match self.ms > budget {
            true => Some(false),
            false if self.unknown.is_empty() => Some(true),
            false => None,
        }
    }

    /// Milliseconds of all parts that are ours and were measured one by one. Experience is the
    /// relation of a real pause to this, and not to what was corrected by experience already.
    #[must_use]
    pub fn by_parts(&self) -> f64 {
        self.parts.iter().filter(|p| p.name != OPEN && p.name != EXPERIENCE).map(|p| p.ms).sum()
    }
}

/// Appends to the journal during a pause.
const APPENDS: f64 = 7.0;
/// Looking at the trigger of one table, in milliseconds.
const FENCE_PER_TABLE: f64 = 0.005;
/// Reading and setting one sequence, in milliseconds.
const PER_SEQUENCE: f64 = 0.05;

/// A backlog that is there while nothing is wrong, in bytes.
pub const USUAL_BACKLOG: u64 = 1 << 20;
/// So few rows are compared in one query, whatever the rate.
const FEW_ROWS: u64 = 1000;
/// Comparing one row of few, in milliseconds; on the careful side.
const PER_ROW: f64 = 0.2;
/// Comparing one MiB of a table as a whole, in milliseconds; on the careful side.
const PER_MIB: f64 = 16.0;

/// The part that is the clients'.
const OPEN: &str = "open transactions";
/// The part that corrects the others.
const EXPERIENCE: &str = "experience";
/// So many pauses of late are experience; a run that moves often meets other loads.
const REMEMBERED: usize = 9;

/// Bytes of tables that are compared as a whole within `time`, on the careful side.
#[must_use]
pub fn compared_within(time: Duration) -> u64 {
    (time.as_secs_f64() * 1000.0 / PER_MIB * f64::from(1 << 20)) as u64
}

impl Measured {
    /// The same after changed rows were compared for so long, as a move does before its pause.
    #[must_use]
    pub fn after_comparing(mut self, time: Duration) -> Self {
        let rate = self.rows_compared_per_second.unwrap_or(1000.0 / PER_ROW);
        let compared = (rate * time.as_secs_f64()) as u64;
        self.changed_rows = self.changed_rows.map(|rows| rows.saturating_sub(compared));
        self
    }
}

/// Puts the parts of a pause together.
#[must_use]
pub fn estimate(measured: &Measured) -> Estimate {
    let mut unknown = Vec::new();
    let mut parts = Vec::new();
    let mut part = |name: &str, ms: f64, why: String| {
        parts.push(Part { name: name.into(), ms, why });
    };
    let mut known = |what: &str, value: Option<f64>| {
        value.unwrap_or_else(|| {
            unknown.push(what.to_owned());
            0.0
        })
    };
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;

    let origin = known("round trip to the origin", measured.origin_round_trip.map(ms));
    let target = known("round trip to the target", measured.target_round_trip.map(ms));
    let switch = measured
        .switches
        .iter()
        .map(|d| known("round trip to a switch", d.map(ms)))
        .fold(0.0, f64::max);

    let blocking: Vec<_> = measured.open.iter().filter(|t| t.blocks_fence).collect();
    let oldest = blocking.iter().map(|t| t.age_seconds * 1000.0).fold(0.0, f64::max);
    let n = measured.switches.len();
    part("pause", 2.0 * switch, format!("2 round trips, {n} switches at once"));
    if !blocking.is_empty() {
        // A transaction that has lasted so long is expected to last as long again.
        part(OPEN, oldest, format!("{} that write, the oldest", blocking.len()));
    }
    if let Some(prepared) = blocking.iter().find(|t| t.is_forgotten()) {
        known(&format!("end of the prepared transaction {}", prepared.who), None);
    }
    let tables = measured.tables as f64;
    part(
        "fence",
        3.0 * origin + FENCE_PER_TABLE * tables,
        format!("3 round trips, {} tables", measured.tables),
    );
    let marker = known("time of a marker", measured.marker.map(ms));
    let backlog = match (measured.lag_bytes, measured.drain_bytes_per_second) {
        (Some(bytes), Some(rate)) if rate > 0.0 => bytes as f64 / rate * 1000.0,
        // The time of a marker contains what little there usually is before it.
        (Some(bytes), _) if bytes <= USUAL_BACKLOG => 0.0,
        (Some(_), _) => known("drain rate", None),
        (None, _) => known("lag in bytes", None),
    };
    part("drain", marker.max(backlog), "a marker, or the backlog at the measured rate".into());
    let rows = match (measured.changed_rows, measured.rows_compared_per_second) {
        (Some(rows), Some(rate)) if rate > 0.0 => rows as f64 / rate * 1000.0,
        (Some(rows), _) if rows <= FEW_ROWS => rows as f64 * PER_ROW,
        (Some(_), _) => known("rate of comparison", None),
        (None, _) => known("changed rows", None),
    };
    let mut why = "changed rows at the measured rate".to_owned();
    let mib = measured.read_whole as f64 / f64::from(1 << 20);
    if measured.read_whole > 0 {
        why.push_str(&format!(", and {mib:.1} MiB of tables without a key or emptied ones"));
    }
    part("verify", rows + PER_MIB * mib + origin.max(target), why);
    let sequences = measured.sequences as f64;
    part(
        "counters",
        target + PER_SEQUENCE * sequences,
        format!("1 round trip, {} sequences", measured.sequences),
    );
    let append = known("time of an append to the journal", measured.journal_append.map(ms));
    part("journal", APPENDS * append, format!("{APPENDS} appends"));
    part("unfence", target, "1 round trip".into());
    part("point", 2.0 * switch, format!("2 round trips, {n} switches at once"));

    let mut estimate = Estimate { ms: 0.0, parts, unknown };
    // How long others keep their transactions open, no pause of ours tells.
    let sum = estimate.by_parts();
    let of_late = &measured.history[measured.history.len().saturating_sub(REMEMBERED)..];
    if let Some(factor) = experience(of_late) {
        // A pause that waited for one client must not keep all others away: longer than the longest
        // it becomes by what was measured only.
        let longest = of_late.iter().map(|(_, real)| *real).fold(sum, f64::max);
        estimate.parts.push(Part {
            name: EXPERIENCE.into(),
            ms: (sum * factor).min(longest) - sum,
            why: format!("{} earlier pauses, {factor:.2} times their parts", of_late.len()),
        });
    }
    estimate.ms = estimate.parts.iter().map(|p| p.ms).sum();
    estimate
}

/// Median of real by measured parts, within sane bounds; `None` without history.
fn experience(history: &[(f64, f64)]) -> Option<f64> {
    let mut factors: Vec<f64> =
        history.iter().filter(|(p, r)| *p > 0.0 && *r > 0.0).map(|(p, r)| r / p).collect();
    factors.sort_by(f64::total_cmp);
    factors.get(factors.len() / 2).map(|f| f.clamp(0.25, 8.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let ms = Duration::from_millis;
        Measured {
            origin_round_trip: Some(ms(1)),
            target_round_trip: Some(ms(2)),
            switches: vec![Some(ms(1)), Some(ms(3))],
            marker: Some(ms(8)),
            lag_bytes: Some(1000),
            drain_bytes_per_second: Some(1e6),
            open: vec![],
            tables: 10,
            sequences: 20,
            changed_rows: Some(50),
            rows_compared_per_second: Some(10_000.0),
            read_whole: 0,
            journal_append: Some(Duration::from_micros(200)),
            history: vec![],
        }
    }

    fn open(age_seconds: f64, blocks_fence: bool, prepared: bool) -> OpenTransaction {
        OpenTransaction {
            who: "7".into(),
            application: "app".into(),
            age_seconds,
            blocks_fence,
            blocks_waking: false,
            prepared,
        }
    }

    fn part(estimate: &Estimate, name: &str) -> f64 {
        estimate.parts.iter().find(|p| p.name == name).map_or(0.0, |p| p.ms)
    }

    #[test]
    fn what_is_compared_before_the_pause_is_not_part_of_it() {
        let second = Duration::from_secs(1);
        for (changed, rate, want) in [
            (Some(15_000), Some(10_000.0), Some(5_000)),
            (Some(50), Some(10_000.0), Some(0)),
            // Not measured yet: on the careful side.
            (Some(15_000), None, Some(10_000)),
            (None, Some(10_000.0), None),
        ] {
            let before =
                Measured { changed_rows: changed, rows_compared_per_second: rate, ..measured() };
            assert_eq!(before.after_comparing(second).changed_rows, want, "{changed:?} {rate:?}");
        }
    }

    #[test]
    fn the_parts_add_up() {
        let e = estimate(&measured());
        for (name, ms) in [
            ("pause", 6.0),
            ("fence", 3.05),
            ("drain", 8.0),
            ("verify", 7.0),
            ("counters", 3.0),
            ("journal", 1.4),
            ("unfence", 2.0),
            ("point", 6.0),
            ("open transactions", 0.0),
        ] {
            assert!((part(&e, name) - ms).abs() < 1e-9, "{name}: {}", part(&e, name));
        }
        assert!((e.ms - 36.45).abs() < 1e-9, "{}", e.ms);
        assert!(e.unknown.is_empty());
        assert_eq!(e.fits(Duration::from_millis(37)), Some(true));
        assert_eq!(e.fits(Duration::from_millis(36)), Some(false));
    }

    #[test]
    fn a_backlog_counts_at_its_rate_and_writers_by_their_age() {
        let mut m = measured();
        m.lag_bytes = Some(3_000_000);
        m.open = vec![open(2.0, true, false), open(60.0, false, false)];
        let e = estimate(&m);
        assert!((part(&e, "drain") - 3000.0).abs() < 1e-9);
        assert!((part(&e, "open transactions") - 2000.0).abs() < 1e-9);
    }

    #[test]
    fn tables_that_are_read_whole_count() {
        let m = Measured { read_whole: 8 << 20, ..measured() };
        let [with, without] = [&m, &measured()].map(|m| part(&estimate(m), "verify"));
        assert!((with - without - 128.0).abs() < 1e-9, "{with} {without}");
    }

    #[test]
    fn unknown_is_not_zero() {
        let known = measured();
        for (name, m) in [
            ("origin", Measured { origin_round_trip: None, ..known.clone() }),
            ("target", Measured { target_round_trip: None, ..known.clone() }),
            ("switch", Measured { switches: vec![None], ..known.clone() }),
            ("marker", Measured { marker: None, ..known.clone() }),
            ("lag", Measured { lag_bytes: None, ..known.clone() }),
            (
                "drain rate",
                Measured {
                    drain_bytes_per_second: None,
                    lag_bytes: Some(2 << 20),
                    ..known.clone()
                },
            ),
            ("changed rows", Measured { changed_rows: None, ..known.clone() }),
            (
                "comparison",
                Measured {
                    rows_compared_per_second: None,
                    changed_rows: Some(1001),
                    ..known.clone()
                },
            ),
            ("journal", Measured { journal_append: None, ..known.clone() }),
            ("prepared", Measured { open: vec![open(1.0, true, true)], ..known.clone() }),
        ] {
            let e = estimate(&m);
            assert_eq!(e.unknown.len(), 1, "{name}: {:?}", e.unknown);
            assert_eq!(e.fits(Duration::from_secs(10)), None, "{name}");
        }
        let idle = Measured {
            lag_bytes: Some(0),
            drain_bytes_per_second: None,
            changed_rows: Some(0),
            rows_compared_per_second: None,
            ..known
        };
        assert!(estimate(&idle).unknown.is_empty(), "nothing to do takes no rate");
    }

    /// Parts that are far off are corrected once, and not in turns.
    #[test]
    fn experience_settles() {
        let mut m = measured();
        for real in [9.2_f64, 100.0] {
            for n in 0..30 {
                let e = estimate(&m);
                let settled =
                    n == 0 || (m.history.len() > 9 && n < 9) || (e.ms - real).abs() < 1e-6;
                assert!(settled, "{n}: {} of {real}", e.ms);
                m.history.push((e.by_parts(), real));
            }
        }
    }

    #[test]
    fn experience_corrects_within_bounds() {
        for (history, factor) in [
            (vec![(40.0, 80.0)], 2.0),
            (vec![(40.0, 80.0), (40.0, 120.0), (40.0, 40.0)], 2.0),
            (vec![(40.0, 4000.0)], 8.0),
            (vec![(0.0, 5.0)], 1.0),
            (vec![(80.0, 20.0)], 0.25),
            // No longer than the longest there was.
            (vec![(10.0, 36.45 * 1.5)], 1.5),
            (vec![(5.0, 20.0)], 1.0),
        ] {
            let e = estimate(&Measured { history, ..measured() });
            assert!((e.ms - 36.45 * factor).abs() < 1e-6, "{} {factor}", e.ms);
        }
        // What clients still do takes as long as it takes.
        let slow = Measured { history: vec![(40.0, 80.0)], ..measured() };
        let waits = Measured { open: vec![open(0.2, true, false)], ..slow.clone() };
        let more = estimate(&waits).ms - estimate(&slow).ms;
        assert!((more - 200.0).abs() < 1e-6, "{more}");
    }
}
