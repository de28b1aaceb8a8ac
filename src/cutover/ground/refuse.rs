//! Why a move may not begin: pure.

use std::time::Duration;

use cutover_core::{
    model::{finding::Severity, side::Side},
    port::{primary::Fence, switch::Routing},
};

use super::{Failure, work::Readiness};
use crate::lag::{Converge, Estimate};

/// The code of a pause that would be too long.
const TOO_LONG: &str = "CUT0734";

/// Everything `Recheck` learned.
#[derive(Debug)]
pub(super) struct Learned<'a> {
    pub(super) from: Side,
    pub(super) budget: Duration,
    pub(super) readiness: &'a Readiness,
    pub(super) missing_proof: Option<&'a str>,
    pub(super) origin_fence: Fence,
    pub(super) target_fence: Fence,
    pub(super) switches: &'a [(String, Routing)],
}

/// The first reason that stops the move, with all others in its text; `None`: it may begin.
pub(super) fn refuse(learned: &Learned<'_>) -> Option<Failure> {
    let mut reasons = Vec::new();
    let (from, to) = (learned.from, learned.from.other());
    for finding in &learned.readiness.preflight.findings {
        if finding.severity == Severity::Error {
            let why = format!("{} {}: {}", finding.code, finding.place, finding.what);
            reasons.push(Failure::definite(&finding.code, why, finding.remedy.clone()));
        }
    }
    for (name, routing) in learned.switches {
        if routing.side == Some(to) || routing.paused == Some(true) {
            let held = if routing.paused == Some(true) { " and holds its clients" } else { "" };
            let side = routing.side.map_or("an unknown place", Side::as_str);
            reasons.push(Failure::definite(
                "CUT0730",
                format!("{name} sends writes to {side}{held}, but {from} owns them"),
                format!("let {name} send writes to {from} and hold nobody, then try again"),
            ));
        }
    }
    if learned.origin_fence != Fence::Open {
        reasons.push(Failure::definite(
            "CUT0731",
            format!("{from} owns the writes but its fence is not open"),
            "run `cutover check`; an earlier move may still be open: `cutover status`",
        ));
    }
    if learned.target_fence != Fence::Closed {
        reasons.push(Failure::definite(
            "CUT0731",
            format!("{to} accepts writes from clients although {from} owns them"),
            format!("restart `cutover run`, which closes {to}, then run `cutover verify`"),
        ));
    }
    match &learned.readiness.converge {
        Converge::Ready => {}
        Converge::NotYet { eta_seconds, why } => {
            let eta = eta_seconds.map(|s| format!(", about {s:.0} s")).unwrap_or_default();
            reasons.push(Failure::definite(
                "CUT0732",
                format!("{to} is not close enough behind {from}: {why}"),
                format!("wait{eta}; `cutover status` shows the lag"),
            ));
        }
        Converge::Never { why } => reasons.push(Failure::definite(
            "CUT0732",
            format!("{to} does not come closer to {from}: {why}"),
            format!("write less on {from}, or give {to} more power; or raise move.max_lag"),
        )),
    }
    if let Some(missing) = learned.missing_proof {
        reasons.push(Failure::definite(
            "CUT0733",
            format!("equality is not proven yet: {missing}"),
            "wait for the comparison, or run `cutover verify`",
        ));
    }
    reasons.extend(too_long(&learned.readiness.estimate, learned.budget));
    let all: Vec<_> = reasons.iter().map(|r| r.why.clone()).collect();
    let first = reasons.into_iter().next()?;
    Some(Failure { why: all.join("; "), ..first })
}

/// Why a move with this estimate is refused; `None`: its pause fits into the budget.
pub(crate) fn too_long(estimate: &Estimate, budget: Duration) -> Option<Failure> {
    match estimate.fits(budget) {
        Some(true) => None,
        Some(false) => {
            let mut parts: Vec<_> = estimate.parts.iter().collect();
            parts.sort_by(|a, b| b.ms.total_cmp(&a.ms));
            let parts: Vec<_> =
                parts.iter().take(3).map(|p| format!("{} {:.0} ms", p.name, p.ms)).collect();
            Some(Failure::definite(
                TOO_LONG,
                format!(
                    "the pause is estimated at {:.0} ms, the budget is {} ms ({})",
                    estimate.ms,
                    budget.as_millis(),
                    parts.join(", ")
                ),
                "end long transactions on the origin, wait for a quieter moment, or raise \
                 move.pause_budget",
            ))
        }
        None => Some(Failure::definite(
            TOO_LONG,
            format!("the pause cannot be estimated: not known: {}", estimate.unknown.join(", ")),
            "wait until it was measured, or run `cutover rehearse` later",
        )),
    }
}

#[cfg(test)]
mod tests {
    use cutover_core::model::finding::{Finding, Scope};

    use super::*;
    use crate::preflight::Report;

    fn readiness() -> Readiness {
        Readiness {
            preflight: Report::new(Scope::Move, vec![]),
            lag: None,
            converge: Converge::Ready,
            estimate: Estimate { ms: 20.0, parts: vec![], unknown: vec![] },
        }
    }

    fn finding(severity: Severity) -> Finding {
        Finding {
            code: "CUT0107".into(),
            severity,
            place: "blue".into(),
            what: "w".into(),
            remedy: "r".into(),
        }
    }

    #[test]
    fn every_reason_stops_it_and_nothing_else_does() {
        type Change = fn(&mut Readiness, &mut Learned<'_>);
        let cases: [(&str, Change, &[&str]); 14] = [
            ("fine", |_, _| {}, &[]),
            (
                "a warning",
                |r, _| r.preflight = Report::new(Scope::Move, vec![finding(Severity::Warning)]),
                &[],
            ),
            (
                "an error",
                |r, _| r.preflight = Report::new(Scope::Move, vec![finding(Severity::Error)]),
                &["CUT0107"],
            ),
            (
                "far behind",
                |r, _| r.converge = Converge::NotYet { eta_seconds: None, why: "x".into() },
                &["CUT0732"],
            ),
            ("never", |r, _| r.converge = Converge::Never { why: "x".into() }, &["CUT0732"]),
            ("too long", |r, _| r.estimate.ms = 101.0, &["CUT0734"]),
            ("unknown is not zero", |r, _| r.estimate.unknown = vec!["x".into()], &["CUT0734"]),
            ("not proven", |_, l| l.missing_proof = Some("x"), &["CUT0733"]),
            ("origin closed", |_, l| l.origin_fence = Fence::Partial, &["CUT0731"]),
            ("target open", |_, l| l.target_fence = Fence::Open, &["CUT0731"]),
            (
                "switch elsewhere",
                |_, l| l.switches = Box::leak(Box::new([routing(Some(Side::Green), Some(false))])),
                &["CUT0730"],
            ),
            (
                "switch holds",
                |_, l| l.switches = Box::leak(Box::new([routing(Some(Side::Blue), Some(true))])),
                &["CUT0730"],
            ),
            (
                "switch cannot say",
                |_, l| l.switches = Box::leak(Box::new([routing(None, None)])),
                &[],
            ),
            (
                "two at once",
                |r, l| {
                    r.estimate.ms = 101.0;
                    l.target_fence = Fence::Open;
                },
                &["CUT0731", "CUT0734"],
            ),
        ];
        for (name, change, want) in cases {
            let fine = readiness();
            let mut changed = readiness();
            let mut learned = Learned {
                from: Side::Blue,
                budget: Duration::from_millis(100),
                readiness: &fine,
                missing_proof: None,
                origin_fence: Fence::Open,
                target_fence: Fence::Closed,
                switches: &[],
            };
            change(&mut changed, &mut learned);
            let learned = Learned { readiness: &changed, ..learned };
            let failure = refuse(&learned);
            assert_eq!(failure.is_some(), !want.is_empty(), "{name}");
            if let Some(failure) = failure {
                assert_eq!(failure.code.as_deref(), Some(want[0]), "{name}");
                assert_eq!(failure.why.matches("; ").count() + 1, want.len(), "{name}");
                assert!(failure.remedy.is_some() && !failure.ambiguous, "{name}");
            }
        }
    }

    fn routing(side: Option<Side>, paused: Option<bool>) -> (String, Routing) {
        ("pgbouncer[0]".into(), Routing { side, paused })
    }
}
