//! What a pipe tells others about itself.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use cutover_core::{
    model::{position::Position, schema::TableName},
    port::sink::Born,
};
use serde::Serialize;
use tokio::sync::oneshot;

/// Changes of definitions that are remembered.
const DEFINITIONS: usize = 20;

/// What a pipe does with what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Its source owns the writes: apply them.
    Apply,
    /// The other side owns the writes: anything that arrives is an alarm.
    Watch,
}

/// How a pipe is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Opening its sessions.
    Connecting,
    /// Reading.
    Flowing,
    /// Standing still on request.
    Held,
    /// Lost a connection and tries again.
    Reconnecting {
        /// Why.
        why: String,
    },
    /// Stopped for good until somebody follows the remedy.
    Stopped {
        /// Code of the error.
        code: String,
        /// What.
        what: String,
        /// What to do.
        remedy: String,
        /// The receiving side's table that would have to be copied again.
        #[serde(skip_serializing_if = "Option::is_none")]
        spoiled: Option<TableName>,
    },
}

/// A look at a pipe.
#[derive(Debug, Clone, Serialize)]
pub struct PipeView {
    /// Its mode.
    pub mode: Mode,
    /// How it is.
    pub health: Health,
    /// Everything up to here is committed on the sink, or contained nothing for it. Before a marker
    /// it is durable as well.
    pub applied: Option<Position>,
    /// Of a pipe that watches: what the sink holds as passed, so that it is missed on a source that lacks
    /// it.
    #[serde(skip)]
    pub stored: Option<Position>,
    /// Everything up to here has arrived.
    pub received: Option<Position>,
    /// Commit time of the last applied transaction, microseconds since 1970.
    pub applied_commit_us: Option<i64>,
    /// Seconds since the pipe last heard of its source's log; `None` before it ever did.
    pub silent_seconds: Option<f64>,
    /// Complete transactions in hand, not yet applied.
    pub in_hand: u64,
    /// Bytes in hand, not yet applied.
    pub bytes_in_hand: u64,
    /// Transactions applied since this process started.
    pub transactions: u64,
    /// Row changes applied since this process started.
    pub rows: u64,
    /// Batches applied since this process started.
    pub batches: u64,
    /// Row changes that somebody made where nobody may write.
    pub foreign: u64,
    /// The same by table.
    #[serde(skip)]
    pub foreign_tables: BTreeMap<TableName, u64>,
    /// Lost connections since this process started.
    pub reconnects: u64,
    /// Transactions since this process started whose application began while they ran.
    pub early: u64,
    /// Those of them that were given up and applied at their end.
    pub early_given_up: u64,
    /// Changes of definitions in the stream, oldest first: the last ones.
    pub definitions: Vec<String>,
    /// Reasons to look at all tables anew: most are changes of definitions.
    pub redefined: u64,
    /// Partitions that came into being in the stream, empty, since this process started.
    #[serde(skip)]
    pub born: Vec<Born>,
    /// Tables that became partitions and whose rows have to be copied before the stream goes on.
    #[serde(skip)]
    pub unfollowed: Vec<TableName>,
    /// The receiving side's tables that have to be copied as a whole before the stream goes on.
    #[serde(skip)]
    pub doubted: Vec<TableName>,
}

/// Shared between the pipe's task and its handle.
#[derive(Debug)]
pub(super) struct State {
    inner: Mutex<Inner>,
    pub(super) transactions: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) foreign: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) early_began: AtomicU64,
    pub(super) early_given_up: AtomicU64,
    pub(super) in_hand: AtomicU64,
    pub(super) bytes_in_hand: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    mode: Mode,
    health: Health,
    applied: Option<Position>,
    stored: Option<Position>,
    received: Option<Position>,
    applied_commit_us: Option<i64>,
    heard: Option<Instant>,
    foreign_tables: BTreeMap<TableName, u64>,
    definitions: Vec<String>,
    redefined: u64,
    /// Those of a transaction that is not committed on the sink.
    unsettled: u64,
    born: Vec<Born>,
    born_unsettled: Vec<Born>,
    unfollowed: Vec<TableName>,
    doubted: Vec<TableName>,
    markers: HashMap<String, oneshot::Sender<Option<Position>>>,
}

impl State {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            inner: Mutex::new(Inner {
                mode,
                health: Health::Connecting,
                applied: None,
                stored: None,
                received: None,
                applied_commit_us: None,
                heard: None,
                foreign_tables: BTreeMap::new(),
                definitions: Vec::new(),
                redefined: 0,
                unsettled: 0,
                born: Vec::new(),
                born_unsettled: Vec::new(),
                unfollowed: Vec::new(),
                doubted: Vec::new(),
                markers: HashMap::new(),
            }),
            transactions: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            early_began: AtomicU64::new(0),
            early_given_up: AtomicU64::new(0),
            in_hand: AtomicU64::new(0),
            bytes_in_hand: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while holding the lock leaves plain data behind, never a half-done change.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn mode(&self) -> Mode {
        self.lock().mode
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.lock().mode = mode;
    }

    pub(super) fn set_health(&self, health: Health) {
        self.lock().health = health;
    }

    pub(super) fn heard(&self, received: Option<Position>) {
        let mut inner = self.lock();
        inner.heard = Some(Instant::now());
        if received.is_some() {
            inner.received = received;
        }
    }

    /// A change of definitions was passed; `anew`: tables are not as they were.
    pub(super) fn defined(&self, what: String, anew: bool, born: Vec<Born>) {
        let mut inner = self.lock();
        inner.unsettled += u64::from(anew);
        inner.born_unsettled.extend(born);
        if inner.definitions.len() >= DEFINITIONS {
            inner.definitions.remove(0);
        }
        inner.definitions.push(what);
    }

    /// The transaction that changed definitions has been committed on the sink, or taken back.
    pub(super) fn settled(&self, committed: bool) {
        let mut inner = self.lock();
        let unsettled = std::mem::take(&mut inner.unsettled);
        inner.redefined += if committed { unsettled } else { 0 };
        let born = std::mem::take(&mut inner.born_unsettled);
        inner.born.extend(born.into_iter().filter(|_| committed));
    }

    /// Tables have to be looked at anew, whatever the stream says.
    pub(super) fn outdated(&self) {
        self.lock().redefined += 1;
    }

    /// Tables have to be looked at anew before a change of definitions can be passed.
    pub(super) fn look_anew(&self, what: String, unfollowed: Vec<TableName>) {
        self.defined(what, false, Vec::new());
        let mut inner = self.lock();
        inner.redefined += 1;
        inner.unfollowed = unfollowed;
    }

    /// A table has to be copied as a whole before the stream goes on.
    pub(super) fn doubt(&self, target: TableName) {
        let mut inner = self.lock();
        inner.redefined += 1;
        if !inner.doubted.contains(&target) {
            inner.doubted.push(target);
        }
    }

    pub(super) fn applied(&self, position: Option<Position>, committed_at: Option<i64>) {
        let mut inner = self.lock();
        if position.is_some() {
            inner.applied = position;
        }
        if committed_at.is_some() {
            inner.applied_commit_us = committed_at;
        }
    }

    pub(super) fn stored(&self, position: Option<Position>) {
        self.lock().stored = position;
    }

    pub(super) fn expect_marker(&self, token: String) -> oneshot::Receiver<Option<Position>> {
        let (tx, rx) = oneshot::channel();
        self.lock().markers.insert(token, tx);
        rx
    }

    /// Everything that was applied so far is durable, and these markers are part of it.
    pub(super) fn markers_done(&self, tokens: &[String]) {
        if tokens.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let durable = inner.applied.clone();
        for token in tokens {
            if let Some(waiter) = inner.markers.remove(token) {
                // Nobody waits any more: the deadline of the drain has passed.
                waiter.send(durable.clone()).ok();
            }
        }
    }

    /// Somebody changed a row of this table, or emptied it, where nobody may write.
    pub(super) fn foreign_in(&self, table: &TableName) {
        let mut inner = self.lock();
        match inner.foreign_tables.get_mut(table) {
            Some(rows) => *rows += 1,
            None => _ = inner.foreign_tables.insert(table.clone(), 1),
        }
    }

    pub(super) fn view(&self) -> PipeView {
        let inner = self.lock();
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        PipeView {
            mode: inner.mode,
            health: inner.health.clone(),
            applied: inner.applied.clone(),
            stored: inner.stored.clone(),
            received: inner.received.clone(),
            applied_commit_us: inner.applied_commit_us,
            silent_seconds: inner.heard.map(|at| at.elapsed().as_secs_f64()),
            in_hand: load(&self.in_hand),
            bytes_in_hand: load(&self.bytes_in_hand),
            transactions: load(&self.transactions),
            rows: load(&self.rows),
            batches: load(&self.batches),
            foreign: load(&self.foreign),
            foreign_tables: inner.foreign_tables.clone(),
            reconnects: load(&self.reconnects),
            early: load(&self.early_began),
            early_given_up: load(&self.early_given_up),
            definitions: inner.definitions.clone(),
            redefined: inner.redefined,
            born: inner.born.clone(),
            unfollowed: inner.unfollowed.clone(),
            doubted: inner.doubted.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was applied behind a marker when somebody looks may not be on the disk yet.
    #[test]
    fn a_marker_says_how_far_all_is_durable() {
        let at = |lsn| Some(Position::Postgres { timeline: 1, lsn });
        let state = State::new(Mode::Apply);
        let mut arrived = state.expect_marker("m".to_owned());
        state.applied(at(10), None);
        state.markers_done(&["m".to_owned()]);
        state.applied(at(20), None);
        assert_eq!(arrived.try_recv(), Ok(at(10)));
    }
}
