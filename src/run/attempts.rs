//! Preparation, tried again until it succeeds or somebody ends it.
//!
//! A start ends where the sides are defined otherwise: whoever started it reads why. Behind a start
//! nobody does, and what was altered while tables were looked at is altered on the other side a
//! moment later: then it goes on.

use std::time::{Duration, Instant};

use cutover_core::model::{
    finding::{Finding, Severity},
    schema::TableName,
    side::Side,
};
use tokio::sync::mpsc;

use super::{
    command::{Answer, Request},
    ends::may_end,
    error::RunError,
    prepare::{Preparation, Prepared},
    serve::{Start, early},
    socket::{Incoming, Responder},
};
use crate::{error::Failure, preflight, stream::Policy};

/// First and longest wait before a failed preparation is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Definitions that do not fit are waited for, and this one is told of it.
pub(super) struct Waits<'a> {
    pub(super) who: Option<&'a Responder>,
}

/// Who ends a preparation.
pub(super) enum Interrupted {
    Stop(Option<Responder>),
    Remove { finish: bool, responder: Responder },
}

/// Prepares both streams, for as long as it takes. With `waits` they flowed in this process already.
///
/// # Errors
///
/// What cannot be tried again.
pub(super) async fn prepare(
    start: &Start,
    unfollowed: &[TableName],
    inbox: &mut mpsc::Receiver<Incoming>,
    waits: Option<Waits<'_>>,
) -> Result<Result<Prepared, Interrupted>, Failure> {
    let mut backoff = BACKOFF.0;
    loop {
        let began = Instant::now();
        let work = start.preparation.prepare(unfollowed);
        tokio::pin!(work);
        let error = loop {
            tokio::select! {
                result = &mut work => match result {
                    Ok(prepared) => return Ok(Ok(prepared)),
                    Err(e) => break e,
                },
                incoming = inbox.recv() => if let Some(interrupted) = interrupt(start, incoming) {
                    return Ok(Err(interrupted));
                },
            }
        };
        if error.is_transient() {
            tracing::warn!("{}; trying again", error.into_failure());
        } else {
            let unfit = match &waits {
                Some(_) => start.preparation.unfit(&error).await,
                None => None,
            };
            let (Some(waits), Some(why)) = (&waits, unfit) else {
                return Err(error.into_failure());
            };
            tracing::warn!("{why}");
            start.preparation.progress.say(&why);
            if let Some(who) = waits.who {
                who.progress(why);
            }
        }
        if began.elapsed() > BACKOFF.1 {
            backoff = BACKOFF.0;
        }
        let again = tokio::time::Instant::now() + backoff;
        backoff = (backoff * 2).min(BACKOFF.1);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(again) => break,
                incoming = inbox.recv() => if let Some(interrupted) = interrupt(start, incoming) {
                    return Ok(Err(interrupted));
                },
            }
        }
    }
}

/// What a command means while the run is prepared; answers those that mean nothing.
fn interrupt(start: &Start, incoming: Option<Incoming>) -> Option<Interrupted> {
    let Some(incoming) = incoming else { return Some(Interrupted::Stop(None)) };
    if !incoming.is_wanted() {
        return None;
    }
    let finish = match incoming.request {
        Request::Stop => return Some(Interrupted::Stop(Some(incoming.responder))),
        Request::Finish => true,
        Request::Abort => false,
        _ => {
            early(incoming, &start.board);
            return None;
        }
    };
    match may_end(start, finish) {
        Ok(()) => Some(Interrupted::Remove { finish, responder: incoming.responder }),
        Err(failure) => {
            incoming.responder.done(Answer::failed(failure));
            None
        }
    }
}

impl Preparation {
    /// Whether a preparation has failed because the sides are defined otherwise: what is to be done.
    async fn unfit(&self, error: &RunError) -> Option<String> {
        let owner = self.book.standing().owner;
        let findings = match error {
            RunError::Findings(report) => report.findings.clone(),
            RunError::Journal(_) => return None,
            // Whoever made the table may give it a key in the next statement.
            RunError::Port(e) if e.code().is_some_and(preflight::is_of_key) => {
                let remedy = e.remedy().unwrap_or_default();
                return Some(format!("nothing is followed until this is mended: {e}; {remedy}"));
            }
            // What differs comes in the stream, and is made then.
            _ if owner == Side::Blue && self.policy == Policy::Apply => return None,
            _ => {
                let (from, to) = (self.ports.side(owner), self.ports.side(owner.other()));
                let from = from.source.definitions(&self.selection).await.ok()?;
                let to = to.source.definitions(&self.selection).await.ok()?;
                let mut found = preflight::compare_tables(&from, &to, owner.other(), false);
                found.retain(|f| !preflight::is_of_key(&f.code));
                found
            }
        };
        waited_for(findings, owner.other())
    }
}

/// What has to be made on the other side, if anything.
fn waited_for(findings: Vec<Finding>, other: Side) -> Option<String> {
    let errors = findings.into_iter().filter(|f| f.severity == Severity::Error);
    let (what, remedies): (Vec<String>, Vec<String>) = errors.map(|f| (f.what, f.remedy)).unzip();
    (!what.is_empty()).then(|| {
        format!(
            "nothing is followed while {other} is not defined as the other side is: {}; make the \
             change on {other}, and the run goes on: {}",
            what.join("; "),
            remedies.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_in_the_way_is_waited_for() {
        let found = |severity, what: &str| Finding {
            code: "CUT0159".into(),
            severity,
            place: "green".into(),
            what: what.into(),
            remedy: format!("mend {what}"),
        };
        assert_eq!(waited_for(vec![found(Severity::Warning, "a")], Side::Green), None);
        let all = ["b", "c"].map(|what| found(Severity::Error, what));
        let why = waited_for(all.to_vec(), Side::Green).unwrap();
        assert!(why.contains("b; c") && why.ends_with("mend b mend c"), "{why}");
    }
}
