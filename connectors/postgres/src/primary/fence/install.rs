//! Putting the fence up ahead of the move, and taking it down.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use cutover_core::{
    model::{
        run::RunId,
        schema::{Table, TableName},
    },
    port::{Result, error::PortError},
};
use futures_util::future::join_all;
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::{
    HELD_UP, State, close, installed, some_of,
    text::{self, Triggers, WaitsFor},
};
use crate::{
    catalog,
    connect::{Session, port_error},
    database::Database,
    sql::Names,
};

/// How long clients may wait behind us for one table.
const SHORT: Duration = Duration::from_millis(300);

/// After this many rounds we wait longer: the server ends an autovacuum that is in somebody's way
/// only after `deadlock_timeout`.
const SHORT_ROUNDS: u32 = 10;

/// What to do about those who hold a table.
const FREE_THEM: &str = "let them end and try again, or end them: SELECT \
                         pg_terminate_backend(PROCESS); or ROLLBACK PREPARED 'NAME'";

/// Transactions that are sent without waiting for the one before.
const ON_THEIR_WAY: usize = 100;

/// What triggers are changed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Preparing,
    /// Somebody waits for a move, but no client.
    Moving,
    Removing,
}

impl Manner {
    fn waits_for(self) -> WaitsFor {
        match self {
            Self::Preparing | Self::Moving => WaitsFor::Writers,
            Self::Removing => WaitsFor::Everybody,
        }
    }

    /// How long all tables together may take to become free.
    fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Self::Preparing | Self::Removing => 60,
            Self::Moving => 10,
        })
    }
}

/// Installs the fence open; adds what is new, wakes what is asleep when it shall be awake, takes it
/// from tables that are no part of the run any more, and leaves the rest as it is.
pub(in crate::primary) async fn install(
    db: &Database,
    run: &RunId,
    tables: &[Table],
    triggers: Triggers,
) -> Result<()> {
    let names = Names::of(run);
    let doing = format!("installing the fence on {}", db.side);
    let failed = |e| port_error(doing.as_str(), e);
    let warm = db.errand().await?;
    let session = &warm.session;
    session.batch_execute(&text::foundation(&names)).await.map_err(failed)?;
    let wanted: Vec<&TableName> = tables.iter().map(|t| &t.name).collect();
    let families = catalog::families(session, &wanted).await.map_err(failed)?;
    let done: HashSet<u32> = session
        .query(&text::fenced_well(&names, triggers), &[])
        .await
        .map_err(failed)?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let wanted: Vec<u32> = families.iter().map(|f| f.oid).collect();
    let work: Vec<_> = families
        .into_iter()
        .filter(|f| !done.contains(&f.oid))
        .map(|f| (text::fence_one(&names, &f.name, triggers), f.name))
        .collect();
    let manner = match triggers {
        Triggers::Asleep => Manner::Preparing,
        Triggers::Awake => Manner::Moving,
    };
    patiently(session, &doing, work, manner).await?;
    let rows = session.query(&text::fenced_beside(&names), &[&wanted]).await.map_err(failed)?;
    let work: Vec<_> = rows
        .iter()
        .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .map(|name| (text::leave_one(&names, &name), name))
        .collect();
    if !work.is_empty() {
        patiently(session, &doing, work, Manner::Removing).await?;
    }
    session.batch_execute(&text::settled(&names)).await.map_err(failed)?;
    db.put_back(warm);
    Ok(())
}

/// Wakes what was laid.
pub(in crate::primary) async fn wake(db: &Database, run: &RunId) -> Result<()> {
    let names = Names::of(run);
    let doing = format!("waking the fence on {}", db.side);
    let failed = |e| port_error(doing.as_str(), e);
    let warm = db.errand().await?;
    let session = &warm.session;
    let Some(rows) = installed(session.query(&text::asleep(&names), &[]).await).map_err(failed)?
    else {
        return Err(State::default().gap(&doing).expect("what is not installed has a gap"));
    };
    let work: Vec<_> = rows
        .iter()
        .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .map(|name| (text::fence_one(&names, &name, Triggers::Awake), name))
        .collect();
    if !work.is_empty() {
        patiently(session, &doing, work, Manner::Moving).await?;
        session.batch_execute(&text::settled(&names)).await.map_err(failed)?;
    }
    db.put_back(warm);
    Ok(())
}

/// Opens and removes the fence.
pub(in crate::primary) async fn remove(db: &Database, run: &RunId) -> Result<()> {
    close::open(db, run).await?;
    let names = Names::of(run);
    let doing = format!("removing the fence from {}", db.side);
    let warm = db.errand().await?;
    let session = &warm.session;
    let rows = session
        .query(&text::fenced_tables(&names), &[])
        .await
        .map_err(|e| port_error(doing.as_str(), e))?;
    let work = rows
        .iter()
        .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .map(|name| (text::unfence_one(&names, &name), name))
        .collect();
    patiently(session, &doing, work, Manner::Removing).await?;
    // The kept session has statements prepared on what goes now; the next use opens another.
    db.kept.fence.clear();
    db.forget_epoch();
    let end = format!("{}; {}", text::PATIENT, text::remove_foundation(&names));
    session.batch_execute(&end).await.map_err(|e| port_error(doing.as_str(), e))?;
    db.put_back(warm);
    Ok(())
}

/// Runs one transaction per table, so that clients wait for one table at a time and never long.
/// A table that is busy gets its turn again later; one that somebody has been using for long is
/// not even tried, because clients would queue behind us for nothing. Many are on their way at a
/// time, and their commits wait for the disk together, in the end, with whatever the caller says
/// after [`text::PATIENT`].
async fn patiently(
    session: &Session,
    doing: &str,
    mut left: Vec<(String, TableName)>,
    manner: Manner,
) -> Result<()> {
    let failed = |e| port_error(doing, e);
    session.batch_execute(text::IMPATIENT).await.map_err(failed)?;
    let look = text::in_use(manner.waits_for(), SHORT.as_millis());
    let look = session.prepare(&look).await.map_err(failed)?;
    let deadline = Instant::now() + manner.patience();
    let mut round = 0;
    loop {
        let limit = if round < SHORT_ROUNDS {
            format!("'{}ms'", SHORT.as_millis())
        } else {
            // An interval of the server's own setting; the cast is for its unit.
            "(current_setting('deadlock_timeout')::interval + '500ms')::text".to_owned()
        };
        let set = format!(
            "SELECT set_config('lock_timeout', \
             (1000 * extract(epoch FROM {limit}::interval))::int::text, false)"
        );
        session.batch_execute(&set).await.map_err(failed)?;
        let in_use: HashSet<TableName> = session
            .query(&look, &[])
            .await
            .map_err(failed)?
            .iter()
            .filter(|row| round < SHORT_ROUNDS || !row.get::<_, bool>(2))
            .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
            .collect();
        let (mut busy, mut work): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|(_, name)| in_use.contains(name));
        while !work.is_empty() {
            let some: Vec<_> = work.drain(..work.len().min(ON_THEIR_WAY)).collect();
            // What is sent as one text is one transaction; a failed one takes itself back.
            let sent = some.iter().map(|(statement, _)| session.batch_execute(statement));
            for (answer, (statement, name)) in join_all(sent).await.into_iter().zip(some) {
                let Err(e) = answer else { continue };
                match e.code() {
                    Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED) => {
                        busy.push((statement, name));
                    }
                    // Dropped meanwhile: nothing to do.
                    Some(&SqlState::UNDEFINED_TABLE) => {
                        tracing::info!(table = %name, "a table is gone");
                    }
                    _ => return Err(failed(e)),
                }
            }
        }
        if busy.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let names: Vec<String> = busy.iter().map(|(_, name)| name.to_string()).collect();
            let holders = holders(session, &busy[0].1).await.map_err(|e| port_error(doing, e))?;
            let why = format!(
                "no lock within {} s on {}; {} is held by {}",
                manner.patience().as_secs(),
                some_of(&names),
                names[0],
                some_of(&holders)
            );
            return Err(match manner {
                Manner::Moving => PortError::definite(HELD_UP, doing, why, FREE_THEM),
                Manner::Preparing | Manner::Removing => PortError::transient(doing, why),
            });
        }
        round += 1;
        left = busy;
        sleep(Duration::from_millis(200)).await;
    }
}

/// Who holds a lock on a table.
async fn holders(
    session: &Session,
    name: &TableName,
) -> std::result::Result<Vec<String>, tokio_postgres::Error> {
    let rows = session
        .query(
            "SELECT DISTINCT coalesce('process ' || l.pid, 'a prepared transaction') \
                    || coalesce(' (' || nullif(a.application_name, '') || ')', '') \
             FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.granted AND l.relation = to_regclass($1::text) \
               AND l.pid IS DISTINCT FROM pg_backend_pid()",
            &[&crate::sql::table(name)],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
