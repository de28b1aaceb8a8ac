//! Rows in bulk: the initial copy, and emptying a table before it.
//!
//! Copied rows carry no replication origin: a reverse stream does not exist before the copy is
//! done, and before PostgreSQL 16 two sessions could not share the origin anyway.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use cutover_core::{
    model::{
        position::Position,
        schema::{Table, TableName},
        value::{Tuple, Value},
    },
    port::{
        PortError, Result,
        copy::{CopyChunk, CopyFormat, CopyStream},
        sink::{Load, Part},
    },
};
use futures_util::SinkExt;
use tokio_postgres::{Client, error::SqlState};

use super::{
    encode::CopyText,
    parts,
    refusal::{self, is_state},
    statement, unproven,
};
use crate::{
    connect::{Session, is_about_encoding, port_error, row_error},
    database::Database,
    source::place,
    sql::{self, Names},
};

/// Bytes gathered before they are handed to the driver. Sources send a row at a time.
const PIECE: usize = 128 * 1024;

/// How long a session that is not used stays open.
const IDLE: Duration = Duration::from_secs(20);

/// Sessions of finished copies, kept for the next ones: a login costs as much as a megabyte.
#[derive(Clone, Default)]
pub(crate) struct Copiers {
    idle: Arc<Mutex<Vec<Session>>>,
}

impl Copiers {
    async fn take(&self, database: &Database) -> Result<Session> {
        while let Some(session) = self.pop() {
            if !session.is_closed() {
                return Ok(session);
            }
        }
        let session = database.session("copy").await?;
        session
            .batch_execute(&format!("{}; SET synchronous_commit = off", sql::QUIET))
            .await
            .map_err(|e| port_error(format!("opening a copy on {}", database.side()), e))?;
        Ok(session)
    }

    /// Keeps a session for a while.
    fn give(&self, session: Session) {
        self.lock().push(session);
        let idle = Arc::downgrade(&self.idle);
        tokio::spawn(async move {
            tokio::time::sleep(IDLE).await;
            if let Some(idle) = idle.upgrade() {
                // The one unused for longest; each that was given has its own end.
                let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                if !idle.is_empty() {
                    idle.remove(0);
                }
            }
        });
    }

    /// Closes what is kept.
    pub(super) fn close(&self) {
        self.lock().clear();
    }

    fn pop(&self) -> Option<Session> {
        self.lock().pop()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bulk load. Its commits wait for no disk; a flush waits for all of them at once.
pub(super) struct BulkLoad {
    database: Database,
    names: Names,
    /// Open since before the first commit of the load. When the server fails it forgets commits
    /// that are not on its disk, and ends every session: while this one lives, none is forgotten.
    witness: Session,
    /// Tables whose rows may break a constraint.
    unproven: HashSet<TableName>,
}

impl BulkLoad {
    pub(super) async fn new(database: &Database, names: Names) -> Result<Self> {
        let witness = database.session("flush").await?;
        let unproven = unproven::tables(&witness, database.side().as_str()).await?;
        witness
            .batch_execute("SET synchronous_commit = on")
            .await
            .map_err(|e| port_error(format!("opening a copy on {}", database.side()), e))?;
        Ok(Self { database: database.clone(), names, witness, unproven })
    }
}

#[async_trait]
impl Load for BulkLoad {
    async fn copy(
        &self,
        table: &Table,
        format: CopyFormat,
        rows: Box<dyn CopyStream>,
        part: Option<&Part>,
    ) -> Result<u64> {
        let (database, at) = (&self.database, self.database.side().to_string());
        let session = database.copiers.take(database).await?;
        let unproven = self.unproven.contains(&table.name);
        let run = async |text: &str| {
            let done = session.batch_execute(text).await;
            done.map_err(|e| copy_error(&at, &table.name, e))
        };
        if unproven || part.is_some() {
            run("BEGIN").await?;
        }
        let away = match unproven {
            true => Some(unproven::set_aside(&session, &at, &table.name).await?),
            false => None,
        };
        let written = copy_rows(&session, &at, table, format, rows).await?;
        if let Some(away) = away {
            away.put_back(&session, &at, &table.name).await?;
        }
        if let Some(part) = part {
            parts::note(&session, &at, &self.names, &table.name, part, written).await?;
        }
        if unproven || part.is_some() {
            run("COMMIT").await?;
        }
        // A session of a failed copy is not used again.
        database.copiers.give(session);
        Ok(written)
    }

    async fn flush(&self) -> Result<Option<Position>> {
        let doing = format!("waiting for rows to be on the disk of {}", self.database.side());
        // A commit that has written something waits until it, and all before it, is on the disk
        // (and with a standby that is waited for). The place of the message is behind the others,
        // and not behind what they write meanwhile.
        let write = "SELECT lsn::text, pg_catalog.pg_walfile_name(lsn) \
                     FROM pg_catalog.pg_logical_emit_message(true, $1, 'copied') AS lsn";
        let row = self.witness.query_one(write, &[&sql::MESSAGE_PREFIX]).await;
        let row = row.map_err(|e| port_error(doing.as_str(), e))?;
        match place(row.get(0), row.get(1)) {
            Some(behind) => Ok(Some(behind)),
            None => Err(PortError::transient(doing, "the server gave no position")),
        }
    }
}

/// Sends rows through COPY on a session, within its transaction if it has one.
///
/// # Errors
///
/// `CUT0407` when the table does not accept a row; those of the stream. After an error the
/// session must not be used again.
pub(super) async fn copy_rows(
    client: &Client,
    at: &str,
    table: &Table,
    format: CopyFormat,
    mut rows: Box<dyn CopyStream>,
) -> Result<u64> {
    let failed = |e| copy_error(at, &table.name, e);
    let text = statement::copy_table(table, format == CopyFormat::PostgresBinary);
    let sink = client.copy_in::<_, Bytes>(&text).await.map_err(failed)?;
    let mut sink = std::pin::pin!(sink);
    let mut piece = Piece::default();
    let width = table.carried().count();
    // Dropping the sink after an error of the stream takes the whole copy back.
    while let Some(chunk) = rows.next().await? {
        match (chunk, format) {
            (CopyChunk::Raw(bytes), CopyFormat::PostgresBinary | CopyFormat::PostgresText) => {
                piece.raw(bytes);
            }
            (CopyChunk::Rows(rows), CopyFormat::Rows) => {
                for row in &rows {
                    piece.row(row, width).ok_or_else(|| misfit(&table.name))?;
                }
            }
            _ => return Err(misfit(&table.name)),
        }
        while let Some(bytes) = piece.ready() {
            if sink.send(bytes).await.is_err() {
                // The server has ended the copy and said why.
                return Err(match sink.finish().await {
                    Err(e) => failed(e),
                    Ok(_) => misfit(&table.name),
                });
            }
        }
    }
    if let Some(bytes) = piece.rest()
        && sink.send(bytes).await.is_err()
    {
        tracing::debug!(table = %table.name, "the server ended a copy early");
    }
    sink.finish().await.map_err(failed)
}

/// Gathers small chunks.
#[derive(Default)]
struct Piece {
    small: BytesMut,
    large: Option<Bytes>,
    text: CopyText,
}

impl Piece {
    fn raw(&mut self, bytes: Bytes) {
        if self.small.is_empty() && bytes.len() >= PIECE {
            self.large = Some(bytes);
        } else {
            self.small.put_slice(&bytes);
        }
    }

    /// `None` when the row does not have the table's columns.
    fn row(&mut self, row: &Tuple, width: usize) -> Option<()> {
        if row.len() != width {
            return None;
        }
        self.text.begin();
        row.values().try_for_each(|value: Value<'_>| self.text.push(value)).ok()?;
        self.text.end();
        Some(())
    }

    /// Something large enough to be sent.
    fn ready(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.large.take() {
            return Some(bytes);
        }
        if self.small.len() >= PIECE {
            return Some(
                std::mem::replace(&mut self.small, BytesMut::with_capacity(PIECE)).freeze(),
            );
        }
        (self.text.len() >= PIECE).then(|| self.text.take())
    }

    fn rest(&mut self) -> Option<Bytes> {
        let rest =
            if self.small.is_empty() { self.text.take() } else { self.small.split().freeze() };
        (!rest.is_empty()).then_some(rest)
    }
}

/// Empties a table.
///
/// TRUNCATE where it can: nothing of the old rows remains. A table that a foreign key of another
/// table points at (`schema: provided`) cannot be truncated alone, and truncating the other one
/// as well would throw away a finished copy: there the rows are deleted, with foreign keys quiet,
/// and their room is given back.
pub(super) async fn clear(database: &Database, names: &Names, table: &TableName) -> Result<()> {
    let session = database.copiers.take(database).await?;
    let at = database.side().to_string();
    parts::forget(&session, &at, names, table).await?;
    empty(&session, &at, table, Room::GiveBack).await?;
    database.copiers.give(session);
    Ok(())
}

/// Whether deleted rows may be vacuumed at once; not possible inside of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    GiveBack,
    Leave,
}

pub(super) async fn empty(client: &Client, at: &str, table: &TableName, room: Room) -> Result<()> {
    let failed = |e| port_error(format!("emptying table {table} on {at}"), e);
    let partitioned = client
        .query_opt(
            "SELECT c.relkind = 'p' FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = $1 AND c.relname = $2",
            &[&table.schema, &table.name],
        )
        .await
        .map_err(failed)?
        .ok_or_else(|| refusal::table_missing(table))?
        .get::<_, bool>(0);
    let quoted = sql::table(table);
    let only = if partitioned { "" } else { "ONLY " };
    // The savepoint is for callers inside of a transaction; elsewhere it would be an error.
    let inside = room == Room::Leave;
    let run = async |text: String| client.batch_execute(&text).await;
    if inside {
        run("SAVEPOINT cutover".into()).await.map_err(failed)?;
    }
    match run(format!("TRUNCATE {only}{quoted}")).await {
        Ok(()) => {}
        Err(e) if is_state(&e, &SqlState::FEATURE_NOT_SUPPORTED) => {
            if inside {
                run("ROLLBACK TO SAVEPOINT cutover".into()).await.map_err(failed)?;
            }
            run(format!("DELETE FROM {only}{quoted}")).await.map_err(failed)?;
            if room == Room::GiveBack {
                run(format!("VACUUM {quoted}")).await.map_err(failed)?;
            }
        }
        Err(e) => return Err(failed(e)),
    }
    if inside {
        run("RELEASE SAVEPOINT cutover".into()).await.map_err(failed)?;
    }
    Ok(())
}

fn copy_error(at: &str, table: &TableName, e: tokio_postgres::Error) -> PortError {
    let doing = format!("copying rows into table {table} on {at}");
    let Some(db) = e.as_db_error() else { return port_error(doing, e) };
    let what = refusal::describe(db);
    if is_state(&e, &SqlState::UNIQUE_VIOLATION) || is_state(&e, &SqlState::EXCLUSION_VIOLATION) {
        return PortError::definite(
            refusal::ROW_EXISTS,
            doing,
            format!("a row is there already ({what}); nothing of this part was written"),
            "somebody else writes to this side, or it was not empty: empty the table and start \
             the run again",
        );
    }
    if is_state(&e, &SqlState::UNDEFINED_TABLE) && !refusal::lacks_a_name(db) {
        return refusal::table_missing(table);
    }
    if is_about_encoding(db.code().code()) {
        return port_error(doing, e);
    }
    if !refusal::is_about_rows(db) {
        return row_error(doing, e);
    }
    PortError::definite(
        refusal::ROW_REFUSED,
        doing,
        format!("this side does not accept a row: {what}; nothing of this part was written"),
        refusal::refused_remedy(db),
    )
}

fn misfit(table: &TableName) -> PortError {
    refusal::not_a_stream(format!(
        "what was read for table {table} does not have the agreed format and columns"
    ))
}
