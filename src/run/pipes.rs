//! The two directions of replication together: markers, standing still at one position, and the
//! exchange of their modes when ownership moves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cutover_core::{
    model::{position::Position, run::RunId, side::Side},
    port::{PortError, Result, copy::Snapshot},
};
use tokio::time::timeout;

use super::ports::Ports;
use crate::{
    cutover::ground::work::Awaited,
    stream::{HoldPoint, MESSAGE_PREFIX, Mode, Pipe},
};

/// How long a position may take to be reached before standing still there is given up.
const ALIGN_WITHIN: Duration = Duration::from_secs(10);
/// How long a pipe is waited for that is to flow again.
const RELEASED_WITHIN: Duration = Duration::from_secs(1);
/// How long transactions that are open before a comparison are waited for.
const OPEN_FOR: Duration = Duration::from_secs(5);

/// Both pipes of a run.
pub struct Pipes {
    run: RunId,
    ports: Ports,
    forward: Pipe,
    back: Pipe,
    tokens: AtomicU64,
    /// Held by whoever makes a pipe stand still, compares changed rows, or moves ownership.
    stillness: tokio::sync::Mutex<()>,
    /// Distinguishes markers of this process from those of an earlier one in the same log.
    process: u64,
}

impl Pipes {
    /// `forward` reads blue, `back` reads green.
    #[must_use]
    pub fn new(run: RunId, ports: Ports, forward: Pipe, back: Pipe) -> Self {
        let process = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64);
        Self {
            run,
            ports,
            forward,
            back,
            tokens: AtomicU64::new(0),
            stillness: tokio::sync::Mutex::new(()),
            process,
        }
    }

    /// The pipe that reads `from`.
    #[must_use]
    pub fn from(&self, from: Side) -> &Pipe {
        match from {
            Side::Blue => &self.forward,
            Side::Green => &self.back,
        }
    }

    /// Keeps others from making the pipes stand still. A move holds it from begin to end.
    pub async fn still(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.stillness.lock().await
    }

    /// The same without waiting; `None` when somebody holds it.
    pub fn try_still(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.stillness.try_lock().ok()
    }

    /// Emits a marker on `from` and waits until it, and all before it, is applied on the other
    /// side (or, in watch mode, seen). Returns its position and how long it took.
    ///
    /// # Errors
    ///
    /// Transient when it does not arrive within `within`.
    pub async fn marker(&self, from: Side, within: Duration) -> Result<(Position, Duration)> {
        let token = self.token();
        let started = Instant::now();
        let arrived = self.from(from).expect_marker(&token);
        let wait = async {
            let position = self.emit(from, &token).await?;
            arrived.await.map_err(|e| late(from, e))?;
            Ok((position, started.elapsed()))
        };
        timeout(within, wait).await.map_err(|e| late(from, e))?
    }

    /// A marker that somebody else writes.
    pub fn await_marker(&self, from: Side) -> Awaited {
        let content = self.token();
        let arrived = self.from(from).expect_marker(&content);
        Awaited { prefix: MESSAGE_PREFIX, content, arrived }
    }

    /// Waits for the marker. Whether everything up to `position` is durable, or seen, with it.
    ///
    /// # Errors
    ///
    /// Transient when it does not arrive within `within`.
    pub async fn passes(
        &self,
        from: Side,
        marker: Awaited,
        position: &Position,
        within: Duration,
    ) -> Result<bool> {
        let arrived = timeout(within, marker.arrived).await.map_err(|e| late(from, e))?;
        let durable = arrived.map_err(|e| late(from, e))?;
        Ok(durable.is_some_and(|durable| durable.covers(position) == Ok(true)))
    }

    /// Like [`Pipes::marker`], and the pipe stands still right behind the marker.
    ///
    /// # Errors
    ///
    /// As [`Pipes::marker`]; then the pipe flows.
    pub async fn hold_behind_marker(&self, from: Side, within: Duration) -> Result<Position> {
        let token = self.token();
        let wait = async {
            let held = self.from(from).hold_at(HoldPoint::Marker(token.clone()))?;
            let position = self.emit(from, &token).await?;
            held.await.map_err(|e| late(from, e))??;
            Ok(position)
        };
        let result = timeout(within, wait).await.map_err(|e| late(from, e)).flatten();
        if result.is_err() {
            self.go_on(from).await?;
        }
        result
    }

    /// Runs `then` while the pipe that reads `owner` stands still at a position, with a snapshot
    /// of `owner` at exactly that position. The pipe goes on afterwards, whatever happens.
    ///
    /// # Errors
    ///
    /// `owner` does not own the writes any more, the position was not reached in time, a session
    /// failed, or what `then` says.
    pub async fn aligned<T, F>(
        &self,
        owner: Side,
        then: impl FnOnce(Position, Arc<dyn Snapshot>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let pipe = self.from(owner);
        // A snapshot waits for transactions that are open; the stream must not wait with it.
        if !self.ports.side(owner).source.begun_have_ended(OPEN_FOR).await? {
            return Err(PortError::transient(
                format!("opening a snapshot of {owner}"),
                "a transaction stays open there; the comparison waits for its end",
            ));
        }
        let _still = self.still().await;
        // A move may have been made while we waited: what stands still must be who is followed.
        if pipe.view().mode != Mode::Apply {
            return Err(PortError::transient(
                format!("opening a snapshot of {owner}"),
                "another side owns the writes meanwhile",
            ));
        }
        let work = async {
            // Stand still first: a position taken while the pipe flows may be passed already.
            let held = pipe.hold_at(HoldPoint::Now)?;
            timeout(ALIGN_WITHIN, held)
                .await
                .map_err(|_| hangs(owner))?
                .map_err(|e| late(owner, e))??;
            let source = &self.ports.side(owner).source;
            let (position, snapshot) =
                timeout(ALIGN_WITHIN, source.snapshot_at_position()).await.map_err(|e| {
                    PortError::transient(
                        format!(
                            "opening a snapshot of {owner} (it waits for open transactions to end)"
                        ),
                        e,
                    )
                })??;
            let held = pipe.hold_at(HoldPoint::Position(position.clone()))?;
            // Something behind the position has to arrive, or nobody knows that it was reached.
            self.emit(owner, &self.token()).await?;
            timeout(ALIGN_WITHIN, held)
                .await
                .map_err(|_| hangs(owner))?
                .map_err(|e| late(owner, e))??;
            then(position, Arc::from(snapshot)).await
        };
        let result = work.await;
        self.go_on(owner).await?;
        result
    }

    /// Lets a pipe flow again. One that hangs, in a commit say, hears of it when it goes on.
    async fn go_on(&self, from: Side) -> Result<()> {
        match timeout(RELEASED_WITHIN, self.from(from).release()).await {
            Ok(released) => released,
            Err(_) => Ok(()),
        }
    }

    /// `owner` owns the writes: its pipe applies, the other one watches. Both flow. One that hangs,
    /// in a commit say, does so when it goes on, and keeps nobody waiting; only that the other one
    /// applies no more is always waited for.
    ///
    /// # Errors
    ///
    /// A pipe's task has ended.
    pub async fn owned_by(&self, owner: Side) -> Result<()> {
        self.from(owner.other()).set_mode(Mode::Watch).await?;
        let flow = async {
            tokio::try_join!(
                self.from(owner).flow(Mode::Apply)?,
                self.from(owner.other()).flow(Mode::Watch)?
            )
        };
        match timeout(RELEASED_WITHIN, flow).await {
            Ok(flow) => flow.map(drop),
            Err(_) => {
                tracing::warn!(
                    "a stream does not answer yet; it hears who owns the writes when it goes on"
                );
                Ok(())
            }
        }
    }

    /// Waits until what is committed so far is visible on both sides; whether it is.
    ///
    /// # Errors
    ///
    /// A side cannot be asked.
    pub async fn visible(&self, within: Duration) -> Result<bool> {
        let (blue, green) = tokio::try_join!(
            self.ports.blue.source.begun_have_ended(within),
            self.ports.green.source.begun_have_ended(within)
        )?;
        Ok(blue && green)
    }

    /// Keeps the log of `side` moving when nobody writes.
    ///
    /// # Errors
    ///
    /// The message could not be written.
    pub async fn heartbeat(&self, side: Side) -> Result<Position> {
        self.emit(side, &self.token()).await
    }

    async fn emit(&self, side: Side, token: &str) -> Result<Position> {
        self.ports.side(side).source.emit(MESSAGE_PREFIX, token).await
    }

    fn token(&self) -> String {
        let n = self.tokens.fetch_add(1, Ordering::Relaxed);
        format!("{}:{:x}:{n}", self.run, self.process)
    }
}

fn late(from: Side, e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PortError {
    PortError::transient(format!("waiting for the stream from {from} to reach a position"), e)
}

fn hangs(from: Side) -> PortError {
    let to = from.other();
    PortError::transient(
        format!("making the stream from {from} stand still at a position"),
        format!(
            "it has not come there within {} s: it is far behind, or a commit on {to} waits (for a \
             synchronous standby, or for a lock); `cutover status` shows the lag, `cutover check` \
             what is known of {to}",
            ALIGN_WITHIN.as_secs()
        ),
    )
}
