//! Moving the fence.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use cutover_core::{
    model::{position::Position, run::RunId},
    port::{Result, error::PortError},
};
use futures_util::future::join4;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;

use super::{HELD_UP, State, installed, some_of, text};
use crate::{connect::port_error, database::Database, shelf::Warm, source, sql::Names};

/// Share of the time in which we wait for writers before anybody is refused.
const POLITE: f64 = 0.75;

/// How much longer than its time a call may take because a server does not answer.
const GRACE: Duration = Duration::from_millis(250);

/// How long opening is tried while another process moves the fence.
const OPENING: Duration = Duration::from_secs(10);

/// A transaction that may have written to a table of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Writer {
    /// Virtual transaction: names this transaction and no later one of the same session.
    transaction: String,
    who: String,
}

/// How an attempt to close ended badly.
enum Failure {
    /// The function was not touched.
    Before(PortError),
    /// The function refuses, or may.
    After(PortError),
}

/// Refuses writes from everyone but us, or leaves everything as it was. With it, a message (prefix
/// and content) is committed. A position that covers all that others have written.
pub(in crate::primary) async fn close(
    db: &Database,
    run: &RunId,
    within: Duration,
    message: Option<(&str, &str)>,
) -> Result<Position> {
    let doing = format!("closing {} to clients", db.side);
    let begun = Instant::now();
    let mut warm = db.fence_session().await?;
    let also = message
        .map(|(prefix, content)| format!("PERFORM {};", source::message(prefix, content)))
        .unwrap_or_default();
    let attempt =
        timeout(within + GRACE, attempt(db, run, &mut warm, begun, within, &doing, &also));
    let failure = match attempt.await {
        Ok(Ok(position)) => {
            db.kept.fence.put(warm);
            return Ok(position);
        }
        Ok(Err(Failure::Before(e))) => {
            db.kept.fence.put(warm);
            return Err(e);
        }
        Ok(Err(Failure::After(e))) => e,
        Err(_) => PortError::transient(doing.as_str(), "the server did not answer in time"),
    };
    // The session may be stuck: the way back must not depend on it.
    drop(warm);
    match timeout(OPENING, open(db, run)).await {
        Ok(Ok(())) => Err(failure),
        Ok(Err(e)) => {
            tracing::error!(side = %db.side, error = %e, "the fence could not be opened again");
            Err(failure)
        }
        Err(_) => {
            tracing::error!(side = %db.side, "the fence could not be opened again in time");
            Err(failure)
        }
    }
}

async fn attempt(
    db: &Database,
    run: &RunId,
    warm: &mut Warm,
    begun: Instant,
    within: Duration,
    doing: &str,
    also: &str,
) -> std::result::Result<Position, Failure> {
    let names = Names::of(run);
    let before = |e| Failure::Before(port_error(doing, e));
    let after = |e| Failure::After(port_error(doing, e));
    let Some(epoch) = epoch(db, warm, &names).await.map_err(before)? else {
        let gap = State::default().gap(doing).expect("what is not installed has a gap");
        return Err(Failure::Before(gap));
    };
    let read_state = warm.prepared(&text::state(&names)).await.map_err(before)?;
    let read_writers = warm.prepared(&text::writers(run, &names)).await.map_err(before)?;
    let read_end = warm.prepared(source::LOG_END).await.map_err(before)?;

    // Whoever is in the middle of a transaction may finish it in peace.
    let early = writers(warm, run, &names).await.map_err(before)?;
    let polite = begun + within.mul_f64(POLITE);
    if let Some(left) = wait(warm, run, &names, early, polite).await.map_err(before)? {
        return Err(Failure::Before(held_up(doing, within, &left)));
    }

    let close = text::close(run, &names, epoch, also);
    let (closed, state, late, end) = join4(
        warm.session.batch_execute(&close),
        warm.session.query_one(&read_state, &[]),
        warm.session.query(&read_writers, &[]),
        warm.session.query_one(&read_end, &[]),
    )
    .await;
    if let Err(e) = closed {
        let epoch_over = e.code().is_some_and(|c| c.code() == text::EPOCH_OVER);
        if epoch_over {
            db.forget_epoch();
            let why = "another process of this run has opened the fence";
            return Err(Failure::Before(PortError::transient(doing, why)));
        }
        // What the server refused has not happened; what got no answer may have.
        let refused = e.as_db_error().is_some();
        let e = port_error(doing, e);
        return Err(if refused { Failure::Before(e) } else { Failure::After(e) });
    }
    let row = state.map_err(after)?;
    let state = State { refuses: row.get(0), bare: row.get(1), subscriptions: row.get(2) };
    if let Some(gap) = state.gap(doing) {
        return Err(Failure::After(gap));
    }
    let late: Vec<Writer> = late.map_err(after)?.iter().map(writer).collect();
    // Whoever is not among the writers has committed, or will not.
    let mut end = end.map_err(after)?;
    if !late.is_empty() {
        if let Some(left) = wait(warm, run, &names, late, begun + within).await.map_err(after)? {
            return Err(Failure::After(held_up(doing, within, &left)));
        }
        end = warm.session.query_one(&read_end, &[]).await.map_err(after)?;
    }
    source::end_in(&end, doing.to_owned()).map_err(Failure::After)
}

/// Lets everybody write again. Waits for nobody but another process that moves the fence.
pub(in crate::primary) async fn open(db: &Database, run: &RunId) -> Result<()> {
    let doing = format!("opening {} to clients", db.side);
    let names = Names::of(run);
    let deadline = Instant::now() + OPENING;
    loop {
        let mut warm = db.fence_session().await?;
        let opened = timeout(OPENING, open_once(&mut warm, &names)).await;
        match opened {
            Ok(Ok(epoch)) => {
                db.remember_epoch(epoch);
                db.kept.fence.put(warm);
                return Ok(());
            }
            Ok(Err(e)) => {
                let busy = e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
                // A session kept from before a restart of the server is worth one more try.
                let again = busy || e.is_closed();
                if again && Instant::now() < deadline {
                    tracing::debug!(side = %db.side, error = %e, "opening the fence again");
                    continue;
                }
                return Err(port_error(doing, e));
            }
            Err(_) => return Err(PortError::transient(doing, "the server did not answer in time")),
        }
    }
}

async fn open_once(
    warm: &mut Warm,
    names: &Names,
) -> std::result::Result<Option<i64>, tokio_postgres::Error> {
    if installed(warm.session.batch_execute(&text::open(names)).await)?.is_none() {
        return Ok(None);
    }
    Ok(Some(warm.session.query_one(&text::epoch(names), &[]).await?.get(0)))
}

/// The epoch as this process knows it, else as the database says; `None` without a fence.
pub(super) async fn epoch(
    db: &Database,
    warm: &mut Warm,
    names: &Names,
) -> std::result::Result<Option<i64>, tokio_postgres::Error> {
    if let Some(epoch) = db.known_epoch() {
        return Ok(Some(epoch));
    }
    let row = installed(warm.session.query_opt(&text::epoch(names), &[]).await)?.flatten();
    let epoch = row.map(|row| row.get(0));
    db.remember_epoch(epoch);
    Ok(epoch)
}

/// Does everything that closing and opening do, and takes it back: the session knows statements and
/// catalogs afterwards. For a moment nobody else can move the fence.
pub(super) async fn rehearse(
    warm: &mut Warm,
    run: &RunId,
    names: &Names,
    epoch: i64,
) -> std::result::Result<(), tokio_postgres::Error> {
    writers(warm, run, names).await?;
    let end = warm.prepared(source::LOG_END).await?;
    warm.session.query_one(&end, &[]).await?;
    let (close, open) = (text::close(run, names, epoch, ""), text::open(names));
    warm.session.batch_execute(&format!("BEGIN; {close}; {open}; ROLLBACK")).await
}

/// Transactions under way that may have written.
pub(super) async fn writers(
    warm: &mut Warm,
    run: &RunId,
    names: &Names,
) -> std::result::Result<Vec<Writer>, tokio_postgres::Error> {
    let statement = warm.prepared(&text::writers(run, names)).await?;
    Ok(warm.session.query(&statement, &[]).await?.iter().map(writer).collect())
}

fn writer(row: &tokio_postgres::Row) -> Writer {
    let (pid, application, gid): (Option<i32>, Option<&str>, Option<&str>) =
        (row.get(1), row.get(2), row.get(3));
    let who = match (pid, gid) {
        (_, Some(gid)) => format!("prepared transaction {gid:?}"),
        (Some(pid), None) => format!("process {pid} ({})", application.unwrap_or("unknown")),
        (None, None) => "a prepared transaction".to_owned(),
    };
    Writer { transaction: row.get(0), who }
}

/// Waits until none of `early` is under way. Those that are left at the deadline, if any.
async fn wait(
    warm: &mut Warm,
    run: &RunId,
    names: &Names,
    early: Vec<Writer>,
    deadline: Instant,
) -> std::result::Result<Option<Vec<Writer>>, tokio_postgres::Error> {
    let known: HashSet<String> = early.iter().map(|w| w.transaction.clone()).collect();
    let mut left = early;
    let mut pause = Duration::from_millis(1);
    while !left.is_empty() {
        if Instant::now() >= deadline {
            return Ok(Some(left));
        }
        sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(Duration::from_millis(8));
        left = writers(warm, run, names).await?;
        left.retain(|w| known.contains(&w.transaction));
    }
    Ok(None)
}

fn held_up(doing: &str, within: Duration, left: &[Writer]) -> PortError {
    let who: Vec<String> = left.iter().map(|w| w.who.clone()).collect();
    PortError::definite(
        HELD_UP,
        doing,
        format!(
            "transactions that write to tables of the run did not end within {} ms: {}",
            within.as_millis(),
            some_of(&who)
        ),
        "let them end and try again, or end them: SELECT pg_terminate_backend(PROCESS); or ROLLBACK \
         PREPARED 'NAME'; a larger move.pause_budget waits longer",
    )
}
