//! What may be asked of a running process, and how it answers: the protocol of the control socket.
//!
//! One request as a JSON line, any number of progress lines, one final answer. Who receives
//! requests is the run's business; how the bytes travel is [`super::socket`]'s.

use cutover_core::model::side::Side;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Exit, Failure};

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Where the run is now.
    Status,
    /// Compare now.
    Verify {
        /// Tables as `schema.name`; empty for all.
        tables: Vec<String>,
        /// Copy differing rows again and compare once more.
        repair: bool,
    },
    /// The whole move but the switch.
    Rehearse,
    /// The move to green.
    Switch,
    /// The move back to blue.
    Rollback,
    /// The operator says which side owns the writes.
    Resolve {
        /// That side.
        owner: Side,
    },
    /// Give up the way back and remove what the run created.
    Finish,
    /// Give up the migration before the switch and remove what the run created.
    Abort,
    /// End the process; the run can be resumed.
    Stop,
}

impl Request {
    /// The command a user types for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Verify { .. } => "verify",
            Self::Rehearse => "rehearse",
            Self::Switch => "switch",
            Self::Rollback => "rollback",
            Self::Resolve { .. } => "resolve",
            Self::Finish => "finish",
            Self::Abort => "abort",
            Self::Stop => "stop",
        }
    }
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// Something happened on the way.
    Progress {
        /// One sentence for a person.
        text: String,
    },
    /// The last line.
    Done(Answer),
}

/// The final answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Exit status of the command that asked; see [`Exit`].
    pub exit: u8,
    /// The answer as data, what `--json` prints.
    pub value: Value,
    /// The answer for a person; may have several lines.
    pub text: String,
    /// Why, when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Box<Failure>>,
}

impl Answer {
    /// A success or a plain no.
    pub fn new(exit: Exit, value: Value, text: impl Into<String>) -> Self {
        Self { exit: exit.into(), value, text: text.into(), failure: None }
    }

    /// A failure; the command prints it as its own.
    #[must_use]
    pub fn failed(failure: Failure) -> Self {
        Self {
            exit: failure.exit.into(),
            value: serde_json::json!({ "error": failure }),
            text: String::new(),
            failure: Some(Box::new(failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_stable_form() {
        for (request, want) in [
            (Request::Status, r#"{"request":"status"}"#),
            (
                Request::Verify { tables: vec!["public.users".into()], repair: true },
                r#"{"request":"verify","tables":["public.users"],"repair":true}"#,
            ),
            (Request::Resolve { owner: Side::Green }, r#"{"request":"resolve","owner":"green"}"#),
            (Request::Stop, r#"{"request":"stop"}"#),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), want);
            assert_eq!(serde_json::from_str::<Request>(want).unwrap(), request);
        }
        assert!(serde_json::from_str::<Request>(r#"{"request":"drop"}"#).is_err());
    }

    #[test]
    fn answers_have_a_stable_form() {
        let line = Line::Done(Answer::new(Exit::No, serde_json::json!({"a": 1}), "no"));
        let text = r#"{"line":"done","exit":1,"value":{"a":1},"text":"no"}"#;
        assert_eq!(serde_json::to_string(&line).unwrap(), text);
        assert_eq!(serde_json::from_str::<Line>(text).unwrap(), line);
    }
}
