//! The contract of `command` and `webhook`: the same question and the same answer for both.

use std::time::Duration;

use cutover_core::{
    model::{
        finding::{Finding, Severity},
        run::RunId,
        side::Side,
    },
    port::switch::Routing,
};
use serde::{Deserialize, Serialize};

/// Grows when a field changes its meaning; new fields and actions do not change it.
const VERSION: u32 = 1;

/// What is asked of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    Observe,
    Pause,
    PointAt,
    Examine,
}

impl Action {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Pause => "pause",
            Self::PointAt => "point_at",
            Self::Examine => "examine",
        }
    }
}

/// One question.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Question<'a> {
    version: u32,
    pub(crate) action: Action,
    run: &'a RunId,
    switch: &'a str,
    /// With `point_at` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<Side>,
    /// Time for the answer; for `pause` also how long clients may be held while waiting.
    within_ms: u64,
}

impl<'a> Question<'a> {
    pub(crate) fn new(
        action: Action,
        run: &'a RunId,
        switch: &'a str,
        side: Option<Side>,
        within: Duration,
    ) -> Self {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        Self { version: VERSION, action, run, switch, side, within_ms }
    }

    /// One line of JSON.
    pub(crate) fn line(&self) -> String {
        // Strings and numbers only: nothing in it can fail to become JSON.
        serde_json::to_string(self).expect("plain fields")
    }
}

/// The answer to `observe`. Both fields are wanted, also when they are `null`.
#[derive(Debug, Deserialize)]
struct Observed {
    #[serde(deserialize_with = "Option::deserialize")]
    side: Option<Side>,
    #[serde(deserialize_with = "Option::deserialize")]
    paused: Option<bool>,
}

/// Reads the answer to `observe`.
pub(crate) fn routing(answer: &[u8]) -> Result<Routing, serde_json::Error> {
    let Observed { side, paused } = serde_json::from_slice(answer)?;
    Ok(Routing { side, paused })
}

#[derive(Debug, Deserialize)]
struct Examined {
    #[serde(default)]
    findings: Vec<Reported>,
}

#[derive(Debug, Deserialize)]
struct Reported {
    severity: Severity,
    what: String,
    remedy: String,
}

/// Reads the answer to `examine`; no answer is no findings.
pub(crate) fn findings(switch: &str, answer: &[u8]) -> Result<Vec<Finding>, serde_json::Error> {
    if answer.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let examined: Examined = serde_json::from_slice(answer)?;
    let found = examined.findings.into_iter().map(|one| Finding {
        code: "CUT0729".to_owned(),
        severity: one.severity,
        place: switch.to_owned(),
        what: one.what,
        remedy: one.remedy,
    });
    Ok(found.collect())
}

/// What is known of a device after its observation, as findings.
pub(crate) fn judge(switch: &str, routing: Routing) -> Option<Finding> {
    let (severity, what) = match (routing.side, routing.paused) {
        (_, Some(true)) => (Severity::Error, "it holds clients now"),
        // Whether that is where the writes belong, who knows their owner says.
        (Some(_), _) => return None,
        (None, _) => (
            Severity::Warning,
            "it cannot say where writes go: after a crash in the middle of a move an operator \
             will be needed",
        ),
    };
    let remedy = match routing.side {
        None => "let it answer observe with {\"side\": \"blue\", \"paused\": false}",
        _ => "within a move; otherwise let clients flow",
    };
    Some(Finding {
        code: "CUT0725".to_owned(),
        severity,
        place: switch.to_owned(),
        what: what.to_owned(),
        remedy: remedy.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_the_documented_ones() {
        let run = RunId::new("shop").unwrap();
        let ask = |action, side| {
            Question::new(action, &run, "command[0]", side, Duration::from_millis(800)).line()
        };
        assert_eq!(
            ask(Action::PointAt, Some(Side::Green)),
            r#"{"version":1,"action":"point_at","run":"shop","switch":"command[0]","side":"green","within_ms":800}"#
        );
        assert_eq!(
            ask(Action::Pause, None),
            r#"{"version":1,"action":"pause","run":"shop","switch":"command[0]","within_ms":800}"#
        );
    }

    #[test]
    fn answers() {
        let known = Routing { side: Some(Side::Green), paused: Some(true) };
        assert_eq!(routing(br#" {"side": "green", "paused": true, "more": 1} "#).unwrap(), known);
        let unknown = Routing { side: None, paused: None };
        assert_eq!(routing(br#"{"side": null, "paused": null}"#).unwrap(), unknown);
        for bad in ["", "{}", r#"{"side": "red", "paused": true}"#, r#"{"side": "blue"}"#, "blue"] {
            assert!(routing(bad.as_bytes()).is_err(), "{bad}");
        }
        let found =
            findings("c", br#"{"findings": [{"severity": "error", "what": "w", "remedy": "r"}]}"#)
                .unwrap();
        assert_eq!((found[0].severity, &*found[0].what), (Severity::Error, "w"));
        assert!(findings("c", b"\n").unwrap().is_empty());
        assert!(findings("c", b"ok").is_err());
    }

    #[test]
    fn an_observation_is_judged() {
        let of = |side, paused| judge("c", Routing { side, paused }).map(|f| f.severity);
        assert_eq!(of(Some(Side::Blue), Some(false)), None);
        assert_eq!(of(Some(Side::Blue), Some(true)), Some(Severity::Error));
        assert_eq!(of(Some(Side::Green), Some(false)), None);
        assert_eq!(of(None, None), Some(Severity::Warning));
    }
}
