//! A move that has no end is gone on with before anything else, and nobody is left without a word
//! meanwhile: clients may be held until it has one.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cutover_core::model::side::Side;
use tokio::{sync::mpsc, time::Instant};

use super::{
    command::{Answer, Request},
    fact, lost,
    moves::{FILE, about, open, undecided, word, write_evidence},
    prepare::now_ms,
    recovery::{self, Site},
    serve::{Start, answer_stop, early},
    socket::Incoming,
    status::Alarm,
};
use crate::{
    cutover::{
        driver::{self, Goal, Limits, Stop},
        fact::{Fact, Outcome, Process},
        machine::State,
        plan::{Phase, Step},
    },
    error::Failure,
};

/// A step of a move fails that must not be left out.
pub(super) const NOT_FREE: &str = "CUT0738";
/// How long what was begun may go on when the process is told to stop: usually it has its end a
/// moment later.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Goes on with a move that has no end, before anything else; afterwards the run's journal agrees
/// with the journal of moves about the owner. `false` when the process is told to stop.
///
/// # Errors
///
/// A journal failed, or the process is told to stop while the move has no end or an operator must
/// decide.
pub(super) async fn recover(
    start: &Start,
    inbox: &mut mpsc::Receiver<Incoming>,
) -> Result<bool, Failure> {
    if !start.state_dir.join(FILE).exists() {
        lost::begin_again(start, inbox).await?;
        return Ok(true);
    }
    let book = &start.preparation.book;
    let mut stopped = false;
    let (mut journal, mut facts) = open(&start.state_dir).await?;
    // It would say that blue owns the writes. A first move leaves it so when it is killed early.
    let standing = book.standing();
    if facts.is_empty() && (standing.owner == Side::Green || standing.moves > 1) {
        drop(journal);
        lost::begin_again(start, inbox).await?;
        return Ok(true);
    }
    if State::of(&facts).is_open() {
        start.preparation.progress.say("going on with a move that was interrupted");
        let site = Site {
            run: &start.preparation.run,
            selection: &start.preparation.selection,
            ports: &start.preparation.ports,
            budget: start.wishes.pause_budget,
        };
        let ground = recovery::ground(&site, &facts, &start.state_dir.join(FILE))?;
        let limits = Limits::new(start.wishes.pause_budget);
        let last = Mutex::new(None);
        let watch = |fact: &Fact| {
            tracing::debug!(?fact, "recovering");
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(alarm) = trouble(fact).filter(|alarm| last.as_ref() != Some(alarm)) {
                tracing::error!("{}: {}", alarm.code, alarm.what);
                start.board.set_trouble(Some(alarm.clone()));
                *last = Some(alarm);
            }
        };
        let mut next = Fact::Restarted { by: Process::Run, at_ms: now_ms() };
        loop {
            let goal = Goal::Finished;
            let work =
                driver::drive(&mut journal, &facts, next, goal, ground.as_ref(), &limits, &watch);
            let (report, told) = heard(start, inbox, work).await?;
            let report = report?;
            stopped |= told;
            let began =
                facts.iter().rposition(|f| matches!(f, Fact::MoveBegan { .. })).unwrap_or(0);
            let told = about(&start.preparation.run, &start.wishes.effective);
            write_evidence(&start.state_dir, told, &report, None)?;
            facts.truncate(began);
            facts.extend(report.facts);
            match report.stop {
                Stop::NeedsOperator { why, .. } if stopped => return Err(undecided(&why)),
                Stop::NeedsOperator { why, .. } => {
                    let owner = decide(start, &why, &State::of(&facts), inbox).await?;
                    next = Fact::Resolved { owner, at_ms: now_ms() };
                }
                Stop::Ended(_) | Stop::TrafficFree => break,
            }
        }
        start.board.set_trouble(None);
    }
    let owner = State::of(&facts).owner();
    let standing = book.standing();
    if standing.open_move.is_some() || standing.owner != owner {
        book.note(fact::Fact::MoveEnded { id: standing.moves, owner, at_ms: now_ms() })?;
    }
    Ok(!stopped)
}

/// What a fact of an open move says that somebody must know: clients may be held until it is mended.
pub(super) fn trouble(fact: &Fact) -> Option<Alarm> {
    let (undone, step, switch, outcome) = match fact {
        Fact::Undo { step, switch, outcome, .. } => ("taking back ", step, switch, outcome),
        Fact::Step { step, switch, outcome, .. } if step.phase() == Phase::Forward => {
            ("", step, switch, outcome)
        }
        _ => return None,
    };
    let (why, remedy) = match outcome {
        Outcome::Failed { why, remedy, .. } => (why, remedy.clone()),
        Outcome::Ambiguous { why } => (why, None),
        Outcome::Started | Outcome::Done { .. } => return None,
    };
    // Before and behind these the traffic is free.
    let free = matches!(step, Step::ArmReverse | Step::Guard | Step::StreamReverse);
    let held = if free { "" } else { ", and clients may be held" };
    let at = switch.as_ref().map_or_else(String::new, |switch| format!(" ({switch})"));
    Some(Alarm {
        code: NOT_FREE.into(),
        what: format!(
            "a move has no end yet{held}: {undone}{step}{at} failed and is tried again: {why}"
        ),
        remedy: remedy.unwrap_or_else(|| "mend what it names; it goes on by itself".into()),
    })
}

/// Does `work` and answers commands meanwhile. `true` beside its result: the process is told to
/// stop, and it had its end soon enough.
///
/// # Errors
///
/// It is told to stop, and `work` is left where it was, as by the death of the process.
pub(super) async fn heard<T>(
    start: &Start,
    inbox: &mut mpsc::Receiver<Incoming>,
    work: impl Future<Output = T>,
) -> Result<(T, bool), Failure> {
    tokio::pin!(work);
    let mut until = None;
    let mut open = true;
    loop {
        let late = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = &mut work => return Ok((done, until.is_some())),
            () = late => {
                let doing = start.board.doing();
                return Err(Failure::new(format!("told to stop in the middle of this: {doing}"))
                    .code(NOT_FREE)
                    .remedy("clients may be held: start `cutover run` again, which goes on"));
            }
            incoming = inbox.recv(), if open => match incoming {
                Some(Incoming { request: Request::Stop, responder }) => {
                    tracing::warn!("told to stop; for a while this goes on: {}", start.board.doing());
                    until.get_or_insert_with(|| Instant::now() + STOP_WITHIN);
                    answer_stop(Some(responder));
                }
                Some(other) => early(other, &start.board),
                None => open = false,
            },
        }
    }
}

/// Waits for an operator's word.
pub(super) async fn decide(
    start: &Start,
    why: &str,
    doubt: &State,
    inbox: &mut mpsc::Receiver<Incoming>,
) -> Result<Side, Failure> {
    let failure = undecided(why);
    tracing::error!("{failure}");
    start.board.set_trouble(Some(Alarm {
        code: failure.code.clone().unwrap_or_default(),
        what: failure.what.clone(),
        remedy: failure.remedy.clone().unwrap_or_default(),
    }));
    while let Some(Incoming { request, responder }) = inbox.recv().await {
        match request {
            Request::Resolve { owner } => match word(doubt, owner) {
                Ok(noted) => {
                    responder.done(noted);
                    start.board.set_trouble(None);
                    return Ok(owner);
                }
                Err(failure) => responder.done(Answer::failed(failure)),
            },
            Request::Stop => {
                responder.done(Answer::failed(failure.clone()));
                return Err(failure);
            }
            Request::Status => responder.done(start.board.answer()),
            _ => responder.done(Answer::failed(failure.clone())),
        }
    }
    Err(failure)
}
