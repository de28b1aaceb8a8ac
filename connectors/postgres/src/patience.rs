//! Locks on many tables, so that nobody waits behind us for long, and we do not wait without a word.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use cutover_core::model::schema::TableName;
use futures_util::future::join_all;
use tokio::time::sleep;
use tokio_postgres::{Error, error::SqlState};

use crate::{connect::Session, sql};

/// How long others may wait behind us for one table.
const SHORT: Duration = Duration::from_millis(300);

/// After this many rounds we wait longer: the server ends an autovacuum that is in somebody's way
/// only after `deadlock_timeout`.
const SHORT_ROUNDS: u32 = 10;

/// Between two rounds, so that others get their turn.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

/// Transactions that are sent without waiting for the one before.
const ON_THEIR_WAY: usize = 100;

/// Whom a lock has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// Who defines something, or tends a table.
    Definers,
    /// Those, and who writes.
    Writers,
    /// Those, and who reads.
    Everybody,
}

/// How tables are locked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) waits_for: WaitsFor,
    /// How long all tables together may take to become free.
    pub(crate) within: Duration,
    /// Tables of one transaction, as long as all of them are free.
    pub(crate) at_once: usize,
}

/// Runs one transaction per table, or per few that are free, so that others wait for few tables at
/// a time and never long. A table that is busy gets its turn again later; one that somebody has
/// been using for long is not even tried, because others would queue behind us for nothing. Many
/// are on their way at a time, and their commits wait for the disk together, with the next one of
/// the session. Returns the tables that stayed busy; those that are gone are passed over.
pub(crate) async fn lock_each(
    session: &Session,
    tables: Vec<TableName>,
    statement: impl Fn(&[TableName]) -> String,
    patience: Patience,
) -> Result<Vec<TableName>, Error> {
    session.batch_execute(IMPATIENT).await?;
    let busy = rounds(session, tables, statement, patience).await;
    // Whatever came of it: somebody goes on with the session.
    let settings = session.batch_execute(PATIENT).await;
    let busy = busy?;
    settings.map(|()| busy)
}

async fn rounds(
    session: &Session,
    mut left: Vec<TableName>,
    statement: impl Fn(&[TableName]) -> String,
    patience: Patience,
) -> Result<Vec<TableName>, Error> {
    let look = session.prepare(&in_use(patience.waits_for, SHORT.as_millis())).await?;
    let deadline = Instant::now() + patience.within;
    let mut round = 0;
    loop {
        session.batch_execute(&limit(round, false)).await?;
        let in_use: HashSet<TableName> = session
            .query(&look, &[])
            .await?
            .iter()
            .filter(|row| round < SHORT_ROUNDS || !row.get::<_, bool>(2))
            .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
            .collect();
        let (mut busy, free): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|name| in_use.contains(name));
        let at_once = if round == 0 { patience.at_once.max(1) } else { 1 };
        let work: Vec<&[TableName]> = free.chunks(at_once).collect();
        for some in work.chunks(ON_THEIR_WAY) {
            // What is sent as one text is one transaction; a failed one takes itself back.
            let sent = some.iter().map(|tables| {
                let text = statement(tables);
                async move { session.batch_execute(&text).await }
            });
            for (answer, tables) in join_all(sent).await.into_iter().zip(some) {
                let Err(e) = answer else { continue };
                match e.code() {
                    Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED) => {
                        busy.extend_from_slice(tables);
                    }
                    // Dropped meanwhile: nothing to do, for that one.
                    Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME) => {
                        match tables {
                            [gone] => tracing::info!(table = %gone, "a table is gone"),
                            several => busy.extend_from_slice(several),
                        }
                    }
                    _ => return Err(e),
                }
            }
        }
        if busy.is_empty() || Instant::now() >= deadline {
            return Ok(busy);
        }
        round += 1;
        left = busy;
        sleep(PAUSE).await;
    }
}

/// Sets for how long a lock may be waited for in this round, in the transaction or in the session.
pub(crate) fn limit(round: u32, local: bool) -> String {
    let limit = if round < SHORT_ROUNDS {
        format!("'{}ms'", SHORT.as_millis())
    } else {
        // An interval of the server's own setting; the cast is for its unit.
        "(current_setting('deadlock_timeout')::interval + '500ms')::text".to_owned()
    };
    format!(
        "SELECT set_config('lock_timeout', \
         (1000 * extract(epoch FROM {limit}::interval))::int::text, {local})"
    )
}

/// Why tables stayed busy: who holds the first of them.
pub(crate) async fn held_up(
    session: &Session,
    busy: &[TableName],
    patience: Patience,
) -> Result<String, Error> {
    busy_for(session, busy, patience.within).await
}

/// The same of tables that were waited for in another way.
pub(crate) async fn busy_for(
    session: &Session,
    busy: &[TableName],
    within: Duration,
) -> Result<String, Error> {
    let names: Vec<String> = busy.iter().map(ToString::to_string).collect();
    let holders = holders(session, &busy[0]).await?;
    let held = match &holders[..] {
        [] => String::new(),
        holders => format!("; {} is held by {}", names[0], some_of(holders)),
    };
    Ok(format!("no lock within {} s on {}{held}", within.as_secs(), some_of(&names)))
}

/// The first few, and how many more.
pub(crate) fn some_of(names: &[String]) -> String {
    match names.len() {
        0..=5 => names.join(", "),
        n => format!("{} and {} more", names[..5].join(", "), n - 5),
    }
}

/// Who holds a lock on a table, or on what lies below or outside of it. Partitions by a way on which
/// nobody waits for a lock.
async fn holders(session: &Session, name: &TableName) -> Result<Vec<String>, Error> {
    let rows = session
        .query(
            "WITH RECURSIVE part(oid) AS ( \
               SELECT to_regclass($1::text)::oid \
               UNION SELECT i.inhrelid FROM part JOIN pg_inherits i ON i.inhparent = part.oid) \
             SELECT DISTINCT coalesce('process ' || l.pid, 'a prepared transaction') \
                    || coalesce(' (' || nullif(a.application_name, '') || ')', '') \
             FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() \
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND l.relation IN (SELECT unnest(ARRAY[c.oid, c.reltoastrelid]) \
                                    FROM part JOIN pg_class c ON c.oid = part.oid)",
            &[&sql::table(name)],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Tables that somebody has been using for so many milliseconds in a way that we would wait for,
/// and clients behind us; and whether that is nothing but an autovacuum, which the server ends when
/// it is in somebody's way. A prepared transaction counts as old; a session that we may not look
/// at, as young.
fn in_use(waits_for: WaitsFor, ms: u128) -> String {
    let harmless = match waits_for {
        WaitsFor::Definers => "'AccessShareLock', 'RowShareLock', 'RowExclusiveLock'",
        WaitsFor::Writers => "'AccessShareLock', 'RowShareLock'",
        WaitsFor::Everybody => "''",
    };
    format!(
        "SELECT n.nspname::text, c.relname::text, \
                bool_and(coalesce(a.backend_type = 'autovacuum worker' \
                                  AND a.query !~ 'to prevent wraparound', false)) \
         FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'relation' AND l.granted \
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
           AND l.mode NOT IN ({harmless}) AND l.pid IS DISTINCT FROM pg_backend_pid() \
           AND (l.pid IS NULL OR a.xact_start < clock_timestamp() - interval '{ms} ms') \
         GROUP BY 1, 2"
    )
}

/// Commits do not wait for the disk, and a waiting session asks soon whether an autovacuum is in its
/// way. Only some may say how soon.
const IMPATIENT: &str = "SET synchronous_commit = off; DO $cutover$ BEGIN \
       PERFORM set_config('deadlock_timeout', '50', false); \
     EXCEPTION WHEN insufficient_privilege THEN NULL; END $cutover$";

/// Takes back [`IMPATIENT`] and the limit.
const PATIENT: &str = "RESET synchronous_commit; RESET lock_timeout; DO $cutover$ BEGIN \
       RESET deadlock_timeout; \
     EXCEPTION WHEN insufficient_privilege THEN NULL; END $cutover$";
