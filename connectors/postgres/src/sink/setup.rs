//! What the sink keeps on the server: its schema with the progress table and that of copied parts, and
//! the replication origin. Also who may use them.

use std::time::Duration;

use cutover_core::{
    model::position::Position,
    port::{PortError, Result},
};
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, error::SqlState};

use super::{
    parts,
    refusal::{self, is_state},
};
use crate::{
    connect::{Session, port_error},
    sql::{self, HOLDS, Names},
};

/// Version of the progress table. Another version is refused, never guessed.
const FORMAT: i32 = 1;

/// How long a session that died may be in our way: the server needs a moment to notice.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Settings of the writer, beside the pinned ones of every session.
///
/// Triggers, rules and foreign keys stay quiet, and a position we return must be on disk. Plans
/// are made once per statement: rows are found by index, whatever the statistics of a table that
/// was just filled say.
const WRITER_SETTINGS: &str = "
    SET synchronous_commit = on;
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET enable_memoize = off;
    SET work_mem = '32MB'";

/// Creates schema, tables and origins. Idempotent.
pub(super) async fn create(session: &Session, at: &str, names: &Names) -> Result<()> {
    let doing = || format!("preparing {at} to receive changes");
    let sql = format!(
        "CREATE SCHEMA IF NOT EXISTS {schema};
         CREATE TABLE IF NOT EXISTS {progress} (
             one boolean PRIMARY KEY DEFAULT true CHECK (one),
             format integer NOT NULL,
             position text,
             updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp());
         INSERT INTO {progress} (format) VALUES ({FORMAT}) ON CONFLICT DO NOTHING;
         {parts}",
        schema = sql::ident(names.schema()),
        progress = names.progress(),
        parts = parts::create(names),
    );
    session.batch_execute(&sql).await.map_err(|e| port_error(doing(), e))?;
    for origin in [names.origin(), &names.early_origin()] {
        let created = session
            .execute(
                "SELECT pg_catalog.pg_replication_origin_create($1::text)
                  WHERE pg_catalog.pg_replication_origin_oid($1::text) IS NULL",
                &[&origin],
            )
            .await;
        match created {
            Ok(_) => {}
            Err(e) if is_state(&e, &SqlState::UNIQUE_VIOLATION) => {}
            Err(e) => return Err(port_error(doing(), e)),
        }
    }
    Ok(())
}

/// Removes what [`create`] made; the schema only when nothing else is in it. Idempotent.
pub(super) async fn remove(session: &Session, at: &str, names: &Names) -> Result<()> {
    let doing = || format!("removing what the run created on {at}");
    let drop_origin = "SELECT pg_catalog.pg_replication_origin_drop($1::text)
          WHERE pg_catalog.pg_replication_origin_oid($1::text) IS NOT NULL";
    end_early(session, names, None).await.map_err(|e| port_error(doing(), e))?;
    for origin in [names.origin(), &names.early_origin()] {
        match patiently(session, drop_origin, origin).await {
            Ok(_) => {}
            Err(e) if is_state(&e, &SqlState::UNDEFINED_OBJECT) => {}
            Err(e) if is_state(&e, &SqlState::OBJECT_IN_USE) => {
                return Err(busy(session, at, names).await);
            }
            Err(e) => return Err(port_error(doing(), e)),
        }
    }
    // DROP TABLE IF EXISTS also forgives a missing schema.
    let tables = format!("DROP TABLE IF EXISTS {}, {}", names.progress(), names.parts());
    session.batch_execute(&tables).await.map_err(|e| port_error(doing(), e))?;
    let schema = format!("DROP SCHEMA IF EXISTS {}", sql::ident(names.schema()));
    match session.batch_execute(&schema).await {
        Ok(()) => Ok(()),
        Err(e) if is_state(&e, &SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => Ok(()),
        Err(e) => Err(port_error(doing(), e)),
    }
}

/// Makes a session the writer of the run.
///
/// # Errors
///
/// `CUT0409` when another session is it, `CUT0410` when there is no origin; transient on a standby:
/// in the middle of a failover the address may lead to one for a while.
pub(super) async fn become_writer(session: &Session, at: &str, names: &Names) -> Result<()> {
    let doing = || format!("opening the writer on {at}");
    let settings = format!("{}; {WRITER_SETTINGS}", sql::QUIET);
    session.batch_execute(&settings).await.map_err(|e| port_error(doing(), e))?;
    let standby = session.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await;
    if standby.map_err(|e| port_error(doing(), e))?.get(0) {
        let why = "the server is a standby (or in recovery): waiting for promotion";
        return Err(PortError::transient(doing(), why));
    }
    let deadline = Instant::now() + PATIENCE;
    while !try_lock(session, writer_key(names)).await.map_err(|e| port_error(doing(), e))? {
        if Instant::now() > deadline {
            return Err(busy(session, at, names).await);
        }
        let ours = session.left().end_holder(session, writer_key(names)).await;
        ours.map_err(|e| port_error(doing(), e))?;
        sleep(PAUSE).await;
    }
    // What an early writer left behind holds rows, and may even be committing: what is stored is
    // not known before it has ended.
    while !early_is_free(session, names).await.map_err(|e| port_error(doing(), e))? {
        if Instant::now() > deadline {
            return Err(busy(session, at, names).await);
        }
        end_early(session, names, None).await.map_err(|e| port_error(doing(), e))?;
        sleep(PAUSE).await;
    }
    let setup = "SELECT pg_catalog.pg_replication_origin_session_setup($1)";
    match patiently(session, setup, names.origin()).await {
        Ok(_) => Ok(()),
        Err(e) if is_state(&e, &SqlState::OBJECT_IN_USE) => Err(busy(session, at, names).await),
        Err(e) if is_state(&e, &SqlState::UNDEFINED_OBJECT) => Err(not_prepared(at)),
        Err(e) => Err(port_error(doing(), e)),
    }
}

/// Makes a session the early writer of the run, beside the writer. Returns its process id.
pub(super) async fn become_early(session: &Session, at: &str, names: &Names) -> Result<i32> {
    let doing = || format!("opening a second writer on {at}");
    let settings = format!("{}; {WRITER_SETTINGS}", sql::QUIET);
    session.batch_execute(&settings).await.map_err(|e| port_error(doing(), e))?;
    if !try_lock(session, early_key(names)).await.map_err(|e| port_error(doing(), e))? {
        return Err(PortError::transient(doing(), "the one before it has not ended yet"));
    }
    let setup = "SELECT pg_catalog.pg_replication_origin_session_setup($1), \
                 pg_catalog.pg_backend_pid()";
    let row = session.query_one(setup, &[&names.early_origin()]).await;
    row.map(|row| row.get(1)).map_err(|e| port_error(doing(), e))
}

pub(super) async fn try_lock(
    session: &Session,
    key: i64,
) -> std::result::Result<bool, tokio_postgres::Error> {
    let row = session.query_one("SELECT pg_catalog.pg_try_advisory_lock($1)", &[&key]).await?;
    Ok(row.get(0))
}

async fn early_is_free(
    session: &Session,
    names: &Names,
) -> std::result::Result<bool, tokio_postgres::Error> {
    let key = early_key(names);
    let free = try_lock(session, key).await?;
    if free {
        session.execute("SELECT pg_catalog.pg_advisory_unlock($1)", &[&key]).await?;
    }
    Ok(free)
}

/// Ends the session of an early writer (any, or this one), whatever it does: without COMMIT it is
/// rolled back.
pub(super) async fn end_early(
    client: &Client,
    names: &Names,
    pid: Option<i32>,
) -> std::result::Result<u64, tokio_postgres::Error> {
    let text =
        format!("{} SELECT {END} FROM early e WHERE e.pid = coalesce($2::integer, e.pid)", early());
    client.execute(&text, &[&early_key(names), &pid]).await
}

/// The same when anybody waits for it for too long. Whether it was ended.
pub(super) async fn end_early_when_waited_for(
    client: &Client,
    names: &Names,
) -> std::result::Result<bool, tokio_postgres::Error> {
    let text = format!(
        "{} SELECT {END} FROM early e WHERE EXISTS (
           SELECT FROM pg_catalog.pg_locks w
            WHERE NOT w.granted
              AND w.waitstart < pg_catalog.clock_timestamp() - interval '1 second'
              AND e.pid = ANY (pg_catalog.pg_blocking_pids(w.pid)))",
        early()
    );
    Ok(client.execute(&text, &[&early_key(names)]).await? > 0)
}

const END: &str = "pg_catalog.pg_terminate_backend(e.pid)";

/// The session that is the early writer.
fn early() -> String {
    format!(
        "WITH early AS (SELECT l.pid FROM pg_catalog.pg_locks l
          WHERE {HOLDS} AND l.pid <> pg_catalog.pg_backend_pid())"
    )
}

/// Repeats a statement about the origin while another session uses it, until patience ends.
async fn patiently(
    session: &Session,
    text: &str,
    origin: &str,
) -> std::result::Result<u64, tokio_postgres::Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match session.execute(text, &[&origin]).await {
            Err(e) if is_state(&e, &SqlState::OBJECT_IN_USE) && Instant::now() < deadline => {
                sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Somebody else writes for the run.
async fn busy(session: &Session, at: &str, names: &Names) -> PortError {
    let mut found = None;
    for key in [writer_key(names), early_key(names)] {
        if found.is_none() {
            found = holder(session, key).await.ok().flatten();
        }
    }
    let holder = match found {
        Some(holder) => format!("{holder} writes for this run"),
        _ => format!("the replication origin {} is in use by another session", names.origin()),
    };
    PortError::definite(
        refusal::WRITER_BUSY,
        format!("opening the writer on {at}"),
        holder,
        "stop the other process; when it is dead already, end its session with \
         SELECT pg_terminate_backend(pid)",
    )
}

/// The lock of the writer beside that of the lease.
fn writer_key(names: &Names) -> i64 {
    names.lease_key() ^ 1
}

/// The lock of the early writer.
fn early_key(names: &Names) -> i64 {
    names.lease_key() ^ 2
}

/// The session that holds an advisory lock, in words.
pub(super) async fn holder(
    client: &Client,
    key: i64,
) -> std::result::Result<Option<String>, tokio_postgres::Error> {
    let who = format!(
        "SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.client_addr::text, 'local')
           FROM pg_catalog.pg_locks l
           LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
          WHERE {HOLDS} LIMIT 1"
    );
    let row = client.query_opt(&who, &[&key]).await?;
    Ok(row.map(|row| {
        let (pid, application, from): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
        format!("the session with pid {pid} (application_name {application:?}, from {from})")
    }))
}

/// What the progress table says.
///
/// # Errors
///
/// `CUT0410` when it is missing, damaged or of another version.
pub(super) async fn read_progress(
    client: &Client,
    at: &str,
    names: &Names,
) -> Result<Option<Position>> {
    let text = format!("SELECT format, position FROM {}", names.progress());
    let row = client.query_opt(&text, &[]).await.map_err(|e| progress_error(at, e))?;
    let Some(row) = row else { return Err(not_prepared(at)) };
    let (format, position): (i32, Option<String>) = (row.get(0), row.get(1));
    if format != FORMAT {
        return Err(PortError::definite(
            refusal::NOT_PREPARED,
            format!("reading how far {at} is"),
            format!("the progress table has format {format}, this version reads {FORMAT}"),
            "continue the run with the version of cutover that began it",
        ));
    }
    let read = |text: String| {
        serde_json::from_str(&text).map_err(|e| {
            PortError::definite(
                refusal::NOT_PREPARED,
                format!("reading how far {at} is"),
                "the stored position cannot be read",
                format!(
                    "somebody changed {}: put the value back, or `cutover abort` and begin again",
                    names.progress()
                ),
            )
            .caused_by(e)
        })
    };
    position.map(read).transpose()
}

/// A position as it is stored.
pub(super) fn position_text(position: &Position) -> Result<String> {
    serde_json::to_string(position)
        .map_err(|e| refusal::not_a_stream("a position cannot be written down").caused_by(e))
}

/// What a failure around the progress table means.
pub(super) fn progress_error(at: &str, e: tokio_postgres::Error) -> PortError {
    if is_state(&e, &SqlState::UNDEFINED_TABLE) || is_state(&e, &SqlState::INVALID_SCHEMA_NAME) {
        return not_prepared(at);
    }
    port_error(format!("storing progress on {at}"), e)
}

/// The sink's objects are not there.
pub(super) fn not_prepared(at: &str) -> PortError {
    PortError::definite(
        refusal::NOT_PREPARED,
        format!("reading how far {at} is"),
        "the progress table or the replication origin of the run is missing",
        "somebody removed what the run created: it is not known what was applied. `cutover abort` \
         and begin again",
    )
}
