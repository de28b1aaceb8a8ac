//! Capture: publication, slot, snapshot, and the stream of changes.
//!
//! Slot, snapshots and stream are had on a standby where one is given (`standby`), everything else
//! on the database itself.
//!
//! A reader task turns the replication stream into events of committed transactions, keeps large
//! transactions in bounded memory, and answers the server while the consumer is slow. What
//! cannot be healed by trying again is a named stop (`stops`). Applies nothing.

mod assemble;
mod history;
mod inflight;
mod large;
mod left;
mod membership;
mod pace;
mod position;
mod publication;
mod queue;
mod reader;
mod slot;
mod standby;
mod stops;
mod stream;
mod visible;

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        inventory::Inventory,
        position::Position,
        run::RunId,
        schema::{Table, TableName},
        selection::Selection,
    },
    port::{
        Result,
        copy::Snapshot,
        source::{Capture, ChangeStream, Source},
    },
};

use self::history::Verdict;
pub(crate) use self::{
    left::Left,
    position::{LOG_END, end_in, message, place},
    standby::Follows,
};
use crate::{
    catalog,
    connect::{Session, port_error},
    database::Database,
    ddl,
    snapshot::PgSnapshot,
    sql::Names,
};

/// A non-transactional logical message of somebody else arrives as an `Event::Message` of its
/// own, outside of `Begin` and `Commit`; it moves no position.
#[async_trait]
impl Source for Database {
    async fn tables(&self, selection: &Selection) -> Result<Vec<Table>> {
        let warm = self.errand().await?;
        let tables = catalog::tables(&warm.session, selection).await?;
        self.put_back(warm);
        Ok(tables)
    }

    async fn definitions(&self, selection: &Selection) -> Result<Vec<Table>> {
        let warm = self.errand().await?;
        let tables = catalog::definitions(&warm.session, selection).await?;
        self.put_back(warm);
        Ok(tables)
    }

    async fn inventory(&self, selection: &Selection) -> Result<Inventory> {
        let warm = self.errand().await?;
        let inventory = catalog::inventory(&warm.session, selection).await?;
        self.put_back(warm);
        Ok(inventory)
    }

    async fn capture(&self, run: &RunId, tables: &[Table], with_snapshot: bool) -> Result<Capture> {
        let there = self.kept(run).await?;
        let definitions = self.watch_and_publish(run, tables, there.is_some()).await?;
        if let Some(start) = there {
            let since = self.since(run, tables).await?;
            return Ok(Capture { start, definitions, since, snapshot: None });
        }
        // Before the slot: whatever a snapshot has seen since is told from what was seen by nobody.
        let since = self.since(run, tables).await?;
        let Position::Postgres { timeline, .. } = self.log_end().await?;
        let created = self.create_slot(Names::of(run).slot(), false, with_snapshot).await?;
        let start = Position::Postgres { timeline, lsn: created.lsn };
        let snapshot = match created.snapshot {
            Some(name) => {
                let keeper = Box::new(created.keeper);
                let snapshot = PgSnapshot::import(self.reader_side(), &name, keeper).await?;
                Some(Box::new(snapshot) as Box<dyn Snapshot>)
            }
            None => None,
        };
        Ok(Capture { start, definitions, since, snapshot })
    }

    async fn resume(&self, run: &RunId, tables: &[Table]) -> Result<Option<Capture>> {
        let Some(start) = self.kept(run).await? else { return Ok(None) };
        let definitions = self.watch_and_publish(run, tables, true).await?;
        let since = self.since(run, tables).await?;
        Ok(Some(Capture { start, definitions, since, snapshot: None }))
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        if self.standby.is_some() {
            // What is opened in recovery does not say which transactions it contains; what comes
            // with a slot does.
            return Ok(self.snapshot_at_position().await?.1);
        }
        // In the middle of a failover nothing can be written.
        self.await_promotion(&*self.control().await?).await?;
        let snapshot = PgSnapshot::now(self).await?;
        // With this, all that it contains is on the disk: a server that fails would forget what did
        // not wait for it, and give the numbers of those transactions to others.
        self.emit_message("cutover", "snapshot").await?;
        Ok(Box::new(snapshot))
    }

    async fn snapshot_at_position(&self) -> Result<(Position, Box<dyn Snapshot>)> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Position::Postgres { timeline, .. } = self.log_end().await?;
        // Temporary: gone with the session that the snapshot keeps.
        let name = format!(
            "{}_{}_{}",
            Names::of(&self.run).base,
            process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let created = self.create_slot(&name, true, true).await?;
        let position = Position::Postgres { timeline, lsn: created.lsn };
        let snapshot = created.snapshot.unwrap_or_default();
        let keeper = Box::new(created.keeper);
        let snapshot = PgSnapshot::import(self.reader_side(), &snapshot, keeper).await?;
        Ok((position, Box::new(snapshot)))
    }

    async fn rebase(&self, position: &Position) -> Result<Position> {
        self.rebase_position(position).await
    }

    async fn contains(&self, position: &Position) -> Result<bool> {
        let (_, verdict) = self.look_back(position).await?;
        Ok(verdict == Verdict::Contained)
    }

    async fn stream(&self, run: &RunId, from: Option<&Position>) -> Result<Box<dyn ChangeStream>> {
        Ok(Box::new(self.open_stream(run, from, false).await?))
    }

    async fn watch(&self, run: &RunId, from: Option<&Position>) -> Result<Box<dyn ChangeStream>> {
        Ok(Box::new(self.open_stream(run, from, true).await?))
    }

    async fn head(&self) -> Result<Position> {
        self.log_end().await
    }

    async fn emit(&self, prefix: &str, content: &str) -> Result<Position> {
        self.emit_message(prefix, content).await
    }

    async fn begun_have_ended(&self, within: Duration) -> Result<bool> {
        self.wait_for_begun(within).await
    }

    async fn describe(&self, tables: &[TableName]) -> Result<Vec<u8>> {
        let warm = self.errand().await?;
        let doing = self.doing("reading definitions");
        let said = ddl::describe(&warm.session, tables, &doing).await?;
        self.put_back(warm);
        Ok(said.into_bytes())
    }

    async fn retained(&self, run: &RunId) -> Result<Option<u64>> {
        self.kept_log(run).await
    }

    async fn release(&self, run: &RunId) -> Result<()> {
        let warm = self.errand().await?;
        let doing = self.doing("forgetting changes of definitions");
        ddl::disarm(&warm.session, run, &doing).await?;
        self.reader_side().drop_slot(Names::of(run).slot()).await?;
        self.unpublish(&warm.session, run).await?;
        self.put_back(warm);
        Ok(())
    }
}

impl Database {
    /// Where the slot of the run was confirmed, when it is there.
    async fn kept(&self, run: &RunId) -> Result<Option<Position>> {
        self.refuse_standby(&*self.control().await?).await?;
        let Position::Postgres { timeline, .. } = self.log_end().await?;
        let reader = self.reader_side();
        self.standby_follows().await?;
        let (warm, names) = (reader.errand().await?, Names::of(run));
        reader.forget_unfinished(&warm.session, names.slot()).await?;
        let there = reader.slot(&warm.session, names.slot()).await?;
        reader.put_back(warm);
        Ok(there.map(|lsn| Position::Postgres { timeline, lsn }))
    }

    /// Everything of a capture but its slot; whether the stream will tell of every change of
    /// definitions.
    async fn watch_and_publish(&self, run: &RunId, tables: &[Table], kept: bool) -> Result<bool> {
        let warm = self.errand().await?;
        // Nothing that is defined from here on escapes, or had the chance to since the last time.
        let doing = self.doing("watching for changes of definitions");
        let before = ddl::armed(&warm.session, run, &doing).await?;
        let definitions = ddl::arm(&warm.session, run, &doing).await? && (before || !kept);
        self.put_back(warm);
        self.publish(run, tables, kept).await?;
        Ok(definitions)
    }

    /// A run does not begin on a standby.
    async fn refuse_standby(&self, session: &Session) -> Result<()> {
        let doing = self.doing("beginning to follow changes");
        if self.in_recovery(session).await? { Err(stops::standby(doing)) } else { Ok(()) }
    }

    /// In the middle of a failover the address may lead to a standby for a while.
    async fn await_promotion(&self, session: &Session) -> Result<()> {
        let doing = self.doing("opening the change stream");
        if self.in_recovery(session).await? { Err(stops::not_promoted(doing)) } else { Ok(()) }
    }

    pub(crate) async fn in_recovery(&self, session: &Session) -> Result<bool> {
        let row = session
            .query_one("SELECT pg_catalog.pg_is_in_recovery()", &[])
            .await
            .map_err(|e| port_error(self.doing("asking whether it is a standby"), e))?;
        Ok(row.get(0))
    }
}
