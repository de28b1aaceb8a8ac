//! All findings of one preflight, in the order a person reads them.

use cutover_core::model::finding::{Finding, Scope, Severity};
use serde::{Deserialize, Serialize};

/// How many findings of each severity there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// The run must not start, or the move must not begin.
    pub errors: usize,
    /// Something is at risk or will be slow.
    pub warnings: usize,
    /// Worth knowing.
    pub infos: usize,
}

/// The answer of a preflight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What was asked.
    pub scope: Scope,
    /// Everything that was found: the worst first, then by place and code, each once.
    pub findings: Vec<Finding>,
    /// The same in numbers.
    pub counts: Counts,
}

impl Report {
    /// Puts findings of any order into a report.
    #[must_use]
    pub fn new(scope: Scope, mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| key(a).cmp(&key(b)));
        findings.dedup();
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        let counts = Counts {
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            infos: count(Severity::Info),
        };
        Self { scope, findings, counts }
    }

    /// Whether the run must not start, or the move must not begin.
    #[must_use]
    pub fn blocks(&self) -> bool {
        self.counts.errors > 0
    }
}

type Key<'a> = (std::cmp::Reverse<Severity>, u8, &'a str, &'a str, &'a str, &'a str);

fn key(finding: &Finding) -> Key<'_> {
    let room = match finding.place.as_str() {
        "config" => 0,
        "blue" | "blue.read_from" => 1,
        "green" | "green.read_from" => 2,
        _ => 3,
    };
    (
        std::cmp::Reverse(finding.severity),
        room,
        &finding.place,
        &finding.code,
        &finding.what,
        &finding.remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, place: &str, code: &str) -> Finding {
        Finding {
            code: code.into(),
            severity,
            place: place.into(),
            what: "w".into(),
            remedy: "r".into(),
        }
    }

    #[test]
    fn the_worst_comes_first_and_nothing_twice() {
        let report = Report::new(
            Scope::Start,
            vec![
                finding(Severity::Info, "blue", "CUT0143"),
                finding(Severity::Error, "pgbouncer[0]", "CUT0171"),
                finding(Severity::Error, "green", "CUT0103"),
                finding(Severity::Error, "blue", "CUT0104"),
                finding(Severity::Error, "blue", "CUT0103"),
                finding(Severity::Error, "blue", "CUT0103"),
                finding(Severity::Error, "config", "CUT0169"),
            ],
        );
        let order: Vec<_> =
            report.findings.iter().map(|f| format!("{} {}", f.place, f.code)).collect();
        assert_eq!(
            order,
            [
                "config CUT0169",
                "blue CUT0103",
                "blue CUT0104",
                "green CUT0103",
                "pgbouncer[0] CUT0171",
                "blue CUT0143"
            ]
        );
        assert_eq!(report.counts, Counts { errors: 5, warnings: 0, infos: 1 });
        assert!(report.blocks());
    }

    #[test]
    fn warnings_do_not_block() {
        let warning = finding(Severity::Warning, "blue", "CUT0123");
        assert!(!Report::new(Scope::Move, vec![warning]).blocks());
        assert!(!Report::new(Scope::Move, vec![]).blocks());
    }
}
