//! What the run lends to a move: its pipes, its proof, its measurements.

use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{
    model::{position::Position, side::Side},
    port::Result,
};

use crate::{
    lag::{Converge, Estimate, Sample},
    preflight::Report,
    verify::Certificate,
};

/// How far a drain went.
#[derive(Debug, Clone, PartialEq)]
pub struct Drained {
    /// Where the marker stands in the origin's log; everything before it is applied.
    pub position: Position,
    /// Time from writing the marker until it was applied on the target.
    pub took: Duration,
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

    /// Writes a marker on `from` and waits until it is applied on the other side, at most
    /// `within`. Called behind the fence.
    async fn drain(&self, from: Side, within: Duration) -> Result<Drained>;

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

    /// Compares what is left, behind the fence and after the drain, at most `within`.
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
