//! A database as the owner of writes: the fence, the counters, who is in the way.
//!
//! - `fence`: refusing writes from everyone but us, and the proof that it does.
//! - `counters`: sequences, read and moved in one round trip each.
//! - `activity`: open transactions.
//! - `fingerprint`: whether a definition of a table changed.
//! - `beside`: what is defined beside tables.
//!
//! Decides nothing about when: that is the move.

mod activity;
mod beside;
mod counters;
mod fence;
mod fingerprint;

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        counter::Counter,
        position::Position,
        run::RunId,
        schema::{Table, TableName},
        selection::Selection,
    },
    port::{
        Result,
        primary::{Fence, OpenTransaction, Primary},
    },
};

pub(crate) use self::activity::{Open, open, statement as open_statement};
use self::fence::Triggers;
pub(crate) use self::fence::is_fenced;
use crate::{connect::port_error, database::Database, shelf::Shelf};

/// What stays open between the calls of a move.
#[derive(Default)]
pub(crate) struct Kept {
    /// The session that moves the fence.
    fence: Shelf,
    /// Sessions for errands.
    pub(crate) errands: Shelf,
    /// The fence's epoch as this process knows it.
    epoch: Mutex<Option<i64>>,
    /// The session for sequences.
    counting: tokio::sync::Mutex<Option<counters::Counting>>,
    /// Which sequences belong to a selection.
    counters: Mutex<Option<counters::Plan>>,
    /// What sequences held when they were last read or moved.
    seen: counters::Seen,
    /// Who may keep the slot for us.
    pub(crate) left: crate::source::Left,
}

#[async_trait]
impl Primary for Database {
    async fn lay_fence(&self, run: &RunId, tables: &[Table]) -> Result<()> {
        fence::install(self, run, tables, Triggers::Asleep).await
    }

    async fn wake_fence(&self, run: &RunId) -> Result<()> {
        fence::wake(self, run).await
    }

    async fn install_fence(&self, run: &RunId, tables: &[Table]) -> Result<()> {
        fence::install(self, run, tables, Triggers::Awake).await
    }

    async fn close_to_clients(&self, run: &RunId, within: Duration) -> Result<()> {
        fence::close(self, run, within, None).await.map(drop)
    }

    async fn close_with_message(
        &self,
        run: &RunId,
        within: Duration,
        prefix: &str,
        content: &str,
    ) -> Result<Option<Position>> {
        fence::close(self, run, within, Some((prefix, content))).await.map(Some)
    }

    async fn open_to_clients(&self, run: &RunId) -> Result<()> {
        fence::open(self, run).await
    }

    async fn fence(&self, run: &RunId) -> Result<Fence> {
        fence::state(self, run).await
    }

    async fn remove_fence(&self, run: &RunId) -> Result<()> {
        fence::remove(self, run).await
    }

    async fn open_transactions(&self, run: &RunId) -> Result<Vec<OpenTransaction>> {
        activity::open_transactions(self, run).await
    }

    async fn counters(&self, selection: &Selection) -> Result<Vec<Counter>> {
        counters::read(self, selection).await
    }

    async fn unfollowed(&self) -> Result<u64> {
        let doing = format!("counting the large objects of {}", self.side);
        let mut warm = self.errand().await?;
        let ask = async {
            let count = "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata";
            let statement = warm.prepared(count).await?;
            warm.session.query_one(&statement, &[]).await
        };
        let row = ask.await.map_err(|e| port_error(doing, e))?;
        self.put_back(warm);
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    async fn advance(&self, counters: &[Counter]) -> Result<()> {
        counters::advance(self, counters).await
    }

    async fn get_ready_to_advance(&self, counters: &[Counter]) -> Result<Vec<TableName>> {
        counters::get_ready(self, counters).await
    }

    async fn fingerprint(&self, selection: &Selection) -> Result<BTreeMap<String, String>> {
        let warm = self.errand().await?;
        let texts = fingerprint::read(&warm.session, selection).await?;
        self.put_back(warm);
        Ok(texts)
    }

    async fn definitions_mark(&self, since: Option<&str>) -> Result<Option<String>> {
        let mut warm = self.errand().await?;
        let mark = fingerprint::mark(&mut warm, since).await?;
        self.put_back(warm);
        Ok(Some(mark))
    }

    async fn beside(&self, selection: &Selection) -> Result<BTreeMap<String, String>> {
        let warm = self.errand().await?;
        let texts = beside::read(&warm.session, selection).await?;
        self.put_back(warm);
        Ok(texts)
    }

    async fn round_trip(&self) -> Result<Duration> {
        let warm = self.errand().await?;
        let begun = Instant::now();
        warm.session
            .batch_execute("")
            .await
            .map_err(|e| port_error(format!("measuring the round trip to {}", self.side), e))?;
        let took = begun.elapsed();
        self.put_back(warm);
        Ok(took)
    }

    async fn warm_up(&self) -> Result<()> {
        fence::warm_up(self).await?;
        // Markers and positions are asked for through it.
        self.control().await?;
        let warm = self.errand().await?;
        self.put_back(warm);
        counters::warm_up(self).await?;
        self.unfollowed().await.map(drop)
    }
}
