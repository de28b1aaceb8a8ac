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

use super::{close, some_of, text};
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
const SHORT_ROUNDS: u32 = 5;

/// How long all tables together may take to become free.
const PATIENCE: Duration = Duration::from_secs(60);

/// Transactions that are sent without waiting for the one before.
const ON_THEIR_WAY: usize = 100;

/// Installs the fence open; adds what is new and leaves the rest as it is.
pub(in crate::primary) async fn install(
    db: &Database,
    run: &RunId,
    tables: &[Table],
) -> Result<()> {
    let names = Names::of(run);
    let doing = format!("installing the fence on {}", db.side);
    let failed = |e| port_error(doing.as_str(), e);
    let session = db.session("install").await?;
    session.batch_execute(&text::foundation(&names)).await.map_err(failed)?;
    let wanted: Vec<&TableName> = tables.iter().map(|t| &t.name).collect();
    let families = catalog::families(&session, &wanted).await.map_err(failed)?;
    let done: HashSet<u32> = session
        .query(&text::fenced_well(&names), &[])
        .await
        .map_err(failed)?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let work = families
        .into_iter()
        .filter(|f| !done.contains(&f.oid))
        .map(|f| (text::fence_one(&names, &f.name), f.name))
        .collect();
    patiently(&session, &doing, work).await?;
    session.batch_execute(&text::settled(&names)).await.map_err(failed)
}

/// Opens and removes the fence.
pub(in crate::primary) async fn remove(db: &Database, run: &RunId) -> Result<()> {
    close::open(db, run).await?;
    let names = Names::of(run);
    let doing = format!("removing the fence from {}", db.side);
    let session = db.session("install").await?;
    let rows = session
        .query(&text::fenced_tables(&names), &[])
        .await
        .map_err(|e| port_error(doing.as_str(), e))?;
    let work = rows
        .iter()
        .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .map(|name| (text::unfence_one(&names, &name), name))
        .collect();
    patiently(&session, &doing, work).await?;
    // The kept session has statements prepared on what goes now; the next use opens another.
    db.kept.fence.clear();
    db.forget_epoch();
    // Waits for the disk again, as do all transactions before it with it.
    let end = format!(
        "RESET synchronous_commit; RESET lock_timeout; {}",
        text::remove_foundation(&names)
    );
    session.batch_execute(&end).await.map_err(|e| port_error(doing.as_str(), e))
}

/// Runs one transaction per table, so that clients wait for one table at a time and never long.
/// A table that is busy gets its turn again later. Many are on their way at a time, and their
/// commits wait for the disk together, in the end.
async fn patiently(
    session: &Session,
    doing: &str,
    mut work: Vec<(String, TableName)>,
) -> Result<()> {
    let failed = |e| port_error(doing, e);
    session.batch_execute("SET synchronous_commit = off").await.map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
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
        let mut busy = Vec::new();
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
                PATIENCE.as_secs(),
                some_of(&names),
                names[0],
                some_of(&holders)
            );
            return Err(PortError::transient(doing, why));
        }
        round += 1;
        work = busy;
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
