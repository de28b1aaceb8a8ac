//! The ground of a move that another process began: enough to take it back or to complete it.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use cutover_core::{
    model::{position::Position, run::RunId, selection::Selection, side::Side},
    port::{PortError, Result},
};

use super::ports::Ports;
use crate::{
    cutover::{
        fact::Fact,
        ground::{
            Ground,
            live::{LiveGround, Parts, Work},
            work::{Awaited, Drained, Pipes, Proof, Readiness, Ready},
        },
        machine::State,
    },
    error::Failure,
    verify::Certificate,
};

/// What a ground needs that belongs to no move.
pub struct Site<'a> {
    /// The run.
    pub run: &'a RunId,
    /// What is moved.
    pub selection: &'a Selection,
    /// The machinery.
    pub ports: &'a Ports,
    /// Longest pause.
    pub budget: Duration,
}

/// The parts of a ground for a move from `from`, without streams and guard.
#[must_use]
pub fn parts(site: &Site<'_>, from: Side) -> Parts {
    Parts {
        run: site.run.clone(),
        from,
        budget: site.budget,
        selection: site.selection.clone(),
        switches: site.ports.switches.clone(),
        origin: Arc::clone(&site.ports.side(from).primary),
        target: Arc::clone(&site.ports.side(from.other()).primary),
        work: None,
        guard: None,
    }
}

/// The ground to end the open move of `facts` before the streams are connected: they take their
/// modes from the journal when they are.
///
/// # Errors
///
/// No move is open.
pub(super) fn ground(
    site: &Site<'_>,
    facts: &[Fact],
    journal: &Path,
) -> std::result::Result<Box<dyn Ground>, Failure> {
    let from = State::of(facts).from().ok_or_else(|| {
        Failure::new(format!("{} tells of no move", journal.display())).code("CUT0513")
    })?;
    let nothing = Arc::new(NotConnected);
    Ok(Box::new(LiveGround::new(Parts {
        work: Some(Work {
            pipes: Arc::clone(&nothing) as _,
            proof: Arc::clone(&nothing) as _,
            ready: nothing,
        }),
        ..parts(site, from)
    })))
}

/// Streams that are not connected yet.
struct NotConnected;

fn not_connected<T>(doing: &str) -> Result<T> {
    Err(PortError::transient(doing, "the streams are not connected"))
}

#[async_trait]
impl Pipes for NotConnected {
    async fn arm_reverse(&self, _from: Side) -> Result<Position> {
        not_connected("arming the way back")
    }

    async fn disarm_reverse(&self, _from: Side) -> Result<()> {
        Ok(())
    }

    fn await_marker(&self, _from: Side) -> Awaited {
        let (_, arrived) = tokio::sync::oneshot::channel();
        Awaited { prefix: "", content: String::new(), arrived }
    }

    async fn hold_reverse(&self, _from: Side, _within: Duration) -> Result<()> {
        not_connected("making the way back stand still")
    }

    async fn drain(
        &self,
        _from: Side,
        _written: Option<(Awaited, Position)>,
        _within: Duration,
    ) -> Result<Drained> {
        not_connected("draining")
    }

    async fn reverse(&self, _owner: Side) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Proof for NotConnected {
    async fn nearly_ready(&self) -> Result<Option<String>> {
        not_connected("asking for the proof")
    }

    async fn behind_fence(&self, _within: Duration) -> Result<Certificate> {
        not_connected("comparing behind the fence")
    }
}

#[async_trait]
impl Ready for NotConnected {
    async fn ready(&self, _from: Side) -> Result<Readiness> {
        not_connected("measuring")
    }
}
