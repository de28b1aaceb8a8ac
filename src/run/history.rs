//! Moves and rehearsals as the journal of moves tells them. Pure.

use cutover_core::model::side::Side;

use super::status::MoveView;
use crate::cutover::{
    fact::{Ending, Fact, HELD_US, Outcome},
    plan::Step,
};

/// One view per ended move, oldest first.
#[must_use]
pub(super) fn views(facts: &[Fact]) -> Vec<MoveView> {
    let mut views = Vec::new();
    let mut current: Option<Open> = None;
    for fact in facts {
        match fact {
            Fact::MoveBegan { id, from, rehearsal, .. } => {
                current = Some(Open {
                    id: id.clone(),
                    from: *from,
                    rehearsal: *rehearsal,
                    held: None,
                    first: None,
                    pause_ms: None,
                });
            }
            // Times are those of one process; nobody measured a pause that outlived one.
            Fact::Restarted { .. } => {
                if let Some(open) = &mut current {
                    (open.held, open.first) = (None, None);
                }
            }
            Fact::Step { step: Step::Pause, outcome: Outcome::Started, at_us, .. } => {
                if let Some(open) = &mut current {
                    open.held.get_or_insert(*at_us);
                }
            }
            Fact::Step { step: Step::Pause, outcome: Outcome::Done { details }, at_us, .. } => {
                if let Some(open) = &mut current
                    && let Some(held) = details.get(HELD_US).and_then(serde_json::Value::as_u64)
                {
                    // The first switch that holds clients says since when.
                    let since = at_us.saturating_sub(held);
                    open.first = Some(open.first.map_or(since, |first| first.min(since)));
                }
            }
            Fact::Step { step: Step::Point, outcome: Outcome::Done { .. }, at_us, .. }
            | Fact::Undo { step: Step::Pause, outcome: Outcome::Done { .. }, at_us, .. } => {
                if let Some(open) = &mut current
                    && let Some(held) = open.held.take()
                {
                    let since = open.first.take().unwrap_or(held);
                    open.pause_ms = Some(at_us.saturating_sub(since) as f64 / 1000.0);
                }
            }
            Fact::Ended { ending, .. } => views.extend(current.take().map(|o| o.view(ending))),
            _ => {}
        }
    }
    views
}

struct Open {
    id: String,
    from: Side,
    rehearsal: bool,
    /// Since when clients may have been held,
    held: Option<u64>,
    /// and since when they were, where the journal says so.
    first: Option<u64>,
    pause_ms: Option<f64>,
}

impl Open {
    fn view(self, ending: &Ending) -> MoveView {
        let kind = match (self.rehearsal, self.from) {
            (true, _) => "rehearsal",
            (false, Side::Blue) => "switch",
            (false, Side::Green) => "rollback",
        };
        let word = match ending {
            Ending::Moved { .. } => "moved",
            Ending::Aborted { .. } => "aborted",
            Ending::Rehearsed { .. } => "rehearsed",
        };
        MoveView {
            evidence: Some(format!("moves/{}.json", self.id)),
            id: self.id,
            kind: kind.into(),
            ending: word.into(),
            owner: ending.owner(),
            pause_ms: self.pause_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cutover::fact::Process;

    fn began(id: &str, from: Side, rehearsal: bool) -> Fact {
        let switches = vec!["p".into()];
        Fact::MoveBegan { id: id.into(), from, rehearsal, budget_ms: 1000, switches, at_ms: 0 }
    }

    fn step(step: Step, outcome: Outcome, at_us: u64) -> Fact {
        Fact::Step { step, switch: Some("p".into()), outcome, at_us }
    }

    fn done() -> Outcome {
        Outcome::Done { details: serde_json::Map::new() }
    }

    #[test]
    fn waiting_for_a_quiet_moment_is_no_pause() {
        let held = |us: u64| {
            let details = [(HELD_US.to_owned(), us.into())].into_iter().collect();
            Outcome::Done { details }
        };
        let facts = [
            began("0001", Side::Blue, false),
            step(Step::Pause, Outcome::Started, 1_000),
            step(Step::Pause, held(1_500), 101_500),
            step(Step::Pause, held(2_500), 103_000),
            step(Step::Point, done(), 120_000),
            Fact::Ended { ending: Ending::Moved { owner: Side::Green }, at_ms: 1 },
        ];
        assert_eq!(views(&facts)[0].pause_ms, Some(20.0));
    }

    #[test]
    fn the_pause_is_from_the_first_hold_to_the_first_release() {
        let facts = [
            began("0001", Side::Blue, false),
            step(Step::Pause, Outcome::Started, 1_000),
            step(Step::Pause, done(), 3_000),
            step(Step::Point, done(), 21_000),
            step(Step::Point, done(), 90_000),
            Fact::Ended { ending: Ending::Moved { owner: Side::Green }, at_ms: 1 },
        ];
        let view = &views(&facts)[0];
        assert_eq!((view.kind.as_str(), view.ending.as_str()), ("switch", "moved"));
        assert_eq!((view.owner, view.pause_ms), (Side::Green, Some(20.0)));
    }

    #[test]
    fn a_pause_that_outlived_its_process_is_unknown_and_an_open_move_is_not_told() {
        let facts = [
            began("0001", Side::Green, false),
            step(Step::Pause, Outcome::Started, 1_000),
            Fact::Restarted { by: Process::Guard, at_ms: 1 },
            step(Step::Point, done(), 500),
            Fact::Ended { ending: Ending::Moved { owner: Side::Blue }, at_ms: 1 },
            began("0002", Side::Blue, true),
        ];
        let views = views(&facts);
        assert_eq!((views.len(), views[0].pause_ms), (1, None));
        assert_eq!(views[0].kind, "rollback");
    }
}
