//! Reading rows and digests: under one snapshot shared by all workers, or as they are now.
//!
//! Every reader has a session of its own, so workers run in parallel. Sessions under a snapshot
//! hold its transaction open and end with it.

mod digest;
mod hold;
mod keyed;
mod live;
mod measure;
mod range;
mod stream;

use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::{
    model::{
        digest::{Digest, RowDigest, RowKey},
        ranges::KeyRanges,
        schema::Table,
    },
    port::{
        Result,
        copy::{Coming, CopyFormat, Keyed, Opened, Range, Snapshot},
        error::PortError,
        reader::{Lookup, Part, RowReader},
    },
};
pub(crate) use hold::Pages;
pub(crate) use keyed::others;
pub use live::LiveReader;
use tokio_postgres::error::SqlState;

use self::{measure::Measured, stream::PgCopyStream};
use crate::{
    connect::port_error,
    database::Database,
    shelf::{Keys, Shelf, Warm},
    sql,
};

/// A consistent view of the database that any number of sessions share.
pub(crate) struct PgSnapshot {
    view: Arc<View>,
    /// Which transactions it contains.
    visible: String,
}

/// What the streams of a snapshot share with it.
struct View {
    db: Database,
    /// Name under which the snapshot was exported.
    name: String,
    idle: Shelf,
    keys: Keys,
    /// Keeps the exporting session alive, so that more workers can join.
    _keepalive: Box<dyn Send + Sync>,
}

impl PgSnapshot {
    /// Joins a snapshot that another session exported. `keepalive` holds that session.
    pub(crate) async fn import(
        db: &Database,
        snapshot_name: &str,
        keepalive: Box<dyn Send + Sync>,
    ) -> Result<Self> {
        let view = View {
            db: db.clone(),
            name: snapshot_name.to_owned(),
            idle: Shelf::default(),
            keys: Keys::default(),
            _keepalive: keepalive,
        };
        let first = view.join().await?;
        let visible = first
            .session
            .query_one("SELECT pg_current_snapshot()::text", &[])
            .await
            .map_err(|e| port_error(view.doing("reading the snapshot"), e))?
            .get(0);
        view.idle.put(first);
        Ok(Self { view: Arc::new(view), visible })
    }

    /// A view of now.
    pub(crate) async fn now(db: &Database) -> Result<Self> {
        let session = db.session("snapshot").await?;
        let doing = format!("exporting a snapshot of {}", db.side);
        session
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await
            .map_err(|e| port_error(doing.as_str(), e))?;
        let name: String = session
            .query_one("SELECT pg_export_snapshot()", &[])
            .await
            .map_err(|e| port_error(doing.as_str(), e))?
            .get(0);
        Self::import(db, &name, Box::new(session)).await
    }
}

impl View {
    fn doing(&self, what: &str) -> String {
        format!("{what} of {}", self.db.side)
    }

    /// An idle session under the snapshot, or a new one.
    async fn session(&self) -> Result<Warm> {
        match self.idle.take() {
            Some(warm) => Ok(warm),
            None => self.join().await,
        }
    }

    /// Lets go of everything that the session holds.
    async fn begin_again(&self, warm: &mut Warm) -> Result<()> {
        warm.session
            .batch_execute(&format!("COMMIT; {}", self.begin()))
            .await
            .map_err(|e| self.not_joined("joining a snapshot again", e))?;
        warm.held.clear();
        Ok(())
    }

    /// Keeps a session that has read for the next user, who may come late or never: whoever waits
    /// for a table that it held would wait as long. One that cannot let go is closed.
    async fn rest(&self, mut warm: Warm) {
        if self.begin_again(&mut warm).await.is_ok() {
            self.idle.put(warm);
        }
    }

    fn begin(&self) -> String {
        format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            sql::literal(&self.name)
        )
    }

    /// Opens a session under the snapshot.
    async fn join(&self) -> Result<Warm> {
        let session = self.db.session("copy").await?;
        // Parallel plans pay off for one big query, not for many workers. And who alters a table, or
        // an index of it, is not waited for without end.
        let begin = format!(
            "SET max_parallel_workers_per_gather = 0; SET lock_timeout = {}; {}",
            hold::PATIENCE.as_millis(),
            self.begin()
        );
        session
            .batch_execute(&begin)
            .await
            .map_err(|e| self.not_joined("joining a snapshot", e))?;
        Ok(Warm::new(session))
    }

    /// A snapshot is gone with the session that exported it, as after a restart of the server: the
    /// file of it is missing, or nobody is there to whom it belonged.
    fn not_joined(&self, doing: &str, e: tokio_postgres::Error) -> PortError {
        let gone = [
            SqlState::INVALID_PARAMETER_VALUE,
            SqlState::UNDEFINED_OBJECT,
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        ];
        if e.code().is_some_and(|code| gone.contains(code)) {
            return PortError::transient(self.doing(doing), "its session has ended");
        }
        port_error(self.doing(doing), e)
    }
}

#[async_trait]
impl Snapshot for PgSnapshot {
    fn visible(&self) -> &str {
        &self.visible
    }

    async fn ranges_of(&self, tables: &[&Table], target_bytes: u64) -> Result<Vec<Vec<Range>>> {
        let measured = self.view.measured(tables).await?;
        let of = |(table, measured): (&&Table, Option<Measured>)| match measured {
            None => vec![range::whole(table.bytes)],
            Some(Measured { pages: Some(pages), bytes }) => {
                range::by_pages(pages, bytes, target_bytes)
            }
            Some(Measured { pages: None, bytes }) => vec![range::whole(bytes)],
        };
        Ok(tables.iter().zip(measured).map(of).collect())
    }

    async fn coming_of(&self, tables: &[&Table]) -> Result<Vec<Option<Coming>>> {
        let measured = self.view.measured(tables).await?;
        Ok(measured.into_iter().map(|m| range::coming(m?.pages?, &self.visible)).collect())
    }

    async fn keyed_of(&self, tables: &[&Table]) -> Result<Vec<Option<Keyed>>> {
        self.view.keyed(tables).await
    }

    async fn by_key(
        &self,
        table: &Table,
        column: &str,
        target_bytes: u64,
    ) -> Result<Option<KeyRanges>> {
        self.view.by_key(table, column, target_bytes).await
    }

    fn key_range(&self, ranges: &KeyRanges, number: usize) -> Option<Range> {
        Some(keyed::range(ranges, number))
    }

    async fn keys_range(&self, table: &Table, keys: &[RowKey]) -> Result<Range> {
        let mut warm = self.view.session().await?;
        let parts = match table.key() {
            [] => Arc::default(),
            _ => digest::key_parts(&mut warm, &self.view.keys, &[table])
                .await
                .map_err(|e| port_error(digest::doing(&self.view.db, table), e))?
                .swap_remove(0),
        };
        let hashing = warm.session.hashing();
        self.view.idle.put(warm);
        Ok(range::of_keys(table, keys, &parts, hashing))
    }

    async fn read(&self, table: &Table, range: &Range, format: CopyFormat) -> Result<Opened> {
        let doing = self.view.doing(&format!("copying {} out", table.name));
        let options = match format {
            CopyFormat::PostgresBinary => "FORMAT binary",
            CopyFormat::PostgresText => "FORMAT text",
            CopyFormat::Rows => {
                return Err(PortError::definite(
                    "CUT0307",
                    doing,
                    "PostgreSQL hands rows out as a COPY stream only",
                    "report this: the target asked for a format that this source does not have",
                ));
            }
        };
        let (warm, pages) = match self.view.opening((table, range::is_place(range))).await? {
            Ok(opened) => opened,
            Err(why) => return Ok(Opened::Later(why)),
        };
        if keyed::is_by_key(range) {
            // A table that was never analysed would be read as a whole for each of its ranges.
            let set = "SET LOCAL enable_seqscan = off";
            warm.session.batch_execute(set).await.map_err(|e| port_error(doing.as_str(), e))?;
        }
        let statement = stream::copy_statement(table, range, options);
        let rows = match warm.session.copy_out(&statement).await {
            Ok(rows) => rows,
            // Whoever looks again finds what there is by now.
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_COLUMN) => {
                let why = PortError::transient(doing.as_str(), "its definition has changed");
                return Ok(Opened::Later(why));
            }
            Err(e) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                return Ok(Opened::Later(port_error(doing.as_str(), e)));
            }
            Err(e) => return Err(port_error(doing.as_str(), e)),
        };
        let rows = Box::new(PgCopyStream::new(rows, warm, Arc::clone(&self.view), doing));
        Ok(if pages == Pages::Emptied { Opened::Emptied(rows) } else { Opened::Rows(rows) })
    }
}

#[async_trait]
impl RowReader for PgSnapshot {
    async fn digests_of(&self, parts: &[Part<'_>]) -> Result<Vec<Vec<Digest>>> {
        let mut digests = Vec::with_capacity(parts.len());
        for parts in parts.chunks(hold::READS) {
            let wanted: Vec<hold::Wanted<'_>> =
                parts.iter().map(|p| (p.table, range::is_place(p.range))).collect();
            let warm = self.view.holding(&wanted).await?;
            digests.extend(digest::parts(&warm.session, parts).await.map_err(|e| {
                port_error(digest::doing_all(&self.view.db, parts.iter().map(|p| p.table)), e)
            })?);
            self.view.rest(warm).await;
        }
        Ok(digests)
    }

    async fn bucket_rows(
        &self,
        table: &Table,
        buckets: u32,
        wanted: &[u32],
    ) -> Result<Vec<RowDigest>> {
        let mut warm = self.view.holding(&[(table, false)]).await?;
        let rows = digest::rows(&mut warm, table, buckets, wanted)
            .await
            .map_err(|e| port_error(digest::doing(&self.view.db, table), e))?;
        self.view.rest(warm).await;
        Ok(rows)
    }

    async fn emptied_of(&self, tables: &[&Table]) -> Result<Vec<bool>> {
        let mut emptied = Vec::with_capacity(tables.len());
        for tables in tables.chunks(hold::READS) {
            let wanted: Vec<hold::Wanted<'_>> = tables.iter().map(|t| (*t, false)).collect();
            let warm = self.view.holding(&wanted).await?;
            emptied.extend(tables.iter().map(|t| warm.held.get(&t.name) == Some(&Pages::Emptied)));
            self.view.rest(warm).await;
        }
        Ok(emptied)
    }

    async fn rows_of(&self, wanted: &[Lookup<'_>]) -> Result<Vec<Vec<RowDigest>>> {
        let mut rows = Vec::with_capacity(wanted.len());
        for wanted in wanted.chunks(hold::READS) {
            let tables: Vec<hold::Wanted<'_>> = wanted.iter().map(|l| (l.table, false)).collect();
            let mut warm = self.view.holding(&tables).await?;
            let found = digest::keyed(&mut warm, &self.view.keys, wanted).await.map_err(|e| {
                port_error(digest::doing_all(&self.view.db, wanted.iter().map(|l| l.table)), e)
            })?;
            rows.extend(found);
            self.view.rest(warm).await;
        }
        Ok(rows)
    }
}
