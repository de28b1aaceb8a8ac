//! `cutover check`: preflight, all findings at once.

use cutover::{
    config::Config,
    error::{Exit, Failure},
    preflight::{self, Report},
};
use cutover_core::model::finding::{Scope, Severity};

use super::output::Printer;
use crate::wiring;

pub(super) async fn check(config: &Config, printer: Printer) -> Result<Exit, Failure> {
    let inputs = wiring::inputs(config)?;
    let report = preflight::examine(&inputs, Scope::Start).await;
    let value = serde_json::to_value(&report)
        .map_err(|e| Failure::new("the report cannot be written").caused_by(&e))?;
    printer.answer(&value, &text(&report));
    Ok(if report.blocks() { Exit::No } else { Exit::Done })
}

/// The findings as a person reads them.
pub(super) fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    for f in &report.findings {
        let severity = match f.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "warning",
            Severity::Info => "note",
        };
        lines.push(format!("{severity:<8} {} {}: {}", f.code, f.place, f.what));
        if !f.remedy.is_empty() {
            lines.push(format!("         {}", f.remedy.replace('\n', "\n         ")));
        }
    }
    let c = &report.counts;
    lines.push(format!("{} error(s), {} warning(s), {} note(s)", c.errors, c.warnings, c.infos));
    lines.join("\n")
}
