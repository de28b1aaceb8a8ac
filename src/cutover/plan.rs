//! The steps of a move in order, which of them leave traces, and what each means in words.

use cutover_core::{model::side::Side, port::switch::TrafficSwitch};
use serde::{Deserialize, Serialize};

/// One step of a move. The order of the variants is the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Everything that can be known before clients wait is asked again.
    Recheck,
    /// The target's changes are captured from here on, so that the way back exists.
    ArmReverse,
    /// A second process stands by and frees the traffic if we die.
    Guard,
    /// Every switch holds its clients.
    Pause,
    /// The origin refuses writes from everyone but us.
    Fence,
    /// Everything that was committed on the origin is on the target.
    Drain,
    /// Both sides hold the same rows.
    Verify,
    /// Sequences and auto-increment counters continue on the target.
    Counters,
    /// The point of no return: one line in the journal.
    Decide,
    /// The target accepts clients.
    Unfence,
    /// Every switch sends its clients to the target and lets them go.
    Point,
    /// The target's changes are applied to the origin.
    StreamReverse,
}

/// When a step happens, as clients feel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Clients notice nothing; a failure ends the move.
    Before,
    /// Clients wait; a failure, a crash or an exceeded budget lets them go where they were.
    Pause,
    /// Clients wait until `Point`; there is no way but forward.
    Forward,
}

impl Step {
    /// All steps in the order of the plan.
    pub const ALL: [Self; 12] = [
        Self::Recheck,
        Self::ArmReverse,
        Self::Guard,
        Self::Pause,
        Self::Fence,
        Self::Drain,
        Self::Verify,
        Self::Counters,
        Self::Decide,
        Self::Unfence,
        Self::Point,
        Self::StreamReverse,
    ];

    /// Steps that are taken back, last first, when a move ends before `Decide`.
    pub const WITH_TRACES: [Self; 4] = [Self::ArmReverse, Self::Guard, Self::Pause, Self::Fence];

    /// Whether the step is made once for every switch.
    #[must_use]
    pub fn per_switch(self) -> bool {
        matches!(self, Self::Pause | Self::Point)
    }

    /// Whether nothing of it has to be taken back or found again after a crash, so that its
    /// journal line may reach the disk beside it: a power cut that loses the line loses nothing.
    #[must_use]
    pub fn traceless(self) -> bool {
        matches!(self, Self::Recheck | Self::Drain | Self::Verify | Self::Counters)
    }

    /// When it happens.
    #[must_use]
    pub fn phase(self) -> Phase {
        match self {
            Self::Recheck | Self::ArmReverse | Self::Guard => Phase::Before,
            Self::Pause | Self::Fence | Self::Drain | Self::Verify | Self::Counters => Phase::Pause,
            Self::Decide | Self::Unfence | Self::Point | Self::StreamReverse => Phase::Forward,
        }
    }

    /// Name in journals, reports and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Recheck => "recheck",
            Self::ArmReverse => "arm_reverse",
            Self::Guard => "guard",
            Self::Pause => "pause",
            Self::Fence => "fence",
            Self::Drain => "drain",
            Self::Verify => "verify",
            Self::Counters => "counters",
            Self::Decide => "decide",
            Self::Unfence => "unfence",
            Self::Point => "point",
            Self::StreamReverse => "stream_reverse",
        }
    }

    /// What it does in a move from `from`, in one sentence.
    #[must_use]
    pub fn what(self, from: Side) -> String {
        let to = from.other();
        match self {
            Self::Recheck => format!(
                "ask both databases and every switch again; refuse unless {to} is close behind \
                 {from}, the comparison is nearly complete and the estimated pause is within the \
                 budget; open every connection the pause needs, and wake {from}'s fence"
            ),
            Self::ArmReverse => format!(
                "make sure that {to} keeps its changes for the way back to {from}; its replication \
                 slot exists long before"
            ),
            Self::Guard => {
                "start a second process that frees the traffic if this one dies or hangs; have every \
                 switch close connections that nobody uses, and compare what changed meanwhile"
                    .into()
            }
            Self::Pause => "hold the clients; wait until no transaction is in flight".into(),
            Self::Fence => format!(
                "{from} refuses writes from everyone but us, also from sessions that go around \
                 the switches; writers in flight are waited for"
            ),
            Self::Drain => format!(
                "wait until all of {from}'s change log up to a marker is applied on {to}"
            ),
            Self::Verify => {
                "compare the rows that changed since the last full comparison; every row is equal"
                    .into()
            }
            Self::Counters => {
                format!("move the sequences of {to} to where they are on {from}, never behind what others used")
            }
            Self::Decide => {
                "write one line into the journal: from here on there is only forward".into()
            }
            Self::Unfence => format!("{to} accepts writes from clients"),
            Self::Point => format!("send the clients to {to} and let them go"),
            Self::StreamReverse => format!(
                "apply the changes of {to} to {from}; a foreign write on {from} is an alarm"
            ),
        }
    }

    /// What taking it back means; `None` when it leaves no trace, or is past the decision.
    #[must_use]
    pub fn undo(self, from: Side) -> Option<String> {
        match self {
            Self::ArmReverse => Some("both streams go on as before".into()),
            Self::Guard => Some("tell it that it is not needed".into()),
            Self::Pause => Some(format!("let the clients go on with {from}")),
            Self::Fence => Some(format!("{from} accepts writes from clients again")),
            _ => None,
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One step in words, for `cutover plan` and the evidence report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Which.
    pub step: Step,
    /// When, as clients feel it.
    pub phase: Phase,
    /// What it does.
    pub what: String,
    /// What taking it back means.
    pub undo: Option<String>,
    /// What each switch would do, in its own words.
    pub switches: Vec<String>,
}

/// The move from `from` in words; changes nothing. A rehearsal ends before `Decide`.
#[must_use]
pub fn describe(from: Side, rehearsal: bool, switches: &[&dyn TrafficSwitch]) -> Vec<PlannedStep> {
    Step::ALL
        .into_iter()
        .filter(|step| !rehearsal || step.phase() != Phase::Forward)
        .map(|step| PlannedStep {
            step,
            phase: step.phase(),
            what: step.what(from),
            undo: step.undo(from),
            switches: match step {
                Step::Pause => switches.iter().map(|s| format!("{}: hold", s.name())).collect(),
                Step::Point => switches
                    .iter()
                    .map(|s| format!("{}: {}", s.name(), s.describe(from.other())))
                    .collect(),
                _ => vec![],
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_traces_says_how_to_take_it_back_and_nothing_else_does() {
        for step in Step::ALL {
            assert_eq!(step.undo(Side::Blue).is_some(), Step::WITH_TRACES.contains(&step));
            assert_eq!(serde_json::to_value(step).unwrap(), step.name());
            assert!(!step.traceless() || (step.undo(Side::Blue).is_none() && step < Step::Decide));
        }
    }

    #[test]
    fn the_way_back_is_the_same_plan_with_the_sides_exchanged() {
        let exchanged =
            |text: &str| text.replace("blue", "?").replace("green", "blue").replace('?', "green");
        for (there, back) in
            describe(Side::Blue, false, &[]).iter().zip(describe(Side::Green, false, &[]))
        {
            assert_eq!(exchanged(&there.what), back.what);
            assert_eq!(there.undo.as_deref().map(exchanged), back.undo);
        }
    }

    #[test]
    fn a_rehearsal_ends_before_the_decision() {
        let steps = describe(Side::Blue, true, &[]);
        assert_eq!(steps.last().map(|s| s.step), Some(Step::Counters));
        assert!(Step::ALL.windows(2).all(|w| w[0] < w[1]), "declared in the order of the plan");
    }
}
