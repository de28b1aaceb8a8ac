//! Writing rows: the initial copy and the stream.

use async_trait::async_trait;

use super::{
    Result,
    copy::{CopyFormat, CopyStream},
};
use crate::model::{
    digest::RowKey,
    event::{Event, TransactionId},
    position::Position,
    run::RunId,
    schema::{Table, TableName},
    selection::Selection,
};

/// Where the rows of one source table go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The source table as the stream names it.
    pub source: TableName,
    /// The table on this side.
    pub target: Table,
}

/// A partition that came into being in the stream, empty: all its rows are behind that place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Born {
    /// The partition on the source.
    pub source: TableName,
    /// Where its rows go.
    pub target: TableName,
    /// See [`crate::port::source::Since`].
    pub since: String,
}

/// A range of a table's key that was copied as of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub number: u32,
    /// Which transactions it contains: [`crate::port::copy::Snapshot::visible`].
    pub snapshot: String,
}

/// A part that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartThere {
    /// Which.
    pub part: Part,
    /// How many rows were written.
    pub rows: u64,
}

/// What a change of definitions on the source means for a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redefined {
    /// It concerns nothing that the run follows.
    Unconcerned,
    /// This side is like that already.
    Alike {
        /// The statement's tag and the objects.
        what: String,
        /// Followed tables whose rows may have another shape from here on.
        tables: Vec<TableName>,
        /// Partitions whose rows need no copy.
        born: Vec<Born>,
    },
    /// It was made here as well, in the transaction that is open.
    Made {
        /// The statement's tag and what was made.
        what: String,
        /// Followed tables whose rows may have another shape from here on.
        tables: Vec<TableName>,
        /// Partitions whose rows need no copy.
        born: Vec<Born>,
    },
    /// Tables with rows become partitions of a followed table, and have not been followed
    /// themselves. Their rows have to be copied before the stream goes on.
    Unfollowed {
        /// The statement's tag and the objects.
        what: String,
        /// What is different here as well; empty when nothing is.
        why: String,
        /// Followed tables that it is about.
        tables: Vec<TableName>,
        /// The tables that have not been followed, or are not here.
        leaves: Vec<TableName>,
    },
    /// Tables are new on the source. None of their rows is in the stream yet.
    New {
        /// The statement's tag and the objects.
        what: String,
    },
    /// This side is not like that.
    Differs {
        /// The statement's tag and the objects.
        what: String,
        /// What is different here.
        why: String,
        /// Followed tables that it is about.
        tables: Vec<TableName>,
    },
}

/// A database or log that accepts copied rows and streamed changes.
///
/// The sink owns the answer to "how far are we": progress is stored with the data.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Creates what the sink needs on the server before rows come (its schema with the progress
    /// table, the replication origin). Idempotent.
    async fn prepare(&self, run: &RunId) -> Result<()>;

    /// Formats of [`Sink::copy`] in order of preference.
    fn copy_formats(&self) -> &[CopyFormat];

    /// Empties a table before it is copied again. Only ever called for tables that the journal
    /// says were not finished, and only on the side that does not own the writes.
    async fn clear(&self, run: &RunId, table: &Table) -> Result<()>;

    /// Whether parts of this table may be copied under several snapshots: nothing here but a key with
    /// this column says that rows of two ranges of it cannot be there together.
    async fn takes_parts(&self, _table: &Table, _column: &str) -> Result<bool> {
        Ok(false)
    }

    /// The parts of a table that are there, exactly: whoever wrote some before has ended. None of
    /// a table that was emptied or made anew since.
    async fn parts(&self, _run: &RunId, _table: &Table) -> Result<Vec<PartThere>> {
        Ok(Vec::new())
    }

    /// Opens a bulk load.
    async fn load(&self, run: &RunId) -> Result<Box<dyn Load>>;

    /// A bulk load of one table or a part of it: durable when it returns.
    async fn copy(
        &self,
        run: &RunId,
        table: &Table,
        format: CopyFormat,
        rows: Box<dyn CopyStream>,
    ) -> Result<u64> {
        let load = self.load(run).await?;
        let written = load.copy(table, format, rows, None).await?;
        load.flush().await?;
        Ok(written)
    }

    /// Opens the single writer of streamed changes for `run`.
    ///
    /// # Errors
    ///
    /// Definite when another process holds the writer of this run (the lease).
    async fn writer(&self, run: &RunId, routes: &[Route]) -> Result<Box<dyn SinkWriter>>;

    /// Takes the lease of the run on this server: a session that holds it until dropped.
    ///
    /// # Errors
    ///
    /// Definite `CUT0501` when another process holds it.
    async fn lease(&self, run: &RunId) -> Result<Box<dyn Lease>>;

    /// Removes everything the run created on this side through the sink. Idempotent.
    async fn release(&self, run: &RunId) -> Result<()>;
}

/// Rows of the initial copy, by any number of tasks at a time.
#[async_trait]
pub trait Load: Send + Sync {
    /// Writes rows in one transaction and returns their number. When it fails nothing was written.
    /// They are committed, but durable only after [`Load::flush`]. With `part`, that it is there is
    /// part of the transaction: [`Sink::parts`].
    async fn copy(
        &self,
        table: &Table,
        format: CopyFormat,
        rows: Box<dyn CopyStream>,
        part: Option<&Part>,
    ) -> Result<u64>;

    /// Makes durable whatever was written to the target before this call. Returns a place in the
    /// target's own log behind it, which a server that takes over from this one has exactly if it
    /// has all of that; `None` when the target keeps no log.
    ///
    /// # Errors
    ///
    /// It is not known to be durable; so is everything that was copied since the last flush.
    async fn flush(&self) -> Result<Option<Position>>;
}

/// Proof that this process is the only one that works on a run. Dropping it gives it back.
#[async_trait]
pub trait Lease: Send + Sync {
    /// Holds it on, in a new session where the one before it is lost.
    ///
    /// # Errors
    ///
    /// Definite `CUT0501` when another process has it, transient while nobody can say.
    async fn keep(&mut self) -> Result<()>;
}

/// The one writer of a run on one side.
///
/// Strict: one row expected, one row touched, else a definite error that names table and
/// position, and nothing of the batch is written.
#[async_trait]
pub trait SinkWriter: Send {
    /// Position up to which changes are applied, read from the sink itself, and durable when this
    /// returns; `None` when nothing was ever applied.
    async fn progress(&mut self) -> Result<Option<Position>>;

    /// Applies events in order: whole transactions, except that one transaction above the batch
    /// budget comes in several calls; then the sink keeps its own transaction open until the
    /// `Commit` arrives. `Message` and `Idle` events write no row, but the position of their
    /// commit is stored with the next write or by [`SinkWriter::store`].
    ///
    /// Returns the position that is durable now; `None` while a transaction is open.
    ///
    /// # Errors
    ///
    /// After any error the writer must be dropped and opened again; [`SinkWriter::progress`] of
    /// the new one says what was applied.
    async fn apply(&mut self, events: &[Event]) -> Result<Option<Position>>;

    /// As [`SinkWriter::apply`], but what it writes becomes durable a little later, so that nobody
    /// waits for a disk: others see it at once, and a server that crashes before forgets it as a
    /// whole, together with its position. It is durable after the next [`SinkWriter::apply`],
    /// [`SinkWriter::store`] or [`SinkWriter::flush`]; while calls go on, after a tenth of a
    /// second.
    ///
    /// Returns the position that is durable now, which may be of an earlier call.
    ///
    /// # Errors
    ///
    /// As [`SinkWriter::apply`].
    async fn apply_soon(&mut self, events: &[Event]) -> Result<Option<Position>> {
        self.apply(events).await
    }

    /// Makes everything durable that was applied. Only called between transactions. Returns up to
    /// where that is.
    ///
    /// # Errors
    ///
    /// As [`SinkWriter::apply`].
    async fn flush(&mut self) -> Result<Option<Position>>;

    /// Looks at what [`Event::Definition`] says; with `make`, makes here what is safe, in the
    /// transaction that the events before it have opened. With `now`, what the source said of the
    /// same tables later, differences do not count that are none any more. The writer knows the new
    /// shapes afterwards. Only called between the events before and behind it.
    ///
    /// # Errors
    ///
    /// Definite when this side cannot make what it should; as after any error, the writer must be
    /// opened again.
    async fn redefine(
        &mut self,
        content: &[u8],
        now: Option<&[u8]>,
        selection: &Selection,
        make: bool,
    ) -> Result<Redefined>;

    /// Stores a position without rows, so that the source can forget an idle stretch of log.
    async fn store(&mut self, position: &Position) -> Result<()>;

    /// Stores the name that the place of [`SinkWriter::progress`] has in the history that the
    /// source has now, as [`crate::port::source::Source::rebase`] gave it. Only called before the
    /// first events.
    ///
    /// # Errors
    ///
    /// Definite when it is another place.
    async fn rebase(&mut self, position: &Position) -> Result<()>;

    /// Repair: removes the rows with these keys and writes `rows` instead, in one transaction.
    /// With `None` the whole table is replaced. Marked as ours like everything the writer does.
    /// Only called between transactions, while the stream stands still. Returns rows written.
    async fn replace(
        &mut self,
        table: &Table,
        keys: Option<&[RowKey]>,
        format: CopyFormat,
        rows: Box<dyn CopyStream>,
    ) -> Result<u64>;

    /// Opens a second writer beside this one, for transactions that are still in progress on the
    /// source; one at a time. `None` where there can be none: then they are applied at their end.
    ///
    /// # Errors
    ///
    /// It cannot be opened now; this writer can be used all the same.
    async fn early(&mut self) -> Result<Option<Box<dyn EarlyWriter>>>;
}

/// Writes one transaction of the source while it is still in progress there.
///
/// Nothing of it can be seen before [`EarlyWriter::commit`]. It yields: when anybody on the server
/// waits for what it holds for longer than a second, it is rolled back by itself, and every later
/// call fails. Dropping it rolls back as well, and ends its session even when a statement is
/// running.
#[async_trait]
pub trait EarlyWriter: Send {
    /// Writes changes of `transaction`, in order; the first call begins it.
    ///
    /// # Errors
    ///
    /// Whatever keeps a row from being written as expected, this early. Afterwards the writer must
    /// be dropped.
    async fn write(&mut self, transaction: TransactionId, events: &[Event]) -> Result<()>;

    /// Marks the place from which on changes belong to a subtransaction.
    ///
    /// # Errors
    ///
    /// As for [`EarlyWriter::write`].
    async fn mark(&mut self, part: TransactionId) -> Result<()>;

    /// Takes back everything since [`EarlyWriter::mark`], or the whole transaction for `None`.
    ///
    /// # Errors
    ///
    /// As for [`EarlyWriter::write`].
    async fn take_back(&mut self, part: Option<TransactionId>) -> Result<()>;

    /// Commits the transaction together with `position`. `false` when that was not even tried,
    /// because the transaction is gone: then it is rolled back for certain.
    ///
    /// # Errors
    ///
    /// It is not known whether it was committed: the writer of the run must be opened again.
    async fn commit(&mut self, position: &Position) -> Result<bool>;
}
