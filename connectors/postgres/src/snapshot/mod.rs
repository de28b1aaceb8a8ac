//! Reading rows and digests: under one snapshot shared by all workers, or as they are now.
//!
//! Every reader has a session of its own, so workers run in parallel. Sessions under a snapshot
//! hold its transaction open and end with it.

mod digest;
mod live;
mod range;
mod stream;

use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::{
    model::{
        digest::{Digest, RowDigest, RowKey},
        schema::Table,
    },
    port::{
        Result,
        copy::{CopyFormat, CopyStream, Range, Snapshot},
        error::PortError,
        reader::RowReader,
    },
};
pub use live::LiveReader;

use self::stream::PgCopyStream;
use crate::{
    connect::port_error,
    database::Database,
    shelf::{Shelf, Warm},
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

    /// Opens a session under the snapshot.
    async fn join(&self) -> Result<Warm> {
        let session = self.db.session("copy").await?;
        // Parallel plans and compilation pay off for one big query, not for many workers.
        let begin = format!(
            "SET jit = off; SET max_parallel_workers_per_gather = 0; \
             BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            sql::literal(&self.name)
        );
        session
            .batch_execute(&begin)
            .await
            .map_err(|e| port_error(self.doing("joining a snapshot"), e))?;
        Ok(Warm::new(session))
    }
}

#[async_trait]
impl Snapshot for PgSnapshot {
    fn visible(&self) -> &str {
        &self.visible
    }

    async fn split(&self, table: &Table, target_bytes: u64) -> Result<Vec<Range>> {
        let warm = self.view.session().await?;
        let name = sql::table(&table.name);
        let row = warm
            .session
            .query_opt(
                "SELECT pg_relation_size(c.oid) / current_setting('block_size')::int8, \
                        pg_table_size(c.oid), coalesce(a.amname = 'heap', false) \
                 FROM pg_class c LEFT JOIN pg_am a ON a.oid = c.relam \
                 WHERE c.oid = to_regclass($1::text)",
                &[&name],
            )
            .await
            .map_err(|e| port_error(self.view.doing(&format!("measuring {}", table.name)), e))?;
        self.view.idle.put(warm);
        let Some(row) = row else { return Ok(vec![range::whole(table.bytes)]) };
        let number = |i: usize| {
            row.get::<_, Option<i64>>(i).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
        };
        if !row.get::<_, bool>(2) {
            return Ok(vec![range::whole(number(1))]);
        }
        Ok(range::by_pages(number(0), number(1), target_bytes))
    }

    async fn keys_range(&self, table: &Table, keys: &[RowKey]) -> Result<Range> {
        let mut warm = self.view.session().await?;
        let parts = match table.key().is_empty() {
            true => Arc::default(),
            false => digest::key_parts(&mut warm, table)
                .await
                .map_err(|e| port_error(digest::doing(&self.view.db, table), e))?,
        };
        let hashing = warm.session.hashing();
        self.view.idle.put(warm);
        Ok(range::of_keys(table, keys, &parts, hashing))
    }

    async fn read(
        &self,
        table: &Table,
        range: &Range,
        format: CopyFormat,
    ) -> Result<Box<dyn CopyStream>> {
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
        let warm = self.view.session().await?;
        let statement = stream::copy_statement(table, range, options);
        let rows =
            warm.session.copy_out(&statement).await.map_err(|e| port_error(doing.as_str(), e))?;
        Ok(Box::new(PgCopyStream::new(rows, warm, Arc::clone(&self.view), doing)))
    }
}

#[async_trait]
impl RowReader for PgSnapshot {
    async fn bucket_digests(
        &self,
        table: &Table,
        range: &Range,
        buckets: u32,
    ) -> Result<Vec<Digest>> {
        let mut warm = self.view.session().await?;
        let digests = digest::buckets(&mut warm, table, range, buckets)
            .await
            .map_err(|e| port_error(digest::doing(&self.view.db, table), e))?;
        self.view.idle.put(warm);
        Ok(digests)
    }

    async fn bucket_rows(
        &self,
        table: &Table,
        buckets: u32,
        wanted: &[u32],
    ) -> Result<Vec<RowDigest>> {
        let mut warm = self.view.session().await?;
        let rows = digest::rows(&mut warm, table, buckets, wanted)
            .await
            .map_err(|e| port_error(digest::doing(&self.view.db, table), e))?;
        self.view.idle.put(warm);
        Ok(rows)
    }

    async fn key_digests(&self, table: &Table, keys: &[RowKey]) -> Result<Vec<RowDigest>> {
        let mut warm = self.view.session().await?;
        let rows = digest::keyed(&mut warm, table, keys)
            .await
            .map_err(|e| port_error(digest::doing(&self.view.db, table), e))?;
        self.view.idle.put(warm);
        Ok(rows)
    }
}
