//! Server processes that work for our sessions.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_postgres::Error;

use super::session::Session;
use crate::{database::Database, sql::HOLDS};

/// So many closed sessions are remembered.
const MANY: usize = 100;

/// A process, of a server that runs since then.
#[derive(Debug)]
pub(crate) struct Worker(String);

impl Worker {
    /// One row, one text: who answers.
    pub(super) const WHO: &str = "SELECT pg_backend_pid() || ' ' || pg_postmaster_start_time()";

    /// From the answer to that.
    pub(super) fn answered(who: String) -> Self {
        Self(who)
    }

    /// Whether the server that is there now still has it. None when it does not say. In a box,
    /// since it opens a session, and every session has a pulse.
    pub(super) fn lives<'a>(
        &'a self,
        database: &'a Database,
    ) -> Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>> {
        Box::pin(async {
            let session = database.session("pulse").await.ok()?;
            let question = "SELECT EXISTS (SELECT FROM pg_stat_activity \
                            WHERE pid || ' ' || pg_postmaster_start_time() = $1)";
            Some(session.query_one(question, &[&self.0]).await.ok()?.get(0))
        })
    }
}

/// Who worked for sessions that are closed on our side, the last first. A server may learn of that
/// only after a minute, and holds for as long what they held.
#[derive(Debug, Default)]
pub(crate) struct Left(Mutex<VecDeque<Arc<Worker>>>);

impl Left {
    pub(super) fn add(&self, worker: Arc<Worker>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.truncate(MANY - 1);
        all.push_front(worker);
    }

    /// Ends those of them that hold the advisory lock `key`; says whether there was one.
    pub(crate) async fn end_holder(&self, session: &Session, key: i64) -> Result<bool, Error> {
        let left: Vec<String> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|worker| worker.0.clone()).collect()
        };
        let end = format!(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE {HOLDS} \
             AND l.pid || ' ' || pg_postmaster_start_time() = ANY ($2)"
        );
        Ok(session.execute(&end, &[&key, &left]).await? > 0)
    }
}
