//! Whether a server that is silent still works for us.
//!
//! A host that lost its power, a failover that moved the name, a balancer that forgot a
//! connection: none of them says goodbye. Keepalives find out only while nothing of ours is on its
//! way; otherwise Linux tries for a quarter of an hour (`tcp_retries2`), and with something alive
//! in between nobody finds out at all. A limit in time is no answer, since a statement may wait for
//! a lock, or build an index, for hours. So the server is asked in another session.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::worker::Worker;
use crate::database::Database;

/// After so many times what a login may take, silence is suspicious.
const SUSPICIOUS: u32 = 3;
/// The time between two questions about the same silence, in the same unit.
const AGAIN: u32 = 12;

/// What was last seen of a connection.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Bytes went in either direction.
    moved: Instant,
    /// Something was said that nothing was heard after.
    asked: bool,
}

impl Default for Pulse {
    fn default() -> Self {
        Self(Mutex::new(Seen { moved: Instant::now(), asked: false }))
    }
}

impl Pulse {
    pub(super) fn heard(&self) {
        self.set(false);
    }

    /// The system took bytes: while it does, the other end takes them too, or a buffer has room.
    pub(super) fn said(&self) {
        self.set(true);
    }

    fn set(&self, asked: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Seen { moved: Instant::now(), asked };
    }

    /// For how long an answer has been awaited without a sign of life.
    fn silent(&self) -> Option<Duration> {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.asked.then(|| seen.moved.elapsed())
    }
}

/// Ends once nobody works for a session any more. A server that cannot be asked is asked again.
pub(super) async fn stops(
    database: Database,
    worker: oneshot::Receiver<Arc<Worker>>,
    pulse: Arc<Pulse>,
) {
    let unit = database.config.connect_timeout;
    let Ok(worker) = worker.await else {
        // Nobody has the session.
        return pending().await;
    };
    loop {
        sleep(unit).await;
        if pulse.silent().is_none_or(|silent| silent < unit * SUSPICIOUS) {
            continue;
        }
        match timeout(unit, worker.lives(&database)).await {
            Ok(Some(false)) => return,
            Ok(Some(true)) => sleep(unit * (AGAIN - 1)).await,
            Ok(None) | Err(_) => {}
        }
    }
}
