//! The lease: an advisory lock that ends with its session.

use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{
    model::run::RunId,
    port::{PortError, Result, sink::Lease},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    refusal,
    setup::{self, PAUSE},
};
use crate::{
    connect::{Session, port_error},
    database::Database,
    sql::Names,
};

/// How long a server may take to prove that a session lives, and to end one.
const HEARTBEAT: Duration = Duration::from_secs(10);

pub(super) struct Held {
    pub(super) database: Database,
    pub(super) run: RunId,
    /// None while it is not back.
    pub(super) session: Option<Session>,
}

#[async_trait]
impl Lease for Held {
    async fn keep(&mut self) -> Result<()> {
        if let Some(session) = &self.session
            && matches!(timeout(HEARTBEAT, session.batch_execute("SELECT 1")).await, Ok(Ok(())))
        {
            return Ok(());
        }
        // No answer is no proof; and our own session must not be in our way.
        self.session = None;
        self.session = Some(take(&self.database, &self.run).await?);
        Ok(())
    }
}

/// A session that holds the lease. One of ours that the server has not missed yet is ended.
pub(super) async fn take(database: &Database, run: &RunId) -> Result<Session> {
    let key = Names::of(run).lease_key();
    let doing = || format!("taking the lease of run {run} on {}", database.side);
    let failed = |e| port_error(doing(), e);
    let session = database.session("lease").await?;
    let deadline = Instant::now() + HEARTBEAT;
    while !setup::try_lock(&session, key).await.map_err(failed)? {
        let ours = session.left().end_holder(&session, key).await.map_err(failed)?;
        let holder = setup::holder(&session, key).await.map_err(failed)?;
        // Nobody by now: it was ours, and has just ended.
        if (!ours && holder.is_some()) || Instant::now() > deadline {
            let holder = holder.unwrap_or_else(|| "a session that has just ended".to_owned());
            return Err(PortError::definite(
                refusal::LEASE_HELD,
                doing(),
                format!("another process works on this run: {holder}"),
                "use that process (`cutover status`), or stop it first; when it is dead already, \
                 end its session with SELECT pg_terminate_backend(pid)",
            ));
        }
        sleep(PAUSE).await;
    }
    Ok(session)
}
