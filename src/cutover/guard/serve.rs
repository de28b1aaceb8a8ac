//! The guard itself.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cutover_core::model::side::Side;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, Lines},
    time::{Instant, sleep, sleep_until},
};

use super::watch::{Heard, Line, Verdict, Watch};
use crate::{
    cutover::{
        driver::{DriveError, Goal, Limits, Stop, drive, now_ms},
        fact::{Fact, KIND, Process},
        ground::{Failure, Ground},
        machine::State,
    },
    error::{Exit, Explain},
    journal::{FileJournal, JournalError},
};

/// What the guard answers when its connections stand.
pub(super) const READY: &str = "ready";
/// How often the kill is repeated: one may fail, or do nothing while a disk does not answer.
const KILL_EVERY: Duration = Duration::from_secs(1);
/// From so long after the kill on the lock is tried less often.
const PATIENT_AFTER: Duration = Duration::from_secs(10);
/// How often a journal that cannot be written is tried again.
const AGAIN_EVERY: Duration = Duration::from_millis(200);
/// How often the lock is tried.
const TRY_EVERY: Duration = Duration::from_millis(5);
const PATIENT: Duration = Duration::from_millis(50);

/// How a guard's duty ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardEnd {
    /// It was not needed.
    Released,
    /// It took over and found the traffic free already.
    NothingToDo,
    /// It freed the traffic; the owner of the writes.
    Freed(Side),
    /// It cannot know where the traffic is.
    NeedsOperator(String),
}

/// Why a guard could not do its duty.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The move cannot go on.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// Its connections do not stand.
    #[error("the guard is not ready: {}", .0.why)]
    NotReady(Failure),
    /// The pipe failed.
    #[error("the guard cannot talk to the process that started it")]
    Pipe(#[source] std::io::Error),
}

impl Explain for GuardError {
    fn code(&self) -> Option<&str> {
        match self {
            Self::Journal(e) => e.code(),
            Self::Drive(e) => e.code(),
            Self::NotReady(failure) => failure.code.as_deref().or(Some("CUT0737")),
            Self::Pipe(_) => Some("CUT0737"),
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Journal(e) => e.remedy(),
            Self::Drive(e) => e.remedy(),
            Self::NotReady(failure) => failure.remedy.clone(),
            Self::Pipe(_) => {
                Some("`cutover guard` is started by `cutover run`, not by hand".into())
            }
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Journal(e) => e.exit(),
            Self::Drive(e) => e.exit(),
            _ => Exit::Failed,
        }
    }
}

/// Stands guard: `input` and `output` are the pipe, `make` builds the ground of a move from a
/// side, `kill` ends the process that started us if it is still the one that started us.
///
/// # Errors
///
/// The guard never became ready, or could not free the traffic.
pub async fn serve<R, W>(
    input: R,
    mut output: W,
    make: impl FnOnce(Side) -> Result<Arc<dyn Ground>, Failure>,
    kill: &(dyn Fn() + Send + Sync),
) -> Result<GuardEnd, GuardError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let began = Instant::now();
    let mut lines = input.lines();
    let mut watch = Watch::default();
    let mut make = Some(make);
    let mut ground = None;
    let mut verdict = Verdict::Wait { until: None };
    loop {
        let heard = match verdict {
            Verdict::Wait { until } => hear(&mut lines, until.map(|at| began + at)).await,
            Verdict::End => return Ok(GuardEnd::Released),
            Verdict::TakeOver { kill_at } => {
                let (Some(ground), Some(journal)) = (&ground, watch.journal()) else {
                    return Ok(GuardEnd::NothingToDo);
                };
                return take_over(journal, ground, began + kill_at, kill).await;
            }
        };
        let armed = matches!(heard, Heard::Line(Line::Armed { .. }));
        verdict = watch.hear(heard, began.elapsed());
        if let (true, Some(make), Some(journal)) = (armed, make.take_if(|_| armed), watch.journal())
        {
            let prepared = prepare(journal, make).await;
            let answer =
                prepared.as_ref().err().map_or_else(|| READY.to_owned(), |f| f.why.clone());
            let answer = answer.replace('\n', " ") + "\n";
            output.write_all(answer.as_bytes()).await.map_err(GuardError::Pipe)?;
            output.flush().await.map_err(GuardError::Pipe)?;
            ground = Some(prepared.map_err(GuardError::NotReady)?);
        }
    }
}

async fn hear<R: AsyncBufRead + Unpin>(lines: &mut Lines<R>, until: Option<Instant>) -> Heard {
    let line = lines.next_line();
    let line = match until {
        None => line.await,
        Some(until) => tokio::select! {
            // What was said before the deadline counts, even if it is read after it.
            biased;
            line = line => line,
            () = sleep_until(until) => return Heard::Nothing,
        },
    };
    match line {
        Ok(Some(text)) => Line::parse(&text).map_or(Heard::Nothing, Heard::Line),
        Ok(None) | Err(_) => Heard::Closed,
    }
}

/// Builds the ground for the open move and opens its connections.
async fn prepare(
    journal: &Path,
    make: impl FnOnce(Side) -> Result<Arc<dyn Ground>, Failure>,
) -> Result<Arc<dyn Ground>, Failure> {
    let facts = FileJournal::<Fact>::read_only(journal, KIND)
        .map_err(|e| Failure::definite("CUT0737", e.to_string(), "see the log of the guard"))?
        .unwrap_or_default();
    let state = State::of(&facts);
    let Some(from) = state.from().filter(|_| state.is_open()) else {
        return Err(Failure::definite(
            "CUT0737",
            "the journal has no open move",
            "`cutover guard` is started by `cutover run`, not by hand",
        ));
    };
    let ground = make(from)?;
    ground.warm_up().await?;
    Ok(ground)
}

/// Frees the traffic. While the journal cannot be written, because the disk is full, it is tried
/// again: nobody else may be there to do it.
async fn take_over(
    path: &Path,
    ground: &Arc<dyn Ground>,
    kill_at: Instant,
    kill: &(dyn Fn() + Send + Sync),
) -> Result<GuardEnd, GuardError> {
    let mut told = false;
    loop {
        let error = match free(path, ground, kill_at, kill).await {
            Err(GuardError::Journal(e) | GuardError::Drive(DriveError::Journal(e)))
                if e.may_pass() =>
            {
                e
            }
            other => return other,
        };
        if !std::mem::replace(&mut told, true) {
            tracing::error!(cause = ?std::error::Error::source(&error), "{error}; it is tried again");
        }
        sleep(AGAIN_EVERY).await;
    }
}

/// Takes the journal and frees the traffic.
async fn free(
    path: &Path,
    ground: &Arc<dyn Ground>,
    kill_at: Instant,
    kill: &(dyn Fn() + Send + Sync),
) -> Result<GuardEnd, GuardError> {
    let (mut journal, facts) = lock(path.to_owned(), kill_at, kill).await?;
    let state = State::of(&facts);
    if state.traffic_is_free() {
        return Ok(GuardEnd::NothingToDo);
    }
    tracing::warn!("the process that made the move is gone; freeing the traffic");
    let budget = facts.iter().rev().find_map(|fact| match fact {
        Fact::MoveBegan { budget_ms, .. } => Some(Duration::from_millis(*budget_ms)),
        _ => None,
    });
    let limits = Limits::new(budget.unwrap_or(Duration::from_secs(1)));
    let restarted = Fact::Restarted { by: Process::Guard, at_ms: now_ms() };
    let report = drive(
        &mut journal,
        &facts,
        restarted,
        Goal::TrafficFree,
        ground.as_ref(),
        &limits,
        &|fact| tracing::info!(?fact, "guard"),
    )
    .await?;
    Ok(match report.stop {
        Stop::NeedsOperator { why, .. } => GuardEnd::NeedsOperator(why),
        Stop::Ended(_) | Stop::TrafficFree => GuardEnd::Freed(report.owner),
    })
}

/// Waits for the journal's lock; the process that holds it past `kill_at` is killed. Without end:
/// nobody else may be there to free the traffic.
async fn lock(
    path: PathBuf,
    kill_at: Instant,
    kill: &(dyn Fn() + Send + Sync),
) -> Result<(FileJournal<Fact>, Vec<Fact>), JournalError> {
    let mut next_kill = kill_at;
    loop {
        // What is not there is not made: it would say that nothing was moved.
        match FileJournal::open_existing(&path, KIND) {
            Err(JournalError::Locked { .. }) => {
                let now = Instant::now();
                if now >= next_kill {
                    tracing::warn!("the process that holds the journal hangs; killing it");
                    kill();
                    next_kill = now + KILL_EVERY;
                }
                sleep(if now < kill_at + PATIENT_AFTER { TRY_EVERY } else { PATIENT }).await;
            }
            other => return other,
        }
    }
}
