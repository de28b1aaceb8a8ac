//! What is left of a move for those who were not there: one JSON file and one page.
//!
//! Timeline, positions, certificate, decisions, predicted and real pause, configuration without
//! secrets. The facts are chained by SHA-256, so that a line cannot be changed, lost or added
//! without notice, and the chain can be checked without this program:
//! `printf '%s\n%s' "$previous" "$line" | sha256sum`.
//!
//! Holds no row values and no credentials: facts have none, and the configuration is given
//! without them.

mod chain;
mod page;

use cutover_core::model::side::Side;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use chain::{Broken, Entry};

use super::{
    driver::{Overrun, Report, Stop, durations},
    fact::{Details, Ending, Fact, Outcome},
    plan::Step,
};
use crate::lag::Estimate;

/// Version of the form of the file.
const VERSION: u32 = 1;

/// What a report does not know by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Name of the run.
    pub run: String,
    /// Name and version of the program.
    pub program: String,
    /// The configuration without secrets.
    pub configuration: Value,
}

/// The pause, as predicted and as it was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PauseTold {
    /// Longest pause allowed, in milliseconds.
    pub budget_ms: u64,
    /// As estimated before the move.
    pub predicted: Option<Estimate>,
    /// From the first held write to the first switch that let its clients go; `None` when nobody
    /// was held, or when the process that held them did not live to measure it.
    pub real_ms: Option<f64>,
    /// Until every switch had let its clients go.
    pub longest_ms: Option<f64>,
}

/// How long a step took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepTold {
    /// Name; `undo` in front when it was taken back.
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
}

/// Something that took longer than it may.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverrunTold {
    /// What.
    pub what: String,
    /// Milliseconds it was allowed.
    pub allowed_ms: u64,
    /// Milliseconds it took.
    pub took_ms: u64,
}

/// The evidence of one move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Version of this form.
    pub version: u32,
    /// Run, program and configuration.
    pub about: About,
    /// Identifier of the move.
    pub id: String,
    /// Where it came from.
    pub from: Side,
    /// Whether it was to be taken back on purpose.
    pub rehearsal: bool,
    /// When it began, RFC 3339.
    pub began: String,
    /// How it ended; `None` while it has not.
    pub ending: Option<Ending>,
    /// Why it stopped without an end.
    pub undecided: Option<String>,
    /// Who owns the writes.
    pub owner: Side,
    /// The pause.
    pub pause: PauseTold,
    /// Steps in order.
    pub steps: Vec<StepTold>,
    /// What took longer than it may.
    pub overruns: Vec<OverrunTold>,
    /// Switches of the move.
    pub switches: Vec<String>,
    /// Where the reverse capture begins, in the target's log.
    pub reverse_from: Option<String>,
    /// Where the origin's log ended for clients; everything before is on the target.
    pub drained_to: Option<String>,
    /// The certificate of equality.
    pub certificate: Option<Value>,
    /// Sequences carried over.
    pub counters: Option<Value>,
    /// Every fact, chained.
    pub chain: Vec<Entry>,
    /// Hash of the last entry: what to write down elsewhere.
    pub seal: String,
}

impl Evidence {
    /// Puts the evidence of a move together; `None` when `report` holds no move.
    #[must_use]
    pub fn new(about: About, report: &Report, predicted: Option<&Estimate>) -> Option<Self> {
        let Some(Fact::MoveBegan { id, from, rehearsal, budget_ms, switches, at_ms }) =
            report.facts.first()
        else {
            return None;
        };
        let done = |step| done(&report.facts, step);
        let text = |details: Option<Details>, key: &str| {
            details.and_then(|d| d.get(key).and_then(Value::as_str).map(str::to_owned))
        };
        let chain = chain::link(&chain::root(&about, id), &report.facts);
        Some(Self {
            version: VERSION,
            id: id.clone(),
            from: *from,
            rehearsal: *rehearsal,
            began: time_of_day(*at_ms),
            ending: match &report.stop {
                Stop::Ended(ending) => Some(ending.clone()),
                _ => None,
            },
            undecided: match &report.stop {
                Stop::NeedsOperator { why, .. } => Some(why.clone()),
                _ => None,
            },
            owner: report.owner,
            pause: PauseTold {
                budget_ms: *budget_ms,
                predicted: predicted.cloned(),
                real_ms: report.pause.and_then(|p| p.ms()),
                longest_ms: report.pause.and_then(|p| p.longest_ms()),
            },
            steps: durations(&report.facts)
                .into_iter()
                .map(|(name, ms)| StepTold { name, ms })
                .collect(),
            overruns: report
                .overruns
                .iter()
                .map(|Overrun { what, allowed_ms, took_ms }| OverrunTold {
                    what: what.clone(),
                    allowed_ms: *allowed_ms,
                    took_ms: *took_ms,
                })
                .collect(),
            switches: switches.clone(),
            reverse_from: text(done(Step::ArmReverse), "position"),
            drained_to: text(done(Step::Drain), "position"),
            certificate: done(Step::Verify).and_then(|d| d.get("certificate").cloned()),
            counters: done(Step::Counters).and_then(|d| d.get("counters").cloned()),
            seal: chain.last().map(|entry| entry.hash.clone()).unwrap_or_default(),
            chain,
            about,
        })
    }

    /// The file for machines.
    #[must_use]
    pub fn json(&self) -> String {
        // Only maps with keys that are no strings fail, and there are none.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The page for people: one file without anything from elsewhere.
    #[must_use]
    pub fn html(&self) -> String {
        page::html(self)
    }

    /// Checks the chain.
    ///
    /// # Errors
    ///
    /// The first entry that was changed, added, moved or lost.
    pub fn check(&self) -> Result<(), Broken> {
        chain::check(&chain::root(&self.about, &self.id), &self.chain, &self.seal)
    }
}

/// Details of a step that was done.
fn done(facts: &[Fact], wanted: Step) -> Option<Details> {
    facts.iter().rev().find_map(|fact| match fact {
        Fact::Step { step, outcome: Outcome::Done { details }, .. } if *step == wanted => {
            Some(details.clone())
        }
        _ => None,
    })
}

/// RFC 3339 in UTC.
fn time_of_day(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map(|at| at.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cutover::{driver::Pause, fact::Process};

    pub(super) fn sample() -> Evidence {
        let step = |step, outcome, at_us| Fact::Step { step, switch: None, outcome, at_us };
        let done = |value: Value| Outcome::Done {
            details: value.as_object().cloned().unwrap_or_default(),
        };
        let facts = vec![
            Fact::MoveBegan {
                id: "0001".into(),
                from: Side::Blue,
                rehearsal: false,
                budget_ms: 1000,
                switches: vec!["<script>alert('x')</script>".into()],
                at_ms: 1_700_000_000_000,
            },
            step(Step::ArmReverse, Outcome::Started, 100),
            step(Step::ArmReverse, done(json!({"position": "0/1A (timeline 1)"})), 1100),
            Fact::Step {
                step: Step::Pause,
                switch: Some("<script>alert('x')</script>".into()),
                outcome: Outcome::Started,
                at_us: 1200,
            },
            step(Step::Drain, Outcome::Started, 1300),
            step(Step::Drain, done(json!({"position": "0/2B", "marker_ms": 7.5})), 9300),
            step(Step::Verify, Outcome::Started, 9300),
            step(Step::Verify, done(json!({"certificate": {"rows": 42}})), 9400),
            Fact::Restarted { by: Process::Guard, at_ms: 1_700_000_000_100 },
            Fact::Ended { ending: Ending::Moved { owner: Side::Green }, at_ms: 1_700_000_000_200 },
        ];
        let report = Report {
            stop: Stop::Ended(Ending::Moved { owner: Side::Green }),
            owner: Side::Green,
            facts,
            pause: Some(Pause {
                began_us: 1200,
                first_resumed_us: Some(24_700),
                last_resumed_us: Some(25_000),
            }),
            overruns: vec![],
        };
        let about = About {
            run: "shop & <co>".into(),
            program: "cutover 0.1.0".into(),
            configuration: json!({"run": "shop", "blue": {"url": "postgres://u@blue/\"shop\""}}),
        };
        let predicted = Estimate { ms: 30.0, parts: vec![], unknown: vec![] };
        Evidence::new(about, &report, Some(&predicted)).unwrap()
    }

    #[test]
    fn it_says_what_happened() {
        let evidence = sample();
        assert_eq!(evidence.pause.real_ms, Some(23.5));
        assert_eq!(evidence.pause.longest_ms, Some(23.8));
        assert_eq!(evidence.drained_to.as_deref(), Some("0/2B"));
        assert_eq!(evidence.reverse_from.as_deref(), Some("0/1A (timeline 1)"));
        assert_eq!(evidence.certificate, Some(json!({"rows": 42})));
        assert_eq!(evidence.began, "2023-11-14T22:13:20Z");
        assert!(evidence.steps.contains(&StepTold { name: "drain".into(), ms: 8.0 }));
        let read: Evidence = serde_json::from_str(&evidence.json()).unwrap();
        assert_eq!(read, evidence);
        assert!(read.check().is_ok());
    }

    #[test]
    fn nothing_begun_leaves_no_evidence() {
        let report = Report {
            stop: Stop::TrafficFree,
            owner: Side::Blue,
            facts: vec![],
            pause: None,
            overruns: vec![],
        };
        let about = About { run: "r".into(), program: "p".into(), configuration: Value::Null };
        assert!(Evidence::new(about, &report, None).is_none());
    }
}
