//! Digests of rows as they are now.

use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::{
    model::{
        digest::{Digest, RowDigest, RowKey},
        schema::Table,
    },
    port::{PortError, Result, copy::Range, reader::RowReader},
};

use futures_util::future::try_join_all;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::digest;
use crate::{
    connect::port_error,
    database::Database,
    shelf::{Shelf, Warm},
};

/// Sessions at most. One more would have to be opened inside the pause, which costs more than a
/// read of changed keys has to wait for its turn.
const SESSIONS: u32 = 2;

/// Reads digests outside of any snapshot: every statement sees what is committed when it begins.
///
/// Sessions stay open between uses and remember their prepared statements, so that inside the
/// pause nothing is connected or planned anew.
#[derive(Clone)]
pub struct LiveReader {
    db: Database,
    idle: Arc<Shelf>,
    turns: Arc<Semaphore>,
}

impl Database {
    /// A reader of rows as they are now. Keep it: its sessions stay open as long as it lives.
    #[must_use]
    pub fn reader(&self) -> LiveReader {
        let turns = Arc::new(Semaphore::new(SESSIONS as usize));
        LiveReader { db: self.clone(), idle: Arc::default(), turns }
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
        // would scan a table inside the pause.
        session
            .batch_execute(
                "SET jit = off; SET max_parallel_workers_per_gather = 0; \
                 SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off",
            )
            .await
            .map_err(|e| port_error(format!("opening a reader on {}", self.db.side), e))?;
        Ok(Warm::new(session))
    }
}

#[async_trait]
impl RowReader for LiveReader {
    async fn bucket_digests(
        &self,
        table: &Table,
        range: &Range,
        buckets: u32,
    ) -> Result<Vec<Digest>> {
        let _turn = self.turns(1).await;
        let mut warm = self.session().await?;
        let digests = digest::buckets(&mut warm, table, range, buckets)
            .await
            .map_err(|e| port_error(digest::doing(&self.db, table), e))?;
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

    async fn key_digests(&self, table: &Table, keys: &[RowKey]) -> Result<Vec<RowDigest>> {
        let _turn = self.turns(1).await;
        let mut warm = self.session().await?;
        let rows = digest::keyed(&mut warm, table, keys)
            .await
            .map_err(|e| port_error(digest::doing(&self.db, table), e))?;
        self.idle.put(warm);
        Ok(rows)
    }

    async fn get_ready(&self, tables: &[Table]) -> Result<()> {
        let _turns = self.turns(SESSIONS).await;
        let mut all = Vec::new();
        for _ in 0..SESSIONS {
            all.push(self.session().await?);
        }
        let prepared = all.into_iter().map(async |mut warm| {
            for table in tables.iter().filter(|t| !t.key().is_empty()) {
                digest::keyed(&mut warm, table, &[])
                    .await
                    .map_err(|e| port_error(digest::doing(&self.db, table), e))?;
            }
            Ok::<_, PortError>(warm)
        });
        for warm in try_join_all(prepared).await? {
            self.idle.put(warm);
        }
        Ok(())
    }
}
