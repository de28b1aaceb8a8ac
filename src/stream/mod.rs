//! One direction of replication: source, then sink; the source is told to forget only what the
//! sink made durable.
//!
//! A [`Pipe`] runs in one of two modes. In [`Mode::Apply`] it writes what clients did on its
//! source. In [`Mode::Watch`] the other side owns the writes: everything of ours is left out by
//! the source already, so whatever still arrives was written by somebody who went around the
//! fence, and is an alarm. A move exchanges the modes of the two pipes; nothing else.
//!
//! A large transaction is applied while it is still in progress, beside the others (`early`), or
//! at its end (`large`).

mod batch;
mod config;
mod define;
mod early;
pub mod handover;
mod large;
mod older;
mod open;
mod parts;
mod pipe;
mod singly;
mod state;
mod witness;

use async_trait::async_trait;
use cutover_core::{
    model::{
        event::{Change, Relation, TransactionId},
        position::Position,
        schema::TableName,
        side::Side,
    },
    port::Result,
};

pub use config::PipeConfig;
pub use pipe::{HoldPoint, Pipe};
pub use state::{Health, Mode, PipeView};

/// Sees every row that a pipe carries; the verifier remembers the keys.
pub trait Witness: Send + Sync {
    /// The stream from `from` begins, now or again, behind `held`, as the other side stores it, which
    /// the source calls `named` by now. Up to where all of it was told before, if that is known.
    fn begins(
        &self,
        _from: Side,
        _held: Option<&Position>,
        _named: Option<&Position>,
    ) -> Option<Position> {
        None
    }

    /// Everything of `from` before this position was told; nobody has stored the position yet.
    fn passed(&self, _from: Side, _until: &Position) {}

    /// All rows that were told are on the other side, for everybody to see.
    fn applied(&self) {}

    /// A row changed on `from`; it is not applied yet. `foreign`: it was not supposed to change there.
    fn row(&self, from: Side, relation: &Relation, change: &Change, foreign: bool);

    /// A transaction changed this table on `from`, where nobody may write. Said before its rows are;
    /// they may not be there to be read yet.
    fn foreign(&self, _from: Side, _transaction: TransactionId, _relation: &Relation) {}

    /// A row changed on `from` in a transaction that is still in progress there. It counts when
    /// [`Witness::ended`] says so, and not before.
    fn early(&self, from: Side, transaction: TransactionId, relation: &Relation, change: &Change);

    /// That transaction commits, or does not, or will be seen again from its beginning.
    fn ended(&self, from: Side, transaction: TransactionId, committed: bool);

    /// A table was emptied on `from`.
    fn truncated(&self, from: Side, relation: &Relation, foreign: bool);
}

/// Knows whether a table is still defined as it was when the pipes were connected.
#[async_trait]
pub trait Definitions: Send + Sync {
    /// Asked when the stream announces another shape of a table than before.
    ///
    /// # Errors
    ///
    /// A definite error with a remedy when the definition has changed since: rows of the new shape
    /// must not be written into tables of the old one.
    async fn unchanged(&self, from: Side, table: &TableName) -> Result<()>;
}

/// What is done when definitions change on the side that owns the writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The stream stops right before the transaction.
    Stop,
    /// What is safe is made on the other side too, in its place; anything else stops the stream.
    Apply,
    /// The stream goes on as long as rows fit.
    Ignore,
}

/// Prefix of our own messages in a change log. The content of a marker is its token.
pub const MESSAGE_PREFIX: &str = "cutover";
