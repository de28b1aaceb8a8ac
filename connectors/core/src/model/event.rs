//! What a change stream says.

use std::sync::Arc;

use bytes::Bytes;

use super::{position::Position, schema::TableName, value::Tuple};

/// Identifier of a source transaction: PostgreSQL's top-level xid (32 bits, without epoch).
pub type TransactionId = u32;

/// The shape of a table at one point of the stream, as the stream itself announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The source's own number of the table.
    pub id: u32,
    /// Its name.
    pub name: TableName,
    /// Its columns in the order of the tuples.
    pub columns: Vec<RelationColumn>,
    /// Whether old rows travel whole (`REPLICA IDENTITY FULL`).
    pub full_identity: bool,
}

/// One column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Case-exact name.
    pub name: String,
    /// Whether it is part of the row identity.
    pub key: bool,
    /// The source's number of the type.
    pub type_id: u32,
    /// The source's type modifier, -1 for none.
    pub type_modifier: i32,
}

/// What happened to one row.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new row.
    Insert {
        /// The row; never holds `Unchanged`.
        new: Tuple,
    },
    /// A changed row.
    Update {
        /// The row's old identity when it changed, or the whole old row with full identity.
        /// `None`: the key did not change. Columns outside of the identity are `Null` in a
        /// key-only image and mean nothing.
        old: Option<Tuple>,
        /// The row after; unchanged out-of-line values are `Unchanged`.
        new: Tuple,
    },
    /// A removed row.
    Delete {
        /// Its identity (other columns mean nothing), or the whole row with full identity.
        old: Tuple,
    },
}

impl Change {
    /// Bytes of memory held by the change, for budgets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Insert { new } => new.bytes(),
            Self::Update { old, new } => new.bytes() + old.as_ref().map_or(0, Tuple::bytes),
            Self::Delete { old } => old.bytes(),
        }
    }
}

/// One thing a stream says, in commit order. Rows of aborted work never appear.
#[derive(Debug, Clone)]
pub enum Event {
    /// A committed transaction begins.
    Begin {
        /// Its identifier, for the handover from copied rows.
        transaction: TransactionId,
        /// When it committed on the source: microseconds since 1970-01-01 UTC.
        committed_at: i64,
    },
    /// One row changed.
    Row {
        /// Its table as of this change. The same table is the same `Arc` until its shape changes.
        relation: Arc<Relation>,
        /// What happened.
        change: Change,
    },
    /// Tables were emptied.
    Truncate {
        /// Tables of the statement.
        relations: Vec<Arc<Relation>>,
        /// Others of the statement hold rows of a later time already, and are not to be emptied.
        others: bool,
        /// `CASCADE` was given.
        cascade: bool,
        /// `RESTART IDENTITY` was given.
        restart_identity: bool,
    },
    /// Definitions changed at this place of its transaction. Only where the source was allowed to
    /// watch statements; elsewhere another [`Relation`] tells of it.
    Definition {
        /// What the source says about it, for a sink of the same engine.
        content: Bytes,
    },
    /// A message somebody (often we ourselves: markers, heartbeats) put into the log.
    Message {
        /// Its prefix.
        prefix: String,
        /// Its content.
        content: Bytes,
    },
    /// Stands for all rows of its transaction, between `Begin` and `Commit`: there are too many,
    /// and they are read from [`ChangeStream::large`](crate::port::source::ChangeStream::large).
    Large {
        /// Its identifier.
        transaction: TransactionId,
    },
    /// Changes of a transaction that is still in progress can be read from
    /// [`ChangeStream::large`](crate::port::source::ChangeStream::large). They rest on nothing but
    /// the transactions that ended before this event. Stands between transactions.
    InProgress {
        /// Its identifier.
        transaction: TransactionId,
        /// How many bytes of it there are so far.
        kept: u64,
    },
    /// A transaction in progress, or one of its subtransactions, was rolled back: from here on
    /// others may change the same rows. Stands between transactions.
    RolledBack {
        /// The transaction.
        transaction: TransactionId,
        /// The subtransaction, or the transaction again when all of it was rolled back.
        part: TransactionId,
    },
    /// The transaction ends here.
    Commit {
        /// End of its commit record: what the sink stores.
        position: Position,
    },
    /// Nothing is in flight and the log has been read up to here without an event for us.
    Idle {
        /// Up to where.
        position: Position,
    },
}

impl Event {
    /// Bytes of memory held by the event, for budgets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Row { change, .. } => change.bytes(),
                Self::Definition { content } | Self::Message { content, .. } => content.len(),
                _ => 0,
            }
    }
}
