//! Capture: following a database's change log from a known point.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;

use super::{Result, copy::Snapshot};
use crate::model::{
    event::{Event, TransactionId},
    inventory::Inventory,
    position::Position,
    run::RunId,
    schema::{Table, TableName},
    selection::Selection,
};

/// A database whose changes can be captured.
///
/// Everything a source creates on the server carries the [`RunId`], so every method can be
/// repeated after a crash, and [`Source::release`] finds all of it.
#[async_trait]
pub trait Source: Send + Sync {
    /// Describes the selected tables as they are now: ordinary tables and leaf partitions.
    async fn tables(&self, selection: &Selection) -> Result<Vec<Table>>;

    /// The same where nobody asks for sizes, which may cost much to find out: `bytes` may be 0.
    async fn definitions(&self, selection: &Selection) -> Result<Vec<Table>> {
        self.tables(selection).await
    }

    /// What else the database has.
    async fn inventory(&self, selection: &Selection) -> Result<Inventory>;

    /// Starts retaining changes of `tables` (creates publication and slot).
    ///
    /// With `with_snapshot`, also opens a snapshot that contains exactly what committed before
    /// [`Capture::start`]: no gap and no overlap. When capture for `run` exists already it is kept
    /// and the snapshot is `None`: it cannot be reopened once its session is gone.
    async fn capture(&self, run: &RunId, tables: &[Table], with_snapshot: bool) -> Result<Capture>;

    /// Goes on retaining changes, of `tables` from here on, after [`Source::capture`] has succeeded
    /// once. `None` when what was retained is gone: it is not begun anew, since that would pass
    /// changes by.
    async fn resume(&self, run: &RunId, tables: &[Table]) -> Result<Option<Capture>>;

    /// Opens a snapshot of now, for copying tables again after a crash. Its
    /// [`Snapshot::visible`] says which streamed transactions it contains.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>>;

    /// Opens a snapshot together with its position: it contains exactly the transactions whose
    /// [`Event::Commit`] position is covered by the returned one. Leaves nothing on the server.
    async fn snapshot_at_position(&self) -> Result<(Position, Box<dyn Snapshot>)>;

    /// The same place in the history that the server has now. Differs from `position` only after
    /// a failover, and only when the server that took over holds everything up to there.
    ///
    /// # Errors
    ///
    /// Definite when the server's history parted before `position`: what the other side holds
    /// never happened here.
    async fn rebase(&self, position: &Position) -> Result<Position>;

    /// Whether the history of the server that answers now has this place: not when a server took
    /// over, or was restored, that had not received it.
    async fn contains(&self, position: &Position) -> Result<bool>;

    /// Streams changes after `from`, or after the last confirmed position when `None`.
    ///
    /// Transactions that a sink of this run wrote on this database are left out; they still move
    /// the position. Call [`Source::capture`] first, and [`Source::rebase`] for `from`.
    async fn stream(&self, run: &RunId, from: Option<&Position>) -> Result<Box<dyn ChangeStream>>;

    /// The same for a side that does not own the writes, where whatever arrives is an alarm. The
    /// server may leave out everything that was replicated to it, as long as nobody but this run
    /// replicates there; [`ChangeStream::vouch`] tells when that is over.
    async fn watch(&self, run: &RunId, from: Option<&Position>) -> Result<Box<dyn ChangeStream>> {
        self.stream(run, from).await
    }

    /// Where the log ends now.
    async fn head(&self) -> Result<Position>;

    /// Writes a message into the log so that it is durable when this returns, and returns a
    /// position that covers it. Also the heartbeat.
    async fn emit(&self, prefix: &str, content: &str) -> Result<Position>;

    /// Waits until every transaction that has begun so far has ended, at most `within`; whether
    /// they did. Afterwards everything that the log says is committed so far is visible as well:
    /// a commit is in the log before others can see its rows.
    async fn begun_have_ended(&self, within: Duration) -> Result<bool>;

    /// What these tables are like now, in the words of [`Event::Definition`].
    async fn describe(&self, tables: &[TableName]) -> Result<Vec<u8>>;

    /// Bytes of log that the server keeps for `run`, when it knows.
    async fn retained(&self, run: &RunId) -> Result<Option<u64>>;

    /// Removes everything [`Source::capture`] created. Idempotent.
    async fn release(&self, run: &RunId) -> Result<()>;
}

/// For each table that a stream carries, by name: a text that stays the same as long as the stream
/// carries every change of that table without a break. Up to its first colon it names what the
/// table is carried with, which others may be as well; up to the next one stands the table's number
/// (`Relation::id`), whatever name it has.
pub type Since = HashMap<TableName, String>;

/// Retention has begun.
pub struct Capture {
    /// The stream can start here.
    pub start: Position,
    /// Changes of definitions since the capture began are in the stream, each at its place as
    /// [`Event::Definition`]. `false` where watching statements is not allowed, or was interrupted.
    pub definitions: bool,
    /// Since when each table is carried; read before any snapshot that is opened later, the one
    /// below included.
    pub since: Since,
    /// The rows as of `start`; `None` when capture existed already or none was asked for.
    pub snapshot: Option<Box<dyn Snapshot>>,
}

/// An open stream of changes.
#[async_trait]
pub trait ChangeStream: Send {
    /// Appends at least one event to `out`, waiting if there is none. Appends what is in hand
    /// without waiting for more, up to a few MiB.
    ///
    /// Cancel-safe: when the future is dropped, no event is lost.
    async fn next(&mut self, out: &mut Vec<Event>) -> Result<()>;

    /// Tells the source that everything up to `durable` may be forgotten. Only ever called with a
    /// position that the sink returned. Cheap: it is sent by the stream's own timer or at once.
    fn confirm(&mut self, durable: &Position);

    /// Whether nothing was left out so far that [`Source::stream`] would have carried. Asked before
    /// a position is stored.
    ///
    /// # Errors
    ///
    /// Transient when something may have been: open the stream again where it was stored last.
    async fn vouch(&mut self) -> Result<()> {
        Ok(())
    }

    /// The changes of a large transaction, from its beginning. `None` when it is not known or was
    /// rolled back. One that committed is kept until a position behind it is confirmed.
    fn large(&mut self, transaction: TransactionId) -> Option<Box<dyn Large>>;
}

/// Reads the changes of one large transaction, also while more of them come.
#[async_trait]
pub trait Large: Send {
    /// Appends the next changes up to byte `until` (see [`Event::InProgress`]), each with its
    /// subtransaction (or the transaction itself), at most a few MiB; whether there were any.
    /// Subtransactions that are known to be rolled back are left out. No `Begin` and no `Commit`.
    async fn next(&mut self, until: u64, out: &mut Vec<(TransactionId, Event)>) -> Result<bool>;
}
