//! Digests of rows as they are now.

use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::{
    model::{
        digest::{Digest, RowDigest},
        event::TransactionId,
        schema::Table,
    },
    port::{
        PortError, Result,
        reader::{Lookup, Part, RowReader},
    },
};

use futures_util::future::try_join_all;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::digest;
use crate::{
    catalog,
    connect::port_error,
    database::Database,
    shelf::{Keys, Shelf, Warm},
    sql,
};

/// Sessions at most. One more would have to be opened inside the pause, which costs more than a
/// read of changed keys has to wait for its turn.
const SESSIONS: u32 = 2;

/// Tables whose statements are prepared ahead. Each is kept by every session, in the server's
/// memory; further ones are prepared in the read itself, all in one round trip.
const PREPARED: usize = 250;

/// The file of each table, in their order. What `ALTER TABLE` writes anew is in no log.
const FILES: &str = "SELECT coalesce(pg_relation_filenode(to_regclass(w.name))::int8, 0) \
                     FROM unnest($1::text[]) WITH ORDINALITY AS w(name, n) ORDER BY w.n";

/// The same of all tables, and names of schemas, in one number.
const FILES_MARK: &str = "
    SELECT concat_ws(' ',
      (SELECT sum(hashnameextended(c.relname, (c.relfilenode::int8 << 32) + c.relnamespace::int8))
         FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.relpersistence <> 't'),
      (SELECT sum(hashnameextended(n.nspname, n.oid::int8))
         FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^pg_'))";

/// Numbers of transactions in the stream lack their epoch, and are near those of now.
const SEEN: &str = "
    SELECT pg_visible_in_snapshot(
        (s.top + (w.xid - s.low + 3 * 2147483648) % 4294967296 - 2147483648)::text::xid8, s.now)
      FROM (SELECT c.now, pg_snapshot_xmax(c.now)::text::int8 AS top,
                   pg_snapshot_xmax(c.now)::text::int8 % 4294967296 AS low
              FROM (SELECT pg_current_snapshot()) AS c(now)) AS s
     CROSS JOIN unnest($1::int8[]) WITH ORDINALITY AS w(xid, n) ORDER BY w.n";

/// Reads digests outside of any snapshot: every statement sees what is committed when it begins.
///
/// Sessions stay open between uses and remember their prepared statements, so that inside the
/// pause nothing is connected or planned anew.
#[derive(Clone)]
pub struct LiveReader {
    db: Database,
    idle: Arc<Shelf>,
    keys: Arc<Keys>,
    turns: Arc<Semaphore>,
}

impl Database {
    /// A reader of rows as they are now. Keep it: its sessions stay open as long as it lives.
    #[must_use]
    pub fn reader(&self) -> LiveReader {
        let turns = Arc::new(Semaphore::new(SESSIONS as usize));
        LiveReader { db: self.clone(), idle: Arc::default(), keys: Arc::default(), turns }
    }
}

impl LiveReader {
    /// Opens a session ahead of its first use.
    ///
    /// # Errors
    ///
    /// As any connection.
    pub async fn warm_up(&self) -> Result<()> {
        let _turn = self.turns(1).await;
        let warm = self.session().await?;
        self.idle.put(warm);
        Ok(())
    }

    async fn turns(&self, n: u32) -> SemaphorePermit<'_> {
        self.turns.acquire_many(n).await.expect("nobody closes it")
    }

    async fn session(&self) -> Result<Warm> {
        if let Some(warm) = self.idle.take() {
            return Ok(warm);
        }
        let session = self.db.session("verify").await?;
        // Keys are looked up by index whatever the statistics of a fresh table say: a wrong guess
        // would scan a table inside the pause. Nor is it planned anew for each number of keys, which
        // takes longer than reading a few rows.
        session
            .batch_execute(
                "SET max_parallel_workers_per_gather = 0; \
                 SET plan_cache_mode = force_generic_plan; \
                 SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off",
            )
            .await
            .map_err(|e| port_error(format!("opening a reader on {}", self.db.side), e))?;
        Ok(Warm::new(session))
    }

    fn looking(&self) -> String {
        format!("looking at the tables of {}", self.db.side)
    }
}

#[async_trait]
impl RowReader for LiveReader {
    async fn digests_of(&self, parts: &[Part<'_>]) -> Result<Vec<Vec<Digest>>> {
        let _turn = self.turns(1).await;
        let warm = self.session().await?;
        let digests = digest::parts(&warm.session, parts).await.map_err(|e| {
            port_error(digest::doing_all(&self.db, parts.iter().map(|p| p.table)), e)
        })?;
        self.idle.put(warm);
        Ok(digests)
    }

    async fn bucket_rows(
        &self,
        table: &Table,
        buckets: u32,
        wanted: &[u32],
    ) -> Result<Vec<RowDigest>> {
        let _turn = self.turns(1).await;
        let mut warm = self.session().await?;
        let rows = digest::rows(&mut warm, table, buckets, wanted)
            .await
            .map_err(|e| port_error(digest::doing(&self.db, table), e))?;
        self.idle.put(warm);
        Ok(rows)
    }

    async fn seen_of(&self, transactions: &[TransactionId]) -> Result<Vec<bool>> {
        let _turn = self.turns(1).await;
        let mut warm = self.session().await?;
        let numbers: Vec<i64> = transactions.iter().map(|xid| i64::from(*xid)).collect();
        let ask = async {
            let statement = warm.prepared(SEEN).await?;
            warm.session.query(&statement, &[&numbers]).await
        };
        let rows = ask
            .await
            .map_err(|e| port_error(format!("asking what can be seen on {}", self.db.side), e))?;
        self.idle.put(warm);
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn rows_of(&self, wanted: &[Lookup<'_>]) -> Result<Vec<Vec<RowDigest>>> {
        // Every session takes a share: a read of many tables is as fast as the servers are.
        let share = wanted.len().div_ceil(SESSIONS as usize).max(1);
        let reads = wanted.chunks(share).map(async |wanted| {
            let _turn = self.turns(1).await;
            let mut warm = self.session().await?;
            let rows = digest::keyed(&mut warm, &self.keys, wanted).await.map_err(|e| {
                port_error(digest::doing_all(&self.db, wanted.iter().map(|l| l.table)), e)
            })?;
            self.idle.put(warm);
            Ok::<_, PortError>(rows)
        });
        Ok(try_join_all(reads).await?.into_iter().flatten().collect())
    }

    async fn files_of(&self, tables: &[&Table]) -> Result<Vec<u64>> {
        let _turn = self.turns(1).await;
        let mut warm = self.session().await?;
        let names: Vec<String> = tables.iter().map(|t| sql::table(&t.name)).collect();
        let ask = async {
            let statement = warm.prepared(FILES).await?;
            warm.session.query(&statement, &[&names]).await
        };
        let rows = ask.await.map_err(|e| port_error(self.looking(), e))?;
        self.idle.put(warm);
        Ok(rows.iter().map(|row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)).collect())
    }

    async fn files_mark(&self) -> Result<Option<String>> {
        let _turn = self.turns(1).await;
        let mut warm = self.session().await?;
        let ask = async {
            let statement = warm.prepared(FILES_MARK).await?;
            warm.session.query_one(&statement, &[]).await
        };
        let doing = || format!("asking whether rows of {} were written anew", self.db.side);
        let row = ask.await.map_err(|e| port_error(doing(), e))?;
        self.idle.put(warm);
        Ok(row.get(0))
    }

    async fn sizes_of(&self, tables: &[&Table]) -> Result<Vec<u64>> {
        let _turn = self.turns(1).await;
        let mut warm = self.session().await?;
        let names: Vec<String> = tables.iter().map(|t| sql::table(&t.name)).collect();
        let ask = async {
            let statement = warm.prepared(&catalog::sizes_statement()).await?;
            catalog::sizes(&warm.session, &statement, &names).await
        };
        let sizes = ask.await.map_err(|e| port_error(self.looking(), e))?;
        self.idle.put(warm);
        Ok(sizes)
    }

    async fn get_ready(&self, tables: &[&Table]) -> Result<()> {
        let _turns = self.turns(SESSIONS).await;
        let mut all = Vec::new();
        for _ in 0..SESSIONS {
            all.push(self.session().await?);
        }
        let keyed: Vec<&Table> = tables.iter().copied().filter(|t| !t.key().is_empty()).collect();
        let doing = || digest::doing_all(&self.db, keyed.iter().copied());
        // For all of them in one question; statements only for the first.
        digest::key_parts(&mut all[0], &self.keys, &keyed)
            .await
            .map_err(|e| port_error(doing(), e))?;
        let soon = &keyed[..keyed.len().min(PREPARED)];
        let prepared = all.into_iter().map(async |mut warm| {
            digest::get_ready(&mut warm, &self.keys, soon)
                .await
                .map_err(|e| port_error(doing(), e))?;
            // The first use of a statement plans it.
            let nothing: Vec<Lookup<'_>> =
                soon.iter().map(|table| Lookup { table, keys: &[] }).collect();
            digest::keyed(&mut warm, &self.keys, &nothing)
                .await
                .map_err(|e| port_error(doing(), e))?;
            warm.prepared(FILES_MARK).await.map_err(|e| port_error(doing(), e))?;
            Ok::<_, PortError>(warm)
        });
        for warm in try_join_all(prepared).await? {
            self.idle.put(warm);
        }
        Ok(())
    }
}
