//! What the plugin can say.

use bytes::Bytes;
use cutover_core::model::{event::Relation, value::Tuple};

/// Bytes that are not a message of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message {tag:?} is not understood at byte {at}: {what}")]
pub(crate) struct DecodeError {
    /// The kind of message.
    pub(crate) tag: char,
    /// Where in the message.
    pub(crate) at: usize,
    /// Why; never a value.
    pub(crate) what: &'static str,
}

/// The old row of an update or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Old {
    /// Identity columns only, the others are null.
    Key(Tuple),
    /// The whole row.
    Full(Tuple),
}

impl Old {
    /// The row, however much of it there is.
    pub(crate) fn into_tuple(self) -> Tuple {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

/// One message. Times are microseconds since 2000-01-01, positions are byte positions in the log.
/// Inside a streamed block, row messages also carry the (sub)transaction: see
/// [`decode`](super::decode).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    /// `B`: a committed transaction begins.
    Begin {
        /// Its top-level number.
        xid: u32,
        /// Time of its commit.
        committed_at: i64,
    },
    /// `C`: it ends.
    Commit {
        /// End of its commit record.
        end_lsn: u64,
    },
    /// `O`: the transaction came from elsewhere.
    Origin {
        /// Name of the replication origin.
        name: String,
    },
    /// `R`: shape of a table.
    Relation(Relation),
    /// `Y`: name of a type; of no use to us.
    Type,
    /// `I`
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple,
    },
    /// `U`
    Update {
        /// The table.
        relation: u32,
        /// The old identity or row, when it was sent.
        old: Option<Old>,
        /// The row.
        new: Tuple,
    },
    /// `D`
    Delete {
        /// The table.
        relation: u32,
        /// The old identity or row.
        old: Old,
    },
    /// `T`
    Truncate {
        /// The tables.
        relations: Vec<u32>,
        /// `CASCADE`.
        cascade: bool,
        /// `RESTART IDENTITY`.
        restart_identity: bool,
    },
    /// `M`: a message somebody wrote.
    Logical {
        /// Part of a transaction; otherwise it stands alone.
        transactional: bool,
        /// Its prefix.
        prefix: String,
        /// Its content.
        content: Bytes,
    },
    /// `S`: a piece of a transaction in progress begins.
    StreamStart {
        /// Its top-level number.
        xid: u32,
        /// Nothing of it was sent before.
        first: bool,
    },
    /// `E`: the piece ends.
    StreamStop,
    /// `c`: a transaction sent in pieces committed.
    StreamCommit {
        /// Its top-level number.
        xid: u32,
        /// End of its commit record.
        end_lsn: u64,
        /// Time of its commit.
        committed_at: i64,
    },
    /// `A`: (a part of) a transaction sent in pieces was rolled back.
    StreamAbort {
        /// Its top-level number.
        xid: u32,
        /// What was rolled back: a subtransaction, or `xid` itself for the whole.
        subxid: u32,
    },
    /// `b`, `P`, `K`, `r`, `p`: two-phase commit, which a slot of ours never sends.
    Prepared {
        /// Which one.
        tag: char,
    },
}
