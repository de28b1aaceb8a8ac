//! The second writer: one transaction while it is still in progress on the source.
//!
//! A session and an origin of its own; the rows go the way of the writer. Nobody on the server
//! has to wait for it for longer than a second: what it holds is held for a transaction of which
//! nobody knows when it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        event::{Event, TransactionId},
        position::Position,
    },
    port::{
        PortError, Result,
        sink::{EarlyWriter, Route},
    },
};
use tokio::{task::JoinHandle, time::sleep};

use super::{setup, writer::Writer};
use crate::{connect::port_error, database::Database, sql::Names};

/// How often it is asked whether somebody waits.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Early {
    pub(super) writer: Writer,
    database: Database,
    names: Names,
    pid: i32,
    /// A transaction is open.
    open: Arc<AtomicBool>,
    watch: JoinHandle<()>,
}

impl Early {
    /// Opens it beside the writer of the run.
    pub(super) async fn open(
        database: &Database,
        at: &str,
        names: &Names,
        routes: &[Route],
    ) -> Result<Self> {
        let session = database.session("early").await?;
        let pid = setup::become_early(&session, at, names).await?;
        let writer =
            Writer::new(database.clone(), session, at.to_owned(), names.clone(), routes).await?;
        // Where it cannot be seen who waits, nothing is written early.
        waited_for(database, names).await?;
        let open = Arc::new(AtomicBool::new(false));
        let watch = tokio::spawn(watch(database.clone(), names.clone(), Arc::clone(&open)));
        Ok(Self { writer, database: database.clone(), names: names.clone(), pid, open, watch })
    }
}

/// Ends the early writer's session when somebody waits for it; whether it did.
async fn waited_for(database: &Database, names: &Names) -> Result<bool> {
    let control = database.control().await?;
    let ended = setup::end_early_when_waited_for(&control, names).await;
    ended.map_err(|e| port_error(format!("looking for who waits on {}", database.side()), e))
}

async fn watch(database: Database, names: Names, open: Arc<AtomicBool>) {
    let mut blind = false;
    loop {
        sleep(LOOK_EVERY).await;
        if !open.load(Ordering::Acquire) {
            continue;
        }
        match waited_for(&database, &names).await {
            Ok(false) => blind = false,
            Ok(true) => {
                tracing::info!(side = %database.side(),
                    "others wait for a transaction in progress: it will be applied at its end");
            }
            Err(e) => {
                if !std::mem::replace(&mut blind, true) {
                    tracing::warn!(error = %e, "it cannot be seen who waits");
                }
            }
        }
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        self.watch.abort();
        if !self.open.load(Ordering::Acquire) {
            return;
        }
        // The server notices that the session is gone when its statement ends, which may wait.
        let (database, names, pid) = (self.database.clone(), self.names.clone(), self.pid);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let Ok(control) = database.control().await else { return };
                if let Err(e) = setup::end_early(&control, &names, Some(pid)).await {
                    tracing::debug!(error = %e, "a session could not be ended");
                }
            });
        }
    }
}

#[async_trait]
impl EarlyWriter for Early {
    async fn write(&mut self, transaction: TransactionId, events: &[Event]) -> Result<()> {
        self.open.store(true, Ordering::Release);
        if self.writer.open.is_none() {
            let begin = Event::Begin { transaction, committed_at: 0 };
            self.writer.apply_early(&[begin]).await?;
        }
        if events.is_empty() { Ok(()) } else { self.writer.apply_early(events).await }
    }

    async fn mark(&mut self, part: TransactionId) -> Result<()> {
        self.writer.command(&format!("SAVEPOINT part_{part}")).await
    }

    async fn take_back(&mut self, part: Option<TransactionId>) -> Result<()> {
        match part {
            Some(part) => {
                let text =
                    format!("ROLLBACK TO SAVEPOINT part_{part}; RELEASE SAVEPOINT part_{part}");
                self.writer.command(&text).await
            }
            None => {
                self.writer.command("ROLLBACK").await?;
                self.writer.open = None;
                self.open.store(false, Ordering::Release);
                Ok(())
            }
        }
    }

    async fn commit(&mut self, position: &Position) -> Result<bool> {
        if let Err(e) = self.writer.store_early(position).await {
            tracing::info!(error = %e, "a transaction in progress is gone at its end");
            return Ok(false);
        }
        // From here on nobody knows before the server answers.
        self.writer.command("COMMIT").await?;
        self.writer.open = None;
        self.writer.progress.flushed(position.clone());
        self.open.store(false, Ordering::Release);
        Ok(true)
    }
}

impl Writer {
    async fn apply_early(&mut self, events: &[Event]) -> Result<()> {
        use cutover_core::port::sink::SinkWriter as _;
        match self.apply(events).await? {
            None => Ok(()),
            Some(_) => Err(PortError::transient("writing early", "the transaction has ended")),
        }
    }

    /// Stores the position in the transaction that is open.
    async fn store_early(&mut self, position: &Position) -> Result<()> {
        let text = setup::position_text(position)?;
        let rows = self
            .session
            .execute_raw(&self.store, [text])
            .await
            .map_err(|e| setup::progress_error(&self.at, e))?;
        if rows == 1 { Ok(()) } else { Err(setup::not_prepared(&self.at)) }
    }
}
