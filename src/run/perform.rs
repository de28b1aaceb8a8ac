//! Commands on a run whose streams flow.

use std::{sync::Arc, time::Duration};

use cutover_core::{model::schema::TableName, port::PortError};
use serde_json::json;

use super::{
    command::{Answer, Request},
    live::Live,
    socket::{Incoming, Responder},
    status::far,
};
use crate::{
    error::{Exit, Failure},
    verify::{PassReport, TableReport, Verdict},
};

/// How often whoever waits for a comparison is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Keys of differing rows that an answer has, per table.
const KEYS_TOLD: usize = 1000;

/// A command that somebody waits for, and what it has done so far.
#[derive(Debug)]
pub(super) struct Asked {
    /// The command.
    pub request: Request,
    /// Who waits for its answer.
    pub responder: Responder,
    /// Tables that it had copied again.
    pub copied: Vec<TableName>,
}

impl From<Incoming> for Asked {
    fn from(Incoming { request, responder }: Incoming) -> Self {
        Self { request, responder, copied: Vec::new() }
    }
}

impl Asked {
    /// Answers that the process ends or the run is given up before the command has come to its end.
    pub(super) fn leave(self) {
        let names: Vec<String> = self.copied.iter().map(ToString::to_string).collect();
        let text = format!(
            "nothing was compared: the process ended while it copied {} again. A run that is taken up \
             again goes on with that by itself",
            names.join(", ")
        );
        let value = json!({ "verdict": Verdict::Inconclusive, "copied_again": names });
        self.responder.done(Answer::new(Exit::No, value, text));
    }
}

impl Live {
    /// Carries out one command and answers it. One that is given back goes on when the streams have
    /// been prepared anew.
    pub(super) async fn perform(self: &Arc<Self>, mut asked: Asked) -> Option<Asked> {
        let answer = match asked.request.clone() {
            Request::Verify { tables, repair } => {
                match self.verify(&tables, repair, &mut asked).await {
                    Ok(Some(answer)) => answer,
                    Ok(None) => return Some(asked),
                    Err(failure) => Answer::failed(failure),
                }
            }
            request @ (Request::Rehearse | Request::Switch | Request::Rollback) => {
                self.make_move(&request, &asked.responder).await
            }
            Request::Resolve { .. } => Answer::failed(
                Failure::new("there is nothing to resolve: the journal knows who owns the writes")
                    .code("CUT0508")
                    .exit(Exit::No),
            ),
            // The loop answers these itself.
            Request::Status | Request::Finish | Request::Abort | Request::Stop => {
                Answer::failed(Failure::new("this command is not one of the streams"))
            }
        };
        asked.responder.done(answer);
        None
    }

    /// `None` when the streams have to be prepared anew first.
    async fn verify(
        &self,
        tables: &[String],
        repair: bool,
        asked: &mut Asked,
    ) -> Result<Option<Answer>, Failure> {
        let mut chosen = self.proof.select(tables).map_err(|unknown| {
            Failure::new(format!("no table of the run is called {}", unknown.join(" or ")))
                .code("CUT0602")
                .remedy("`cutover status --json` lists the tables; write them as schema.table")
                .exit(Exit::Usage)
        })?;
        let owner = self.owner();
        if !asked.copied.is_empty() && !self.followed_again(owner, asked).await? {
            return Ok(None);
        }
        if repair && let Some(spoiled) = self.spoiled(owner) {
            let with = if tables.is_empty() { &[][..] } else { &chosen };
            self.copy_again(owner, spoiled, with, asked).await?;
            return Ok(None);
        }
        chosen.extend(self.proof.pairs_of(&asked.copied));
        chosen.sort_unstable();
        chosen.dedup();
        let responder = &asked.responder;
        responder.progress(format!("comparing every row of {} table(s)", chosen.len()));
        let mut foreign = self.foreign();
        let mut report = self.full(&chosen, responder).await?;
        let mut repaired = None;
        if repair && report.verdict == Verdict::Different {
            responder.progress(format!(
                "{} row(s) differ; copying them again from {owner}",
                report.different()
            ));
            let differed = report.different();
            let repair = self.proof.repair(&self.pipes, owner, &chosen, responder.left());
            let written = repair.await.map_err(Failure::from)?;
            self.repair_is_held(owner).await?;
            responder.progress(format!("{written} row(s) written; comparing again"));
            foreign = self.foreign();
            report = self.full(&chosen, responder).await?;
            // Rows that were removed are repaired as well.
            repaired = Some(differed.saturating_sub(report.different()));
        }
        if report.verdict == Verdict::Equal {
            self.foreign_is_harmless(&foreign, &chosen);
        }
        let exit = match report.verdict {
            Verdict::Equal => Exit::Done,
            Verdict::Different => Exit::No,
            Verdict::Inconclusive => Exit::Failed,
        };
        let copied: Vec<String> = asked.copied.iter().map(ToString::to_string).collect();
        let text = text(&report, &copied, repaired);
        let value = json!({
            "verdict": report.verdict,
            "position": report.position.to_string(),
            "rows": report.rows(),
            "different": report.different(),
            "copied_again": copied,
            "repaired": repaired,
            "took_ms": report.took_ms,
            "tables": self.with_keys(&report, &chosen),
        });
        Ok(Some(Answer::new(exit, value, text)))
    }

    /// What was found of each table, with the keys of the first rows that differ where rows have one.
    fn with_keys(&self, report: &PassReport, chosen: &[usize]) -> Vec<TableReport> {
        let mut tables = report.tables.clone();
        for (table, &i) in tables.iter_mut().zip(chosen) {
            table.differences.truncate(if self.proof.pairs[i].keyed { KEYS_TOLD } else { 0 });
        }
        tables
    }

    /// Compares every row, for as long as somebody waits for it.
    async fn full(&self, chosen: &[usize], responder: &Responder) -> Result<PassReport, Failure> {
        let given_up = async || {
            loop {
                tokio::select! {
                    () = responder.left() => return,
                    () = tokio::time::sleep(TELL_EVERY) => {}
                }
                if let Some(reading) = self.proof.view().reading {
                    responder.progress(far(&reading));
                }
            }
        };
        let pass = async |chosen: &[usize]| {
            let (owner, workers) = (self.owner(), self.wishes.workers);
            self.proof.full(&self.pipes, owner, chosen, workers, given_up()).await
        };
        // A snapshot waits for open transactions; one more try outlasts a short one.
        let mut report = match pass(chosen).await {
            Err(e @ PortError::Transient { .. }) if !responder.is_closed() => {
                let again = format!("{}; comparing again", Failure::from(e));
                tracing::warn!("{again}");
                responder.progress(again);
                pass(chosen).await?
            }
            other => other?,
        };
        let unread: Vec<usize> = (0..report.tables.len())
            .filter(|n| report.tables[*n].verdict == Verdict::Inconclusive)
            .collect();
        if !unread.is_empty() {
            // Those that were emptied meanwhile take less time by themselves.
            let again = pass(&unread.iter().map(|n| chosen[*n]).collect::<Vec<_>>()).await?;
            report.replace(&unread, again);
        }
        Ok(report)
    }
}

fn text(report: &PassReport, copied: &[String], repaired: Option<u64>) -> String {
    let mut lines = Vec::new();
    for t in &report.tables {
        let verdict = match t.verdict {
            Verdict::Equal => "equal".to_owned(),
            Verdict::Different => format!(
                "{} row(s) differ (blue {}, green {})",
                t.different, t.blue_rows, t.green_rows
            ),
            Verdict::Inconclusive => "not compared".to_owned(),
        };
        lines.push(format!("{:<40} {:>12} rows  {verdict}", t.table.to_string(), t.blue_rows));
    }
    if !copied.is_empty() {
        lines.push(format!("copied again: {}", copied.join(", ")));
    }
    if let Some(rows) = repaired {
        lines.push(format!("repaired: {rows} row(s)"));
    }
    lines.push(format!(
        "{} at {}: {} rows in {} table(s), {:.1} s",
        match report.verdict {
            Verdict::Equal => "equal",
            Verdict::Different => "different",
            Verdict::Inconclusive => "inconclusive",
        },
        report.position,
        report.rows(),
        report.tables.len(),
        report.took_ms as f64 / 1000.0
    ));
    lines.join("\n")
}
