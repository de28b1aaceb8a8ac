//! A large transaction is applied while it is still in progress on the source.
//!
//! One at a time, in a session beside the pipe's own: its rows follow what they rest on, what is
//! rolled back is taken back before anything behind it is applied, and at its end it is committed
//! together with the position, in its place. Whatever is in the way, nothing is lost: it is given
//! up, and applied at its end from what the stream keeps of it.

use std::{collections::HashSet, sync::Arc, sync::atomic::Ordering, time::Duration};

use cutover_core::{
    model::{
        event::{Event, Relation, TransactionId},
        selection::Selection,
        side::Side,
    },
    port::{PortError, Result, sink::EarlyWriter, source},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Mode, Witness,
    batch::{Large, Note, selected},
    open::Open,
    pipe::Worker,
};

/// How long the others wait for something to be taken back before the transaction is given up.
const OBEYS_WITHIN: Duration = Duration::from_secs(1);

/// Subtransactions with rows that are followed in one transaction. Each is a round trip, and the
/// target keeps all of them open.
const MOST_PARTS: usize = 250;

/// What a pipe knows about the transaction that it applies early.
#[derive(Default)]
pub(super) struct Early {
    running: Option<Running>,
    /// Waits for the next one.
    writer: Option<Box<dyn EarlyWriter>>,
    /// Those that are applied at their end.
    refused: HashSet<TransactionId>,
    /// The sink has no second writer.
    never: bool,
}

/// The task that applies it. Dropping it rolls back.
struct Running {
    transaction: TransactionId,
    orders: mpsc::UnboundedSender<Order>,
    task: JoinHandle<Result<Done>>,
    from: Side,
    witness: Arc<dyn Witness>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.witness.ended(self.from, self.transaction, false);
    }
}

enum Order {
    /// Its changes may be applied up to this byte.
    Until(u64),
    /// Take back what belongs to this subtransaction, or everything and end.
    TakeBack(TransactionId, oneshot::Sender<()>),
    /// It has committed: apply the rest and end.
    Finish,
}

/// Everything is applied, or taken back; nothing is committed.
struct Done {
    writer: Box<dyn EarlyWriter>,
    shapes: Vec<Arc<Relation>>,
    rows: u64,
}

impl Worker {
    /// What must be obeyed before anything behind it is applied.
    pub(super) async fn take_back(&mut self, notes: &[Note]) {
        for note in notes {
            let Note::RolledBack { transaction, part } = *note else { continue };
            let whole = transaction == part;
            if whole {
                self.early.refused.remove(&transaction);
            }
            let Some(running) = self.running(transaction) else { continue };
            let (obeyed, answer) = oneshot::channel();
            running.orders.send(Order::TakeBack(part, obeyed)).ok();
            if !matches!(timeout(OBEYS_WITHIN, answer).await, Ok(Ok(()))) {
                self.give_up_early("it does not take back what was rolled back").await;
            } else if whole && let Some(mut running) = self.early.running.take() {
                // It has obeyed, so it ends at once.
                if let Ok(Ok(Ok(done))) = timeout(OBEYS_WITHIN, &mut running.task).await {
                    self.early.writer = Some(done.writer);
                }
            }
        }
    }

    /// What transactions in progress may go on with: all before it is applied.
    pub(super) async fn go_on(&mut self, open: &mut Open, notes: &[Note]) {
        for note in notes {
            let Note::InProgress { transaction, kept } = *note else { continue };
            match self.running(transaction) {
                Some(running) => {
                    if running.orders.send(Order::Until(kept)).is_err() {
                        self.give_up_early("it failed").await;
                    }
                }
                None => self.begin(open, transaction, kept).await,
            }
        }
    }

    fn running(&self, transaction: TransactionId) -> Option<&Running> {
        self.early.running.as_ref().filter(|r| r.transaction == transaction)
    }

    /// Begins to apply a transaction early, if that is possible.
    async fn begin(&mut self, open: &mut Open, transaction: TransactionId, kept: u64) {
        let early = &mut self.early;
        if early.never
            || early.running.is_some()
            || early.refused.contains(&transaction)
            || kept < self.config.batch_bytes as u64
            || self.state.mode() != Mode::Apply
            || !open.handed_over()
        {
            return;
        }
        let Some(changes) = open.large(transaction) else { return };
        let writer = match early.writer.take() {
            Some(writer) => writer,
            None => match open.writer.early().await {
                Ok(Some(writer)) => writer,
                Ok(None) => {
                    early.never = true;
                    return;
                }
                Err(e) => {
                    tracing::info!(error = %e, "transactions cannot be applied early now");
                    early.refused.insert(transaction);
                    return;
                }
            },
        };
        tracing::info!(from = %self.config.from, transaction, "applying a transaction early");
        let (orders, inbox) = mpsc::unbounded_channel();
        orders.send(Order::Until(kept)).ok();
        let witness = Arc::clone(&self.config.witness);
        let task = Task {
            from: self.config.from,
            transaction,
            changes,
            writer,
            inbox,
            selection: self.config.selection.clone(),
            witness: Arc::clone(&witness),
            parts: Parts::default(),
            shapes: Vec::new(),
            rows: 0,
        };
        let (from, task) = (self.config.from, tokio::spawn(task.run()));
        early.running = Some(Running { transaction, orders, task, from, witness });
        self.state.early_began.fetch_add(1, Ordering::Relaxed);
    }

    /// The transaction is applied at its end; what was written of it is rolled back.
    pub(super) async fn give_up_early(&mut self, why: &str) {
        let Some(mut running) = self.early.running.take() else { return };
        let transaction = running.transaction;
        let why = match running.task.is_finished().then_some(&mut running.task) {
            Some(task) => match task.await {
                Ok(Err(e)) => e.to_string(),
                _ => why.to_owned(),
            },
            None => why.to_owned(),
        };
        tracing::info!(from = %self.config.from, transaction,
            "a transaction in progress will be applied at its end: {why}");
        self.early.refused.insert(transaction);
        self.state.early_given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// Nothing is early any more; what the second writer knows does not hold either.
    pub(super) async fn stop_early(&mut self, why: &str) {
        self.give_up_early(why).await;
        self.early.writer = None;
    }

    /// A large transaction has committed, and everything before it is applied: whether it is
    /// committed here as well, with all its rows and the position.
    pub(super) async fn finish_early(&mut self, open: &mut Open, large: &Large) -> Result<bool> {
        if self.running(large.transaction).is_none() {
            self.early.refused.remove(&large.transaction);
            return Ok(false);
        }
        let Some(mut running) = self.early.running.take() else { return Ok(false) };
        running.orders.send(Order::Finish).ok();
        let done = loop {
            tokio::select! {
                done = &mut running.task => break done,
                control = self.next_control() => self.obey(control?, Some(open)).await?,
            }
        };
        let why = match done {
            Ok(Ok(_)) if self.state.mode() != Mode::Apply => "the stream only watches".to_owned(),
            Ok(Ok(done)) => {
                self.check_shapes(done.shapes.iter()).await?;
                let Done { mut writer, rows, .. } = done;
                // Before anybody can see the rows. Once too often does no harm.
                self.config.witness.ended(self.config.from, large.transaction, true);
                self.config.witness.passed(self.config.from, &large.end);
                match writer.commit(&large.end).await {
                    Ok(true) => {
                        open.stored(&large.end);
                        self.config.witness.applied();
                        self.early.writer = Some(writer);
                        self.state.rows.fetch_add(rows, Ordering::Relaxed);
                        self.state.batches.fetch_add(1, Ordering::Relaxed);
                        self.state.transactions.fetch_add(1, Ordering::Relaxed);
                        self.state.applied(Some(large.end.clone()), Some(large.committed_at));
                        return Ok(true);
                    }
                    Ok(false) => "it was rolled back for others".to_owned(),
                    Err(e) => {
                        self.early.refused.insert(large.transaction);
                        return Err(e);
                    }
                }
            }
            Ok(Err(e)) => e.to_string(),
            Err(e) => e.to_string(),
        };
        tracing::info!(from = %self.config.from, transaction = large.transaction,
            "a large transaction is applied at its end: {why}");
        self.state.early_given_up.fetch_add(1, Ordering::Relaxed);
        Ok(false)
    }

    /// The connection is lost: the server sends transactions in progress again.
    pub(super) fn abandon_early(&mut self) {
        let Early { running, mut refused, .. } = std::mem::take(&mut self.early);
        // Nobody knows whether it was the reason.
        refused.extend(running.iter().map(|r| r.transaction));
        self.early.refused = refused;
    }
}

/// Subtransactions of the one transaction.
#[derive(Debug, Default)]
struct Parts {
    /// Those whose beginning is marked, in this order.
    marked: Vec<TransactionId>,
    count: usize,
    undone: HashSet<TransactionId>,
}

impl Parts {
    /// Whether the beginning has to be marked before a row of it.
    ///
    /// # Errors
    ///
    /// There are too many.
    fn begins(&mut self, part: TransactionId) -> Result<bool> {
        if self.marked.contains(&part) {
            return Ok(false);
        }
        self.marked.push(part);
        self.count += 1;
        match self.count {
            0..=MOST_PARTS => Ok(true),
            _ => Err(no("it has too many subtransactions")),
        }
    }

    /// Whether it has to be taken back to its mark. What was marked behind it is part of it: a
    /// subtransaction that has ended can only be rolled back with what contains it.
    fn undo(&mut self, part: TransactionId) -> bool {
        self.undone.insert(part);
        let place = self.marked.iter().position(|p| *p == part);
        self.marked.truncate(place.unwrap_or(self.marked.len()));
        place.is_some()
    }
}

struct Task {
    from: Side,
    transaction: TransactionId,
    changes: Box<dyn source::Large>,
    writer: Box<dyn EarlyWriter>,
    inbox: mpsc::UnboundedReceiver<Order>,
    selection: Selection,
    witness: Arc<dyn Witness>,
    parts: Parts,
    shapes: Vec<Arc<Relation>>,
    rows: u64,
}

impl Task {
    async fn run(mut self) -> Result<Done> {
        let (mut until, mut finish, mut more) = (0, false, false);
        let mut portion = Vec::new();
        loop {
            let order = if more { self.inbox.try_recv().ok() } else { self.inbox.recv().await };
            match order {
                Some(Order::Until(byte)) => (until, more) = (byte, true),
                Some(Order::Finish) => (until, more, finish) = (u64::MAX, true, true),
                Some(Order::TakeBack(part, obeyed)) => {
                    let whole = part == self.transaction;
                    if whole {
                        self.writer.take_back(None).await?;
                    } else if self.parts.undo(part) {
                        self.writer.take_back(Some(part)).await?;
                    }
                    // Nobody waits any more: it is given up.
                    obeyed.send(()).ok();
                    if whole {
                        return Ok(self.done());
                    }
                }
                None if !more => return Err(no("nobody follows the stream any more")),
                None => {
                    more = self.changes.next(until, &mut portion).await?;
                    self.write(&mut portion).await?;
                    if finish && !more {
                        return Ok(self.done());
                    }
                }
            }
        }
    }

    fn done(self) -> Done {
        Done { writer: self.writer, shapes: self.shapes, rows: self.rows }
    }

    async fn write(&mut self, portion: &mut Vec<(TransactionId, Event)>) -> Result<()> {
        let mut events = Vec::new();
        let mut current = self.transaction;
        for (part, mut event) in portion.drain(..) {
            if self.parts.undone.contains(&part) || !selected(&self.selection, &mut event) {
                continue;
            }
            let Event::Row { relation, change } = &event else {
                return Err(no("it does more than change rows"));
            };
            self.witness.early(self.from, self.transaction, relation, change);
            if !self.shapes.last().is_some_and(|s| Arc::ptr_eq(s, relation))
                && !self.shapes.iter().any(|s| Arc::ptr_eq(s, relation))
            {
                self.shapes.push(Arc::clone(relation));
            }
            if part != current {
                self.flush(current, &mut events).await?;
                current = part;
            }
            events.push(event);
        }
        self.flush(current, &mut events).await
    }

    async fn flush(&mut self, part: TransactionId, events: &mut Vec<Event>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        if part != self.transaction && self.parts.begins(part)? {
            self.writer.write(self.transaction, &[]).await?;
            self.writer.mark(part).await?;
        }
        self.rows += events.len() as u64;
        self.writer.write(self.transaction, events).await?;
        events.clear();
        Ok(())
    }
}

fn no(why: &str) -> PortError {
    PortError::transient("applying a transaction early", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_back_follows_the_marks() {
        let mut parts = Parts::default();
        for part in [5, 6, 7] {
            assert!(parts.begins(part).unwrap());
        }
        assert!(!parts.begins(6).unwrap());
        // Children first, then what contains them; a mark that is gone needs nothing.
        assert!(parts.undo(6));
        assert_eq!(parts.marked, [5]);
        assert!(!parts.undo(7));
        assert!(parts.begins(8).unwrap());
        assert!(parts.undo(5));
        assert!(parts.marked.is_empty());
        assert!(!parts.undo(9), "no row of it was written");
        assert!(parts.undone.contains(&9));
    }

    #[test]
    fn too_many_parts_are_refused() {
        let mut parts = Parts::default();
        for part in 1..=MOST_PARTS as u32 {
            assert!(parts.begins(part).unwrap());
            parts.undo(part);
        }
        assert!(parts.begins(100_000).is_err());
    }
}
