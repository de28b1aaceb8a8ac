//! The task behind a [`Pipe`]: reads, cuts, applies, confirms; reconnects; obeys.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cutover_core::{
    model::{
        digest::RowKey,
        event::{Event, Relation, TransactionId},
        position::Position,
        schema::{Table, TableName},
        side::Side,
    },
    port::{
        PortError, Result,
        copy::{CopyFormat, CopyStream},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Health, Mode, PipeConfig, PipeView,
    batch::{Batch, Batcher, Cut},
    early::Early,
    open::Open,
    state::State,
};
use crate::error::Explain as _;

/// How often an idle stretch of log is stored on the sink and confirmed to the source.
const STORE_EVERY: Duration = Duration::from_secs(3);
/// First and longest wait before a lost connection is opened again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A row is missing, is there already, or is of a table without a place.
const UNFIT: [&str; 3] = ["CUT0401", "CUT0402", "CUT0404"];

/// Where a pipe shall stand still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldPoint {
    /// Where it is now, at a boundary between transactions.
    Now,
    /// With exactly the transactions applied whose commit position this one covers.
    Position(Position),
    /// Right behind the transaction that carries this marker.
    Marker(String),
}

pub(super) enum Control {
    Mode(Mode, oneshot::Sender<()>),
    GetReady(oneshot::Sender<Result<()>>),
    HoldAt(HoldPoint, oneshot::Sender<Result<()>>),
    Release(oneshot::Sender<()>),
    Replace(Box<Replace>),
}

pub(super) struct Replace {
    table: Table,
    keys: Option<Vec<RowKey>>,
    format: CopyFormat,
    rows: Box<dyn CopyStream>,
    reply: oneshot::Sender<Result<u64>>,
}

/// Handle of one direction of replication. The task ends when the handle is dropped.
pub struct Pipe {
    from: Side,
    control: mpsc::UnboundedSender<Control>,
    pub(super) state: Arc<State>,
    task: JoinHandle<()>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pipe {
    /// Starts the task. It connects by itself and reports through [`Pipe::view`].
    #[must_use]
    pub fn start(config: PipeConfig, mode: Mode) -> Self {
        // Nobody who asks for something waits for a task that hangs in a commit.
        let (control, inbox) = mpsc::unbounded_channel();
        let state = Arc::new(State::new(mode));
        let from = config.from;
        let worker = Worker {
            config,
            state: Arc::clone(&state),
            inbox,
            hold: None,
            held: false,
            waiting: None,
            ready: false,
            getting_ready: None,
            shapes: HashMap::new(),
            early: Early::default(),
            reading: None,
            told: None,
            singly_until: None,
        };
        Self { from, control, state, task: tokio::spawn(worker.run()) }
    }

    /// The side that is read.
    #[must_use]
    pub fn from(&self) -> Side {
        self.from
    }

    /// A look at it.
    #[must_use]
    pub fn view(&self) -> PipeView {
        self.state.view()
    }

    /// Resolves once a marker with this token, and everything before it, is applied. Ask before
    /// the marker is emitted. Everything up to the position that it brings is durable.
    pub fn expect_marker(&self, token: &str) -> oneshot::Receiver<Option<Position>> {
        self.state.expect_marker(token.to_owned())
    }

    /// Changes the mode. Returns when the task obeys.
    ///
    /// # Errors
    ///
    /// Transient when the task has ended.
    pub async fn set_mode(&self, mode: Mode) -> Result<()> {
        self.order(move |tx| Control::Mode(mode, tx))?.await
    }

    /// Sets the mode and lets the pipe flow. Both orders are given before this returns, in this
    /// sequence, whether or not somebody waits for the future, which resolves when they are obeyed.
    ///
    /// # Errors
    ///
    /// Transient when the task has ended.
    pub fn flow(&self, mode: Mode) -> Result<impl Future<Output = Result<()>> + use<>> {
        let set = self.order(move |tx| Control::Mode(mode, tx))?;
        let released = self.order(Control::Release)?;
        Ok(async move {
            set.await?;
            released.await
        })
    }

    /// Gets a pipe that watches ready to apply, until its mode is set again: from here on it reads
    /// everything, also what a server may leave out for a watcher. Returns when it does. Not while
    /// it stands still.
    ///
    /// # Errors
    ///
    /// Transient when the task has ended, definite when the stream has stopped.
    pub async fn get_ready(&self) -> Result<()> {
        let (tx, rx) = oneshot::channel();
        self.tell(Control::GetReady(tx))?;
        rx.await.map_err(|e| gone(self.from, e))?
    }

    /// Asks the pipe to stand still at `point`; the receiver resolves when it does.
    ///
    /// # Errors
    ///
    /// Transient when the task has ended; the receiver fails when the stream breaks before.
    pub fn hold_at(&self, point: HoldPoint) -> Result<oneshot::Receiver<Result<()>>> {
        let (tx, rx) = oneshot::channel();
        self.tell(Control::HoldAt(point, tx))?;
        Ok(rx)
    }

    /// Goes on after a hold. Harmless when there is none.
    ///
    /// # Errors
    ///
    /// Transient when the task has ended.
    pub async fn release(&self) -> Result<()> {
        self.order(Control::Release)?.await
    }

    /// Repairs rows through the pipe's own writer while it is held.
    ///
    /// # Errors
    ///
    /// What the writer says, or `CUT0604` when the pipe does not stand still.
    pub async fn replace(
        &self,
        table: &Table,
        keys: Option<&[RowKey]>,
        format: CopyFormat,
        rows: Box<dyn CopyStream>,
    ) -> Result<u64> {
        let (reply, rx) = oneshot::channel();
        let (table, keys) = (table.clone(), keys.map(<[RowKey]>::to_vec));
        let order = Replace { table, keys, format, rows, reply };
        self.tell(Control::Replace(Box::new(order)))?;
        rx.await.map_err(|e| gone(self.from, e))?
    }

    /// Given at once; the future resolves when it is obeyed.
    fn order<F>(&self, order: F) -> Result<impl Future<Output = Result<()>> + use<F>>
    where
        F: FnOnce(oneshot::Sender<()>) -> Control,
    {
        let ((tx, rx), from) = (oneshot::channel(), self.from);
        self.tell(order(tx))?;
        Ok(async move { rx.await.map_err(|e| gone(from, e)) })
    }

    fn tell(&self, control: Control) -> Result<()> {
        self.control.send(control).map_err(|_| {
            PortError::transient(
                format!("talking to the stream from {}", self.from),
                "its task has ended",
            )
        })
    }
}

fn gone(from: Side, e: oneshot::error::RecvError) -> PortError {
    PortError::transient(format!("talking to the stream from {from}"), e)
}

pub(super) struct Worker {
    pub(super) config: PipeConfig,
    pub(super) state: Arc<State>,
    inbox: mpsc::UnboundedReceiver<Control>,
    hold: Option<HoldPoint>,
    pub(super) held: bool,
    waiting: Option<oneshot::Sender<Result<()>>>,
    /// It watches, and may have to apply from the next moment on.
    pub(super) ready: bool,
    getting_ready: Option<oneshot::Sender<Result<()>>>,
    /// The last announced shape of each table.
    pub(super) shapes: HashMap<TableName, Arc<Relation>>,
    pub(super) early: Early,
    /// The transaction whose rows were handed out last.
    pub(super) reading: Option<TransactionId>,
    /// What comes up to here was told before.
    pub(super) told: Option<Position>,
    /// Up to here transactions are taken one at a time, and each is stored.
    pub(super) singly_until: Option<Position>,
}

impl Worker {
    async fn run(mut self) {
        let mut backoff = BACKOFF.0;
        loop {
            self.state.set_health(Health::Connecting);
            let started = Instant::now();
            let Err(error) = self.session().await else { return };
            let error = self.awaits_a_look(error);
            self.abandon_early();
            self.give_up_hold(&error);
            if let PortError::Definite { code, spoiled, .. } = &error {
                self.getting_ready = None;
                tracing::error!(from = %self.config.from, %code, "stream stopped: {error}");
                self.state.set_health(Health::Stopped {
                    code: (*code).to_owned(),
                    what: error.headline(),
                    remedy: error.remedy().unwrap_or_default().to_owned(),
                    spoiled: spoiled.as_deref().cloned(),
                });
                // Only a new process goes on from here: somebody has to do something first.
                while let Some(control) = self.inbox.recv().await {
                    self.refuse(control, &error);
                }
                return;
            }
            self.state.reconnects.fetch_add(1, Ordering::Relaxed);
            let why = chain(&error);
            tracing::warn!(from = %self.config.from, "stream interrupted, connecting again: {why}");
            self.state.set_health(Health::Reconnecting { why });
            if started.elapsed() > BACKOFF.1 {
                backoff = BACKOFF.0;
            }
            let again = Instant::now() + backoff;
            backoff = (backoff * 2).min(BACKOFF.1);
            loop {
                tokio::select! {
                    () = sleep_until(again) => break,
                    control = self.inbox.recv() => match control {
                        // Nothing is open that could break.
                        Some(control) => _ = self.obey(control, None).await,
                        None => return,
                    },
                }
            }
        }
    }

    /// Rows that do not fit are no reason to stop once definitions have changed: a table may have
    /// been away from the stream, and is copied again when all are looked at anew.
    fn awaits_a_look(&self, error: PortError) -> PortError {
        match &error {
            PortError::Definite { code, .. }
                if UNFIT.contains(code) && self.state.view().redefined > 0 =>
            {
                let doing = format!("following changes on {}", self.config.from);
                PortError::transient(doing, error)
            }
            _ => error,
        }
    }

    /// One connection. `Ok` when the handle is gone.
    async fn session(&mut self) -> Result<()> {
        let mut open = self.open().await?;
        self.state.set_health(if self.held { Health::Held } else { Health::Flowing });
        let mut timer = interval(STORE_EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = Vec::new();
        loop {
            if self.wants_another(&open) {
                open = self.reopen(open).await?;
            }
            if !open.watches
                && let Some(waiting) = self.getting_ready.take()
            {
                // Nobody waits any more: its step was given up.
                waiting.send(Ok(())).ok();
            }
            while !self.held && !self.wants_another(&open) {
                self.store_each(&mut open).await?;
                let cut = open.batcher.cut(self.config.batch_bytes, self.hold.as_ref());
                if matches!(cut, Cut::Wait) {
                    break;
                }
                let several = matches!(&cut, Cut::Batch(batch) if batch.transactions > 1);
                if let Err(error) = self.take(&mut open, cut).await {
                    return Err(self.steps_back(error, several || open.owes()));
                }
            }
            if self.wants_another(&open) {
                continue;
            }
            let flush_at = open.flush_at.filter(|_| !open.in_pieces);
            tokio::select! {
                biased;
                control = self.inbox.recv() => match control {
                    Some(control) => self.obey(control, Some(&mut open)).await?,
                    None => return Ok(()),
                },
                result = open.stream.next(&mut buffer), if !self.held => {
                    result?;
                    let received = buffer.iter().rev().find_map(|e| match e {
                        Event::Commit { position } | Event::Idle { position } => {
                            Some(position.clone())
                        }
                        _ => None,
                    });
                    self.state.heard(received);
                    open.batcher.push(buffer.drain(..));
                    self.is_sure(&open.batcher)?;
                    self.count_in_hand(&open.batcher);
                }
                () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {
                    open.flush().await?;
                }
                _ = timer.tick() => self.settle(&mut open).await?,
            }
        }
    }

    async fn take(&mut self, open: &mut Open, cut: Cut) -> Result<()> {
        match cut {
            Cut::Batch(batch) => {
                self.perform(open, batch).await?;
                // A long backlog must not make the pipe deaf.
                self.listen(open).await?;
            }
            Cut::Large(large) => self.large(open, large).await?,
            Cut::Definition(content) => self.define(open, &content).await?,
            Cut::Hold => self.reached(),
            Cut::Wait => {}
        }
        Ok(())
    }

    pub(super) async fn perform(&mut self, open: &mut Open, batch: Batch) -> Result<()> {
        self.take_back(&batch.notes).await;
        if batch.events.is_empty() {
            self.go_on(open, &batch.notes).await;
            return Ok(());
        }
        let mode = self.state.mode();
        self.check_shapes(batch.events.iter().filter_map(|event| match event {
            Event::Row { relation, .. } => Some(relation),
            _ => None,
        }))
        .await?;
        self.witness(&batch, mode == Mode::Watch);
        // A piece without rows begins a transaction that changes definitions.
        if mode == Mode::Apply && (batch.rows > 0 || batch.end.is_none() || open.in_pieces) {
            // Whoever waits for a marker builds on what is before it.
            let soon = batch.end.is_some() && !open.in_pieces && batch.markers.is_empty();
            if let Some(end) = &batch.end {
                self.config.witness.passed(self.config.from, end);
            }
            if let Err(error) = open.apply(&batch, soon).await {
                return Err(self.older(error, &batch).await);
            }
            open.in_pieces = batch.end.is_none();
            if !open.in_pieces {
                self.config.witness.applied();
            }
            self.state.rows.fetch_add(batch.rows, Ordering::Relaxed);
            self.state.batches.fetch_add(1, Ordering::Relaxed);
        }
        self.state.transactions.fetch_add(batch.transactions, Ordering::Relaxed);
        if batch.end.is_some() {
            self.state.settled(true);
            open.seen.clone_from(&batch.end);
            if mode == Mode::Watch && batch.rows > 0 {
                // An alarm is not raised again because somebody starts again.
                self.settle(open).await?;
            }
        }
        self.state.applied(batch.end, batch.committed_at);
        self.count_in_hand(&open.batcher);
        self.go_on(open, &batch.notes).await;
        if !batch.markers.is_empty() {
            open.flush().await?;
            if mode == Mode::Apply && batch.rows == 0 && !open.in_pieces {
                open.is_there().await?;
            }
        }
        self.state.markers_done(&batch.markers);
        if let Some(HoldPoint::Marker(token)) = &self.hold
            && batch.markers.contains(token)
        {
            self.reached();
        }
        Ok(())
    }

    pub(super) fn holds(&self, point: &HoldPoint) -> bool {
        self.hold.as_ref() == Some(point)
    }

    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Obeys what has been asked for meanwhile.
    pub(super) async fn listen(&mut self, open: &mut Open) -> Result<()> {
        while let Ok(control) = self.inbox.try_recv() {
            self.obey(control, Some(open)).await?;
        }
        Ok(())
    }

    pub(super) async fn next_control(&mut self) -> Result<Control> {
        let gone = || PortError::transient("following a stream", "nobody wants it any more");
        self.inbox.recv().await.ok_or_else(gone)
    }

    pub(super) fn reached(&mut self) {
        self.held = true;
        self.hold = None;
        self.state.set_health(Health::Held);
        if let Some(waiting) = self.waiting.take() {
            // Nobody waits any more: a release follows.
            waiting.send(Ok(())).ok();
        }
    }

    /// Fails when what is open cannot be used any more; whoever asked knows by then.
    pub(super) async fn obey(&mut self, control: Control, open: Option<&mut Open>) -> Result<()> {
        // A receiver that is gone has stopped waiting; there is nobody to tell.
        match control {
            Control::Mode(mode, reply) => {
                if mode != Mode::Apply {
                    self.stop_early("the other side owns the writes").await;
                }
                self.state.set_mode(mode);
                self.ready = false;
                reply.send(()).ok();
            }
            Control::GetReady(reply) => {
                self.ready = true;
                self.getting_ready = Some(reply);
            }
            Control::HoldAt(point, reply) => {
                if std::mem::take(&mut self.held) {
                    self.state.set_health(Health::Flowing);
                }
                self.hold = Some(point);
                self.waiting = Some(reply);
            }
            Control::Release(reply) => {
                self.hold = None;
                self.waiting = None;
                if std::mem::take(&mut self.held) {
                    self.state.set_health(if open.is_some() {
                        Health::Flowing
                    } else {
                        Health::Connecting
                    });
                }
                reply.send(()).ok();
            }
            Control::Replace(order) => {
                let Replace { table, keys, format, rows, reply } = *order;
                let doing = format!("repairing {}", table.name);
                let Some(open) = open.filter(|_| self.held) else {
                    let moves = PortError::definite(
                        "CUT0604",
                        doing,
                        "the stream does not stand still",
                        "try the repair again; see docs/errors/CUT0604.md",
                    );
                    reply.send(Err(moves)).ok();
                    return Ok(());
                };
                let result = open.writer.replace(&table, keys.as_deref(), format, rows).await;
                let failed = result.is_err();
                reply.send(result).ok();
                if failed {
                    // Where its session stands is not known.
                    return Err(PortError::transient(
                        doing,
                        "it failed: the writer is opened again",
                    ));
                }
            }
        }
        Ok(())
    }

    fn refuse(&mut self, control: Control, error: &PortError) {
        let stopped = || {
            PortError::definite(
                "CUT0502",
                format!("using the stream from {}", self.config.from),
                format!("it has stopped: {error}"),
                error.remedy().unwrap_or("see the log").to_owned(),
            )
        };
        match control {
            Control::Mode(mode, reply) => {
                self.state.set_mode(mode);
                reply.send(()).ok();
            }
            Control::GetReady(reply) | Control::HoldAt(_, reply) => {
                reply.send(Err(stopped())).ok();
            }
            Control::Release(reply) => {
                reply.send(()).ok();
            }
            Control::Replace(order) => {
                order.reply.send(Err(stopped())).ok();
            }
        }
    }

    fn give_up_hold(&mut self, error: &PortError) {
        self.hold = None;
        self.held = false;
        if let Some(waiting) = self.waiting.take() {
            let text = chain(error);
            waiting
                .send(Err(PortError::transient(
                    format!("holding the stream from {}", self.config.from),
                    text,
                )))
                .ok();
        }
    }

    fn count_in_hand(&self, batcher: &Batcher) {
        self.state.in_hand.store(batcher.transactions() as u64, Ordering::Relaxed);
        self.state.bytes_in_hand.store(batcher.bytes() as u64, Ordering::Relaxed);
    }
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text
}
