//! What a move needs from a database beyond rows and changes: the fence and the counters.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Result;
use crate::model::{
    counter::Counter,
    position::Position,
    run::RunId,
    schema::{Table, TableName},
    selection::Selection,
};

/// State of the fence as the database itself says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fence {
    /// Clients may write every table of the run.
    Open,
    /// Nobody but us can write any table of the run.
    Closed,
    /// Some tables are closed and some are open.
    Partial,
}

/// Something that would make the fence wait: an open transaction that has written or may write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenTransaction {
    /// Backend process, or the name of a prepared transaction.
    pub who: String,
    /// `application_name`, for messages.
    pub application: String,
    /// Seconds since it began.
    pub age_seconds: f64,
    /// Whether it holds a lock on a table of the run that closing the fence waits for: it may have
    /// written.
    pub blocks_fence: bool,
    /// Whether it holds a lock on a table of the run whose fence sleeps, so that
    /// [`Primary::wake_fence`] would wait for it, before anybody is paused.
    #[serde(default)]
    pub blocks_waking: bool,
    /// Whether it is a prepared (two-phase) transaction.
    pub prepared: bool,
}

/// From this age on a transaction is not one of the short ones.
const SLOW_SECONDS: f64 = 2.0;

/// From this age on nobody can tell when a prepared transaction ends. One that was prepared just
/// now is in the hands of its transaction manager.
pub const FORGOTTEN_SECONDS: f64 = 1.0;

impl OpenTransaction {
    /// Whether nobody can tell when it ends.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.prepared && self.age_seconds >= FORGOTTEN_SECONDS
    }

    /// Whether a move of the writes from its database is refused as long as it is open.
    #[must_use]
    pub fn stops_moves(&self) -> bool {
        let blocks = self.blocks_fence || self.blocks_waking;
        let slow = blocks && self.age_seconds >= SLOW_SECONDS;
        if self.prepared { self.is_forgotten() } else { slow }
    }
}

/// A database as the owner of writes.
#[async_trait]
pub trait Primary: Send + Sync {
    /// Brings everything that the fence is made of into place, asleep: clients pay nothing for it.
    /// Idempotent; adds tables that are new, leaves others free again, and leaves awake what is
    /// awake.
    async fn lay_fence(&self, run: &RunId, tables: &[Table]) -> Result<()>;

    /// Wakes what [`Primary::lay_fence`] laid, ahead of the move, so that closing is one fast
    /// statement. From then on every writing statement of a client costs a little more.
    /// Idempotent.
    ///
    /// # Errors
    ///
    /// Definite when a table is in use for too long by somebody who must not be disturbed.
    async fn wake_fence(&self, run: &RunId) -> Result<()>;

    /// Lays the fence and wakes it. Idempotent; adds tables that are new.
    ///
    /// # Errors
    ///
    /// As [`Primary::wake_fence`].
    async fn install_fence(&self, run: &RunId, tables: &[Table]) -> Result<()>;

    /// Refuses writes from everyone but us, whatever path they take: direct sessions, open
    /// transactions, superusers, sessions in replica role. Waits for writers in flight, at most
    /// `within`. When it returns `Ok`, nothing but us can commit a write to a table of the run;
    /// when it returns an error the fence is as open as before. Idempotent.
    async fn close_to_clients(&self, run: &RunId, within: Duration) -> Result<()>;

    /// [`Primary::close_to_clients`], with a message for whoever reads the log (see
    /// [`Source::emit`](super::source::Source::emit)) in the same commit. A position that covers
    /// all that others have written; it may lie behind the message. `None`: nobody knows whether
    /// there is such a message.
    ///
    /// # Errors
    ///
    /// As [`Primary::close_to_clients`].
    async fn close_with_message(
        &self,
        run: &RunId,
        within: Duration,
        _prefix: &str,
        _content: &str,
    ) -> Result<Option<Position>> {
        self.close_to_clients(run, within).await?;
        Ok(None)
    }

    /// Takes [`Primary::close_to_clients`] back; never waits for readers. Idempotent.
    async fn open_to_clients(&self, run: &RunId) -> Result<()>;

    /// Asks the database for the state of the fence.
    async fn fence(&self, run: &RunId) -> Result<Fence>;

    /// Removes the fence and all it needs. Idempotent.
    async fn remove_fence(&self, run: &RunId) -> Result<()>;

    /// Transactions that are open now, oldest first.
    async fn open_transactions(&self, run: &RunId) -> Result<Vec<OpenTransaction>>;

    /// State of every sequence that belongs to the selection.
    async fn counters(&self, selection: &Selection) -> Result<Vec<Counter>>;

    /// How many things clients have written that no change log carries and that would be lost
    /// (PostgreSQL: large objects).
    async fn unfollowed(&self) -> Result<u64> {
        Ok(0)
    }

    /// Moves every counter to at least the given state, in one round trip. Backwards only where it
    /// still is as it was last read or set through this port: nobody has used it since.
    async fn advance(&self, counters: &[Counter]) -> Result<()>;

    /// Does ahead what [`Primary::advance`] does before it moves these counters; moves none, and
    /// does not count as reading them. Those that would stay ahead of the given state.
    async fn get_ready_to_advance(&self, _counters: &[Counter]) -> Result<Vec<TableName>> {
        Ok(Vec::new())
    }

    /// A text that changes when the definition of a table of the run changes (columns, types,
    /// identity, partitions, tables that appear or disappear); the map is from table to text.
    async fn fingerprint(
        &self,
        selection: &Selection,
    ) -> Result<std::collections::BTreeMap<String, String>>;

    /// A text that is not `since`, that of an earlier look, when the
    /// [fingerprint](Primary::fingerprint) changed in between, and sometimes without need; cheap
    /// enough for a pause. Without `since`, one to begin with. `None` where there is no such thing.
    async fn definitions_mark(&self, _since: Option<&str>) -> Result<Option<String>> {
        Ok(None)
    }

    /// A text per object beside tables (functions, triggers, policies, views, grants and so on), by
    /// kind and name, that changes with its definition. An `@` in it says what rendered it: of texts
    /// with the same behind it, or with none, those of one definition are equal on all databases.
    async fn beside(
        &self,
        _selection: &Selection,
    ) -> Result<std::collections::BTreeMap<String, String>> {
        Ok(std::collections::BTreeMap::new())
    }

    /// One empty round trip, for the pause estimate.
    async fn round_trip(&self) -> Result<Duration>;

    /// Opens the sessions a move needs ahead of the pause.
    async fn warm_up(&self) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_a_move() {
        for (age_seconds, blocks_fence, blocks_waking, prepared, want) in [
            (1.9, true, true, false, false),
            (2.0, true, false, false, true),
            (2.0, false, true, false, true),
            (60.0, false, false, false, false),
            (0.9, true, true, true, false),
            (1.0, false, false, true, true),
        ] {
            let open = OpenTransaction {
                who: "7".into(),
                application: "web".into(),
                age_seconds,
                blocks_fence,
                blocks_waking,
                prepared,
            };
            assert_eq!(open.stops_moves(), want, "{open:?}");
        }
    }
}
