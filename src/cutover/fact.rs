//! What a move writes into its journal. Facts are never edited, only added.

use cutover_core::{model::side::Side, port::switch::Routing};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::plan::Step;
use crate::journal::Kind;

/// What the header of a journal of moves says.
pub const KIND: Kind = Kind("moves/1");

/// What a step found out: positions, counts, durations. Never row values or credentials.
pub type Details = Map<String, Value>;

/// One fact. Times of day are for people; nothing is decided by them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// Somebody asked for a move.
    MoveBegan {
        /// Unique in the journal, for people and file names.
        id: String,
        /// Who owns the writes now.
        from: Side,
        /// Whether it is taken back on purpose before the decision.
        rehearsal: bool,
        /// Longest pause allowed, in milliseconds.
        budget_ms: u64,
        /// Names of the switches, in the order of the configuration.
        switches: Vec<String>,
        /// Milliseconds since 1970-01-01 UTC.
        at_ms: i64,
    },
    /// A step changed its standing.
    Step {
        /// Which.
        step: Step,
        /// Of which switch, for the steps that are made for every switch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        switch: Option<String>,
        /// How.
        #[serde(flatten)]
        outcome: Outcome,
        /// Microseconds since this process began or took over the move.
        at_us: u64,
    },
    /// Taking a step back changed its standing.
    Undo {
        /// Which.
        step: Step,
        /// Of which switch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        switch: Option<String>,
        /// How.
        #[serde(flatten)]
        outcome: Outcome,
        /// Microseconds since this process began or took over the move.
        at_us: u64,
    },
    /// Another process goes on with this journal.
    Restarted {
        /// Which.
        by: Process,
        /// Milliseconds since 1970-01-01 UTC.
        at_ms: i64,
    },
    /// A switch was asked where writes go.
    Observed {
        /// Which.
        switch: String,
        /// What it said.
        answer: Answer,
        /// Microseconds since this process began or took over the move.
        at_us: u64,
    },
    /// An operator said what software could not find out.
    Resolved {
        /// Who owns the writes: all switches send them there and hold nobody, or (when it is not
        /// where the move goes) still do so.
        owner: Side,
        /// Milliseconds since 1970-01-01 UTC.
        at_ms: i64,
    },
    /// The move is over.
    Ended {
        /// How.
        ending: Ending,
        /// Milliseconds since 1970-01-01 UTC.
        at_ms: i64,
    },
}

/// What the details of a pause say: for how many microseconds a switch had held clients when it said
/// so.
pub const HELD_US: &str = "held_us";

/// How a step stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It may take effect from here on.
    Started,
    /// It took effect.
    Done {
        /// What it found out.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        details: Details,
    },
    /// It failed. Only a switch's refusal says that nothing changed.
    Failed {
        /// Why.
        why: String,
        /// Code with a page, when there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// What to do, when somebody must.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remedy: Option<String>,
    },
    /// Nobody knows whether it took effect.
    Ambiguous {
        /// Why.
        why: String,
    },
}

/// Who works on a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Process {
    /// `cutover run`.
    Run,
    /// The guard.
    Guard,
}

/// What a switch answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It said so.
    Said {
        /// Where writes go; `None` when it cannot say or says something else.
        side: Option<Side>,
        /// Whether it holds clients; `None` when it cannot say.
        paused: Option<bool>,
    },
    /// It did not answer; asking again may help.
    Silent,
}

impl From<Routing> for Answer {
    fn from(routing: Routing) -> Self {
        Self::Said { side: routing.side, paused: routing.paused }
    }
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "ending", rename_all = "snake_case")]
pub enum Ending {
    /// Ownership moved.
    Moved {
        /// Who owns the writes now.
        owner: Side,
    },
    /// Everything was taken back; the traffic is where it was.
    Aborted {
        /// Who owns the writes, as before.
        owner: Side,
        /// The step that failed first; `None` when the process died.
        step: Option<Step>,
        /// Why.
        why: String,
    },
    /// A rehearsal went through and was taken back.
    Rehearsed {
        /// Who owns the writes, as before.
        owner: Side,
    },
}

impl Ending {
    /// Who owns the writes.
    #[must_use]
    pub fn owner(&self) -> Side {
        match self {
            Self::Moved { owner } | Self::Aborted { owner, .. } | Self::Rehearsed { owner } => {
                *owner
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_have_a_stable_form() {
        let details: Details = [("position".to_owned(), Value::from("0/14"))].into_iter().collect();
        for (fact, text) in [
            (
                Fact::MoveBegan {
                    id: "1".into(),
                    from: Side::Blue,
                    rehearsal: false,
                    budget_ms: 1000,
                    switches: vec!["pgbouncer[0]".into()],
                    at_ms: 7,
                },
                r#"{"fact":"move_began","id":"1","from":"blue","rehearsal":false,"budget_ms":1000,"switches":["pgbouncer[0]"],"at_ms":7}"#,
            ),
            (
                Fact::Step {
                    step: Step::Pause,
                    switch: Some("pgbouncer[0]".into()),
                    outcome: Outcome::Started,
                    at_us: 9,
                },
                r#"{"fact":"step","step":"pause","switch":"pgbouncer[0]","outcome":"started","at_us":9}"#,
            ),
            (
                Fact::Step {
                    step: Step::Drain,
                    switch: None,
                    outcome: Outcome::Done { details },
                    at_us: 9,
                },
                r#"{"fact":"step","step":"drain","outcome":"done","details":{"position":"0/14"},"at_us":9}"#,
            ),
            (
                Fact::Undo {
                    step: Step::Fence,
                    switch: None,
                    outcome: Outcome::Failed { why: "x".into(), code: None, remedy: None },
                    at_us: 9,
                },
                r#"{"fact":"undo","step":"fence","outcome":"failed","why":"x","at_us":9}"#,
            ),
            (
                Fact::Observed {
                    switch: "a".into(),
                    answer: Answer::Said { side: Some(Side::Green), paused: None },
                    at_us: 1,
                },
                r#"{"fact":"observed","switch":"a","answer":{"answer":"said","side":"green","paused":null},"at_us":1}"#,
            ),
            (
                Fact::Ended { ending: Ending::Moved { owner: Side::Green }, at_ms: 1 },
                r#"{"fact":"ended","ending":{"ending":"moved","owner":"green"},"at_ms":1}"#,
            ),
            (
                Fact::Restarted { by: Process::Guard, at_ms: 1 },
                r#"{"fact":"restarted","by":"guard","at_ms":1}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&fact).unwrap(), text);
            assert_eq!(serde_json::from_str::<Fact>(text).unwrap(), fact);
        }
    }
}
