//! Each switch can say where writes go, and they go to their owner. Pure.

use cutover_core::{
    model::{
        finding::{Finding, Severity},
        side::Side,
    },
    port::switch::{Routing, SwitchError},
};

/// What an answer of a switch means when `owner` should receive the writes.
pub(super) fn judge(
    name: &str,
    owner: Side,
    answer: &Result<Routing, SwitchError>,
) -> Vec<Finding> {
    let finding = |code: &str, what: String, remedy: String| Finding {
        code: code.into(),
        severity: Severity::Error,
        place: name.into(),
        what,
        remedy,
    };
    let routing = match answer {
        Ok(routing) => routing,
        Err(error) => {
            return vec![finding(
                "CUT0173",
                format!("it cannot be asked where writes go: {}", causes(error)),
                "make it reachable with the address and credentials of its section under `switch`"
                    .into(),
            )];
        }
    };
    let mut findings = Vec::new();
    match routing.side {
        Some(side) if side == owner => {}
        Some(side) => findings.push(finding(
            "CUT0174",
            format!("it points at {side}, but the writes belong to {owner}"),
            format!("point it at {owner}; if {side} has taken writes, stop and compare first"),
        )),
        None => findings.push(finding(
            "CUT0173",
            "it points at neither blue nor green".into(),
            format!(
                "point it at the address of {owner} exactly as `{owner}` has it, then check again"
            ),
        )),
    }
    if routing.paused == Some(true) {
        findings.push(finding(
            "CUT0175",
            "it holds clients already".into(),
            "find out who paused it, then resume it (PgBouncer: RESUME)".into(),
        ));
    }
    findings
}

/// A move without a switch leaves re-pointing to people.
pub(super) fn none_configured() -> Finding {
    Finding {
        code: "CUT0172".into(),
        severity: Severity::Warning,
        place: "config".into(),
        what: "no switch is configured: the run can copy, follow and verify, but not move traffic \
               in either direction"
            .into(),
        remedy: "add a `switch` section: pgbouncer, webhook or command".into(),
    }
}

/// An error with all its causes.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Drivers like to repeat what is below them.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(side: Option<Side>, paused: Option<bool>) -> Vec<String> {
        let answer = Ok(Routing { side, paused });
        judge("p", Side::Blue, &answer).into_iter().map(|f| f.code).collect()
    }

    #[test]
    fn answers() {
        assert_eq!(codes(Some(Side::Blue), Some(false)), [""; 0]);
        assert_eq!(codes(Some(Side::Blue), None), [""; 0]);
        assert_eq!(codes(Some(Side::Green), None), ["CUT0174"]);
        assert_eq!(codes(None, None), ["CUT0173"]);
        assert_eq!(codes(Some(Side::Green), Some(true)), ["CUT0174", "CUT0175"]);
    }

    #[test]
    fn no_answer_is_not_an_answer() {
        let answer = Err(SwitchError::Ambiguous {
            switch: "p".into(),
            what: "SHOW DATABASES".into(),
            source: Some("timed out".into()),
        });
        let [finding] = &judge("p", Side::Blue, &answer)[..] else { panic!() };
        assert_eq!((finding.code.as_str(), finding.severity), ("CUT0173", Severity::Error));
        assert!(finding.what.ends_with("p gave no answer to: SHOW DATABASES: timed out"));
    }
}
