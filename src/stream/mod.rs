//! One direction of replication: source, then sink; the source is told to forget only what the
//! sink made durable.
//!
//! A [`Pipe`] runs in one of two modes. In [`Mode::Apply`] it writes what clients did on its
//! source. In [`Mode::Watch`] the other side owns the writes: everything of ours is left out by
//! the source already, so whatever still arrives was written by somebody who went around the
//! fence, and is an alarm. A move exchanges the modes of the two pipes; nothing else.

mod batch;
pub mod handover;
mod pipe;
mod state;

use cutover_core::model::{
    event::{Change, Relation},
    side::Side,
};

pub use pipe::{HoldPoint, Pipe, PipeConfig};
pub use state::{Health, Mode, PipeView};

/// Sees every row that a pipe carries; the verifier remembers the keys.
pub trait Witness: Send + Sync {
    /// A row changed on `from`. `foreign`: it was not supposed to change there.
    fn row(&self, from: Side, relation: &Relation, change: &Change, foreign: bool);

    /// A table was emptied on `from`.
    fn truncated(&self, from: Side, relation: &Relation, foreign: bool);
}

/// Prefix of our own messages in a change log. The content of a marker is its token.
pub const MESSAGE_PREFIX: &str = "cutover";
