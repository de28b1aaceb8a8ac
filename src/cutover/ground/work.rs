//! What the run lends to a move: its pipes, its proof, its measurements.

use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{
    model::{position::Position, side::Side},
    port::Result,
};
use tokio::sync::oneshot;

use crate::{
    lag::{Converge, Estimate, Sample},
    preflight::Report,
    verify::Certificate,
};

/// How far a drain went.
#[derive(Debug, Clone, PartialEq)]
pub struct Drained {
    /// Everything before it in the origin's log is applied.
    pub position: Position,
    /// Time from the closing of the fence, or from writing another marker, until then.
    pub took: Duration,
}

/// A marker that somebody else writes, and that is waited for in the stream.
#[derive(Debug)]
pub struct Awaited {
    /// Prefix of the message.
    pub prefix: &'static str,
    /// Its content.
    pub content: String,
    /// Comes when everything up to it is applied, with the position up to which all is durable.
    pub arrived: oneshot::Receiver<Option<Position>>,
}

/// Both directions of replication, as far as a move needs them.
#[async_trait]
pub trait Pipes: Send + Sync {
    /// Captures the changes of `from.other()` from now on, so that the way back to `from` exists,
    /// and returns where that begins. Idempotent: an existing capture stays.
    async fn arm_reverse(&self, from: Side) -> Result<Position>;

    /// Takes [`Pipes::arm_reverse`] back, unless the capture was there before the move began.
    /// Idempotent.
    async fn disarm_reverse(&self, from: Side) -> Result<()>;

    /// A marker that is to be written when `from` is closed.
    fn await_marker(&self, from: Side) -> Awaited;

    /// Makes the pipe that reads `from.other()`, which nobody writes to, stand still: all that was
    /// written there so far has been seen, and nothing that clients write later is passed by. Taken
    /// back with [`Pipes::disarm_reverse`]. Idempotent.
    async fn hold_reverse(&self, from: Side, within: Duration) -> Result<()>;

    /// Waits until everything on `from` is applied on the other side, at most `within`. Called
    /// behind the fence. `written` is the marker that was written with it, and a position that
    /// covers all that was written before; when it does not do, another marker is written.
    async fn drain(
        &self,
        from: Side,
        written: Option<(Awaited, Position)>,
        within: Duration,
    ) -> Result<Drained>;

    /// `owner` owns the writes now: the pipe that reads it applies, and the one that reads the
    /// other side turns into the split-brain alarm. Idempotent.
    async fn reverse(&self, owner: Side) -> Result<()>;
}

/// Proof that both sides are equal.
#[async_trait]
pub trait Proof: Send + Sync {
    /// Whether so little is left to compare that it can be done behind the fence: `None`, or
    /// what is missing.
    async fn nearly_ready(&self) -> Result<Option<String>>;

    /// Compares what has changed and makes ready what a comparison behind the fence needs, so that
    /// little is left to do there.
    async fn catch_up(&self) -> Result<()> {
        Ok(())
    }

    /// Compares what can be compared at once, while the fence closes.
    async fn glance(&self) -> Result<()> {
        Ok(())
    }

    /// Looks at what no change log tells, behind the fence and beside the drain.
    async fn look(&self) -> Result<()> {
        Ok(())
    }

    /// Compares what is left, behind the fence and after the drain, at most `within`. Comes after
    /// [`Proof::look`].
    async fn behind_fence(&self, within: Duration) -> Result<Certificate>;
}

/// What decides whether a move may begin, measured now.
#[derive(Debug, Clone, PartialEq)]
pub struct Readiness {
    /// Preflight of both databases and every switch for a move.
    pub preflight: Report,
    /// The newest measurement of the lag from the origin to the target.
    pub lag: Option<Sample>,
    /// What the samples say.
    pub converge: Converge,
    /// The pause to be expected.
    pub estimate: Estimate,
}

/// Measures whether a move from a side may begin.
#[async_trait]
pub trait Ready: Send + Sync {
    /// Asks and measures everything again.
    async fn ready(&self, from: Side) -> Result<Readiness>;
}
