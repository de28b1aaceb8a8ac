//! Whether a move would be accepted, by what is sampled all the time. A move asks the databases and
//! the switches once more.

use cutover_core::port::primary::OpenTransaction;

use super::{
    lend::{COMPARE_BEFORE, REDEFINED},
    live::Live,
    status::Readiness,
};
use crate::{
    cutover::ground::refuse::too_long,
    lag::{Converge, Estimate, estimate},
};

impl Live {
    /// Whether a move would be accepted now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        match self.converged() {
            Readiness::Ready if self.ports.switches.is_empty() => {
                Readiness::Never { why: "no switch is configured".into() }
            }
            readiness => readiness,
        }
    }

    /// The same where nobody's traffic has to be moved.
    pub(super) fn converged(&self) -> Readiness {
        let not_yet = |why: &str| Readiness::NotYet { why: why.to_owned(), eta_seconds: None };
        // Before the alarms: what is being prepared again does not match yet.
        if self.redefined() {
            return not_yet(REDEFINED);
        }
        if let Some(alarm) = self.alarms().into_iter().next() {
            return Readiness::Never { why: format!("{}: {}", alarm.code, alarm.what) };
        }
        match self.converge() {
            Converge::Ready => {}
            Converge::NotYet { eta_seconds, why } => {
                return Readiness::NotYet {
                    why,
                    eta_seconds: eta_seconds.map(|s| s.max(0.0).ceil() as u64),
                };
            }
            Converge::Never { why } => return Readiness::Never { why },
        }
        if let Some(why) = self.uncompared() {
            let eta_seconds = self.proof.view().reading.and_then(|reading| reading.eta_seconds);
            return Readiness::NotYet { why, eta_seconds };
        }
        if let Some(open) = self.measured().open.iter().find(|open| open.stops_moves()) {
            return not_yet(&held_up(open));
        }
        match too_long(&self.forecast(), self.wishes.pause_budget) {
            None => Readiness::Ready,
            Some(refusal) => {
                not_yet(&format!("{}: {}", refusal.code.unwrap_or_default(), refusal.why))
            }
        }
    }

    /// The pause of a move that is asked for now: it first compares what has changed, for a while.
    #[must_use]
    pub fn forecast(&self) -> Estimate {
        estimate(&self.measured().after_comparing(COMPARE_BEFORE))
    }
}

/// The oldest of those that would keep the fence waiting, under the code of the move's own check.
fn held_up(open: &OpenTransaction) -> String {
    let OpenTransaction { who, application, age_seconds, prepared, .. } = open;
    if *prepared {
        return format!(
            "CUT0140: the prepared transaction {who:?} is open since {age_seconds:.0} s, and the \
             fence may wait for its end"
        );
    }
    let application =
        if application.is_empty() { String::new() } else { format!(" ({application})") };
    format!(
        "CUT0139: process {who}{application} has locked tables of the run since {age_seconds:.0} s \
         and would hold up the fence"
    )
}
