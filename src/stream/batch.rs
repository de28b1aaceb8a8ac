//! Cuts a stream into batches: whole transactions up to a byte budget, a single larger
//! transaction in pieces, and a stop exactly at a position or behind a marker. Pure.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use cutover_core::model::{
    event::{Event, TransactionId},
    position::Position,
    selection::Selection,
};

use super::{
    HoldPoint, MESSAGE_PREFIX,
    handover::{Handover, Unsure},
};

/// What to do next.
#[derive(Debug)]
pub(super) enum Cut {
    /// Apply these.
    Batch(Batch),
    /// Definitions changed here: everything before was handed out, the beginning of the
    /// transaction included, and its rest comes afterwards, by itself.
    Definition(Vec<u8>),
    /// A large transaction committed: everything before was handed out, its rows are read apart.
    Large(Large),
    /// The hold point is reached: everything up to it was handed out, nothing behind it.
    Hold,
    /// More events are needed.
    Wait,
}

/// A large transaction that committed.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) transaction: TransactionId,
    /// Microseconds since 1970.
    pub(super) committed_at: i64,
    pub(super) end: Position,
    /// What of its rows was copied already.
    pub(super) handover: Handover,
}

/// What is said about transactions in progress, at places between transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// So many bytes of it rest on nothing but what was handed out, this batch included.
    InProgress { transaction: TransactionId, kept: u64 },
    /// To be obeyed before anything behind it, and sooner does no harm.
    RolledBack { transaction: TransactionId, part: TransactionId },
}

/// Events to apply together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    /// Where the last complete transaction (or idle stretch) ends; `None` for a piece.
    pub(super) end: Option<Position>,
    /// Commit time of the last transaction, microseconds since 1970.
    pub(super) committed_at: Option<i64>,
    /// Tokens of our markers in it.
    pub(super) markers: Vec<String>,
    pub(super) transactions: u64,
    pub(super) rows: u64,
    /// Tables in it, by the addresses of their relations, and the one seen last.
    tables: HashSet<usize>,
    last: usize,
    pub(super) notes: Vec<Note>,
}

/// Tables after which a batch is handed out: each of them and of their indexes is locked on the
/// target until its commit, in a table that all sessions share.
const TABLES: usize = 250;

/// One transaction, or one event outside of any. A transaction that changes definitions is cut at
/// these places.
#[derive(Debug, Default)]
struct Unit {
    events: Vec<Event>,
    bytes: usize,
    end: Option<Position>,
    markers: Vec<String>,
    /// What its only event says.
    definition: Option<Vec<u8>>,
    /// Its only event.
    note: Option<Note>,
    /// The rows are read apart: which transaction, and what of them was copied already.
    large: Option<(TransactionId, Handover)>,
    /// Nothing may stand in the same batch: what follows may rest on definitions that this one
    /// commits.
    alone: bool,
}

#[derive(Debug, Default)]
pub(super) struct Batcher {
    ready: VecDeque<Unit>,
    tail: Unit,
    in_transaction: bool,
    /// The transaction that is being read changes definitions.
    defines: bool,
    /// How many of `ready` are notes.
    notes: usize,
    bytes: usize,
    /// Each transaction stands alone.
    singly: bool,
    handover: Handover,
    unsure: Option<Unsure>,
    selection: Selection,
}

impl Batcher {
    pub(super) fn new(handover: Handover, selection: Selection) -> Self {
        Self { handover, selection, ..Self::default() }
    }

    /// Whether each transaction is handed out by itself.
    pub(super) fn singly(&mut self, singly: bool) {
        self.singly = singly;
    }

    /// Whether every row that comes from here on has to be applied, or is of no interest at all.
    pub(super) fn handed_over(&self) -> bool {
        self.handover.is_over()
    }

    /// A table of which nobody knows what of the events in hand its copy contains.
    pub(super) fn unsure(&self) -> Option<&Unsure> {
        self.unsure.as_ref()
    }

    /// Takes events from the stream, in order.
    pub(super) fn push(&mut self, events: impl IntoIterator<Item = Event>) {
        for mut event in events {
            let kept = self.handover.keep(&mut event).unwrap_or_else(|unsure| {
                self.unsure.get_or_insert(unsure);
                true
            });
            if !kept || !selected(&self.selection, &mut event) {
                continue;
            }
            // Of an application, and of no transaction: it would look like a piece of one that goes on.
            let lone = !self.in_transaction;
            if lone && matches!(&event, Event::Message { prefix, .. } if prefix != MESSAGE_PREFIX) {
                continue;
            }
            let note = match &event {
                Event::InProgress { transaction, kept } => {
                    Some(Note::InProgress { transaction: *transaction, kept: *kept })
                }
                Event::RolledBack { transaction, part } => {
                    Some(Note::RolledBack { transaction: *transaction, part: *part })
                }
                _ => None,
            };
            if note.is_some() {
                self.notes += 1;
                self.ready.push_back(Unit { note, ..Unit::default() });
                continue;
            }
            if let Event::Definition { content } = event {
                self.define(content.to_vec());
                continue;
            }
            let bytes = event.bytes();
            self.bytes += bytes;
            self.tail.bytes += bytes;
            let mut complete = !self.in_transaction;
            match &event {
                Event::Begin { .. } => {
                    self.in_transaction = true;
                    complete = false;
                }
                Event::Commit { position } => {
                    self.in_transaction = false;
                    self.tail.end = Some(position.clone());
                    self.tail.alone = std::mem::take(&mut self.defines);
                    complete = true;
                }
                Event::Idle { position } => self.tail.end = Some(position.clone()),
                Event::Large { transaction } => {
                    self.tail.large = Some((*transaction, self.handover.clone()));
                }
                Event::Message { prefix, content } if prefix == MESSAGE_PREFIX => {
                    self.tail.markers.push(String::from_utf8_lossy(content).into_owned());
                }
                _ => {}
            }
            self.tail.events.push(event);
            if complete {
                self.ready.push_back(std::mem::take(&mut self.tail));
            }
        }
    }

    /// Cuts the transaction that is being read.
    fn define(&mut self, content: Vec<u8>) {
        self.defines = true;
        let before = Unit { alone: true, ..std::mem::take(&mut self.tail) };
        // Empty when two changes follow each other, or when a piece was handed out before.
        if !before.events.is_empty() {
            self.ready.push_back(before);
        }
        self.ready.push_back(Unit { definition: Some(content), ..Unit::default() });
    }

    /// Bytes in hand.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Complete transactions in hand.
    pub(super) fn transactions(&self) -> usize {
        self.ready.len() - self.notes
    }

    /// The next thing to do. `budget` is in bytes, at least one transaction is always handed out.
    pub(super) fn cut(&mut self, budget: usize, hold: Option<&HoldPoint>) -> Cut {
        if hold == Some(&HoldPoint::Now) {
            return Cut::Hold;
        }
        let mut batch = Batch::default();
        let mut bytes = 0;
        while let Some(unit) = self.ready.front() {
            if let Some(note) = unit.note {
                self.ready.pop_front();
                self.notes -= 1;
                batch.note(note);
                continue;
            }
            let ends = match unit.end {
                Some(_) => Some(unit),
                // Where a transaction ends that is cut at definitions.
                None => self.ready.iter().find(|u| u.end.is_some()),
            };
            match ends {
                Some(unit) if beyond(hold, unit) => {
                    return if batch.is_empty() { Cut::Hold } else { Cut::Batch(batch) };
                }
                None if hold.is_some() && self.in_transaction => {
                    return if batch.is_empty() { Cut::Wait } else { Cut::Batch(batch) };
                }
                _ => {}
            }
            let apart = unit.alone || unit.definition.is_some() || unit.large.is_some();
            let full = self.singly || bytes + unit.bytes > budget || batch.tables.len() >= TABLES;
            if !batch.is_empty() && (apart || full) {
                return Cut::Batch(batch);
            }
            let Some(mut unit) = self.ready.pop_front() else { break };
            if let Some(content) = unit.definition {
                return Cut::Definition(content);
            }
            self.bytes -= unit.bytes;
            if let (Some((transaction, handover)), Some(end)) = (unit.large.take(), &unit.end) {
                let committed_at = match unit.events.first() {
                    Some(Event::Begin { committed_at, .. }) => *committed_at,
                    _ => 0,
                };
                let end = end.clone();
                return Cut::Large(Large { transaction, committed_at, end, handover });
            }
            bytes += unit.bytes;
            let last = apart || at_marker(hold, &unit);
            batch.add(unit);
            if last {
                return Cut::Batch(batch);
            }
        }
        if !batch.is_empty() {
            return Cut::Batch(batch);
        }
        if self.tail.bytes > budget {
            let unit = std::mem::take(&mut self.tail);
            self.bytes -= unit.bytes;
            batch.add(unit);
            return Cut::Batch(batch);
        }
        Cut::Wait
    }
}

/// Whether the event belongs to the run: leaves that the user excludes arrive with their root.
/// Of those that were emptied by one statement the others stay.
pub(super) fn selected(selection: &Selection, event: &mut Event) -> bool {
    selection.exclude.is_empty()
        || match event {
            Event::Row { relation, .. } => !selection.excludes(&relation.name),
            Event::Truncate { relations, .. } => {
                relations.retain(|r| !selection.excludes(&r.name));
                !relations.is_empty()
            }
            _ => true,
        }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.notes.is_empty()
    }

    /// Once all of a transaction is rolled back, nothing else counts.
    fn note(&mut self, note: Note) {
        if let Note::RolledBack { transaction: gone, part } = note
            && gone == part
        {
            self.notes.retain(|n| match n {
                Note::InProgress { transaction, .. } => *transaction != gone,
                Note::RolledBack { .. } => true,
            });
        }
        self.notes.push(note);
    }

    fn add(&mut self, unit: Unit) {
        for event in &unit.events {
            match event {
                Event::Begin { committed_at, .. } => self.committed_at = Some(*committed_at),
                Event::Row { relation, .. } => {
                    self.rows += 1;
                    let address = Arc::as_ptr(relation) as usize;
                    if std::mem::replace(&mut self.last, address) != address {
                        self.tables.insert(address);
                    }
                }
                Event::Truncate { .. } => self.rows += 1,
                Event::Commit { .. } => self.transactions += 1,
                _ => {}
            }
        }
        self.events.extend(unit.events);
        self.end = unit.end;
        self.markers.extend(unit.markers);
    }
}

/// Whether the unit ends behind the hold position. An idle stretch that reaches it proves as well
/// that everything before has arrived.
fn beyond(hold: Option<&HoldPoint>, unit: &Unit) -> bool {
    let (Some(HoldPoint::Position(hold)), Some(end)) = (hold, &unit.end) else { return false };
    match unit.events.last() {
        Some(Event::Idle { .. }) => end.covers(hold) == Ok(true),
        _ => hold.covers(end) == Ok(false),
    }
}

fn at_marker(hold: Option<&HoldPoint>, unit: &Unit) -> bool {
    matches!(hold, Some(HoldPoint::Marker(token)) if unit.markers.contains(token))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cutover_core::model::{
        event::{Change, Relation},
        schema::TableName,
        value::{TupleBuilder, Value},
    };

    use super::*;

    fn at(lsn: u64) -> Position {
        Position::Postgres { timeline: 1, lsn }
    }

    fn begin() -> Event {
        Event::Begin { transaction: 7, committed_at: 1 }
    }

    fn row(size: usize) -> Event {
        let mut b = TupleBuilder::new();
        b.push(Value::Text(&vec![b'x'; size]));
        let relation = Relation {
            id: 1,
            name: TableName::new("s", "t"),
            columns: Vec::new(),
            full_identity: false,
        };
        Event::Row { relation: Arc::new(relation), change: Change::Insert { new: b.finish() } }
    }

    fn commit(lsn: u64) -> Event {
        Event::Commit { position: at(lsn) }
    }

    fn marker(token: &str) -> Event {
        Event::Message {
            prefix: MESSAGE_PREFIX.into(),
            content: Bytes::copy_from_slice(token.as_bytes()),
        }
    }

    fn batch(cut: Cut) -> Batch {
        match cut {
            Cut::Batch(b) => b,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whole_transactions_up_to_the_budget() {
        let mut b = Batcher::default();
        b.push([begin(), row(10), commit(10), begin(), row(10), commit(20), begin(), row(10)]);
        let first = batch(b.cut(1 << 20, None));
        assert_eq!((first.transactions, first.rows, first.end), (2, 2, Some(at(20))));
        assert!(matches!(b.cut(1 << 20, None), Cut::Wait), "the third has not ended");
        b.push([commit(30)]);
        assert_eq!(batch(b.cut(1 << 20, None)).end, Some(at(30)));
        assert_eq!(b.bytes(), 0);
    }

    #[test]
    fn a_message_of_an_application_is_no_piece_of_a_transaction() {
        let foreign = || Event::Message { prefix: "outbox".into(), content: Bytes::new() };
        let mut b = Batcher::default();
        b.push([foreign()]);
        assert!(matches!(b.cut(1 << 20, None), Cut::Wait));
        b.push([begin(), row(10), foreign(), commit(10), foreign()]);
        let one = batch(b.cut(1 << 20, None));
        assert_eq!((one.transactions, one.end), (1, Some(at(10))));
        assert_eq!(b.bytes(), 0);
    }

    #[test]
    fn a_small_budget_still_moves_on() {
        let mut b = Batcher::default();
        b.push([begin(), row(10), commit(10), begin(), row(10), commit(20)]);
        assert_eq!(batch(b.cut(1, None)).end, Some(at(10)));
        assert_eq!(batch(b.cut(1, None)).end, Some(at(20)));
    }

    #[test]
    fn singly_also_what_weighs_nothing() {
        let mut b = Batcher::default();
        b.singly(true);
        b.push([Event::Idle { position: at(5) }, begin(), commit(10), begin(), row(9), commit(20)]);
        for end in [5, 10, 20] {
            assert_eq!(batch(b.cut(1 << 20, None)).end, Some(at(end)));
        }
        b.push([begin(), row(9)]);
        assert!(matches!(b.cut(1 << 20, None), Cut::Wait), "a piece is for what is too large");
    }

    #[test]
    fn transactions_on_many_tables_come_in_several_batches() {
        let mut b = Batcher::default();
        for _ in 0..3 * TABLES {
            // Each of these rows has a relation of its own.
            b.push([begin(), row(1), row(1), commit(10)]);
        }
        let first = batch(b.cut(1 << 20, None));
        assert_eq!(first.transactions, TABLES as u64 / 2);
        let same = row(1);
        let mut b = Batcher::default();
        for _ in 0..3 * TABLES {
            b.push([begin(), same.clone(), commit(10)]);
        }
        assert_eq!(batch(b.cut(1 << 20, None)).transactions, 3 * TABLES as u64);
    }

    #[test]
    fn a_large_transaction_comes_in_pieces() {
        let mut b = Batcher::default();
        b.push([begin(), row(5000)]);
        let piece = batch(b.cut(1000, None));
        assert_eq!((piece.end, piece.transactions), (None, 0));
        b.push([row(10), commit(40)]);
        let rest = batch(b.cut(1000, None));
        assert_eq!((rest.end, rest.events.len()), (Some(at(40)), 2));
    }

    #[test]
    fn holds_exactly_at_a_position() {
        let hold = HoldPoint::Position(at(20));
        let mut b = Batcher::default();
        b.push([begin(), row(1), commit(10), begin(), row(1), commit(20)]);
        assert_eq!(batch(b.cut(1 << 20, Some(&hold))).end, Some(at(20)));
        assert!(matches!(b.cut(1 << 20, Some(&hold)), Cut::Wait), "more may end at or before 20");
        b.push([begin(), row(1), commit(21)]);
        assert!(matches!(b.cut(1 << 20, Some(&hold)), Cut::Hold));
        assert_eq!(batch(b.cut(1 << 20, None)).end, Some(at(21)));
    }

    #[test]
    fn an_idle_stretch_proves_the_hold() {
        let hold = HoldPoint::Position(at(20));
        let mut b = Batcher::default();
        b.push([Event::Idle { position: at(19) }]);
        assert_eq!(batch(b.cut(1 << 20, Some(&hold))).end, Some(at(19)));
        b.push([Event::Idle { position: at(20) }]);
        assert!(matches!(b.cut(1 << 20, Some(&hold)), Cut::Hold));
    }

    fn definition(text: &'static str) -> Event {
        Event::Definition { content: Bytes::from_static(text.as_bytes()) }
    }

    fn said(cut: Cut) -> Vec<u8> {
        match cut {
            Cut::Definition(content) => content,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_batch_never_spans_a_change_of_definitions() {
        let mut b = Batcher::default();
        b.push([begin(), row(1), commit(10), begin(), row(1), definition("a"), definition("b")]);
        assert_eq!(batch(b.cut(1 << 20, None)).end, Some(at(10)));
        let piece = batch(b.cut(1 << 20, None));
        assert_eq!((piece.end, piece.rows), (None, 1));
        assert_eq!(said(b.cut(1 << 20, None)), b"a");
        assert_eq!(said(b.cut(1 << 20, None)), b"b");
        assert!(matches!(b.cut(1 << 20, None), Cut::Wait));
        b.push([row(1), commit(20), begin(), row(1), commit(30)]);
        let rest = batch(b.cut(1 << 20, None));
        assert_eq!((rest.end, rest.rows), (Some(at(20)), 1));
        assert_eq!(batch(b.cut(1 << 20, None)).end, Some(at(30)));
        assert_eq!(b.bytes(), 0);
    }

    #[test]
    fn a_hold_is_kept_by_a_transaction_that_changes_definitions() {
        let hold = HoldPoint::Position(at(15));
        let mut b = Batcher::default();
        b.push([begin(), row(1), commit(10), begin(), definition("a")]);
        assert_eq!(batch(b.cut(1 << 20, Some(&hold))).end, Some(at(10)));
        assert!(matches!(b.cut(1 << 20, Some(&hold)), Cut::Wait), "nobody knows where it ends");
        b.push([commit(20)]);
        assert!(matches!(b.cut(1 << 20, Some(&hold)), Cut::Hold));
        assert_eq!(batch(b.cut(1 << 20, None)).end, None);
        assert_eq!(said(b.cut(1 << 20, None)), b"a");
        assert_eq!(batch(b.cut(1 << 20, None)).end, Some(at(20)));
    }

    #[test]
    fn a_large_transaction_stands_alone_and_notes_break_nothing() {
        let note = |kept| Event::InProgress { transaction: 9, kept };
        let undone = |part| Event::RolledBack { transaction: 9, part };
        let mut b = Batcher::default();
        b.push([note(5), begin(), row(1), commit(10), undone(11), note(8), begin(), row(1)]);
        b.push([commit(20), begin(), Event::Large { transaction: 7 }, commit(30)]);
        b.push([begin(), row(1), commit(40)]);
        assert_eq!(b.transactions(), 4);
        let first = batch(b.cut(1 << 20, None));
        assert_eq!((first.transactions, first.rows, first.end), (2, 2, Some(at(20))));
        assert_eq!(
            first.notes,
            [
                Note::InProgress { transaction: 9, kept: 5 },
                Note::RolledBack { transaction: 9, part: 11 },
                Note::InProgress { transaction: 9, kept: 8 },
            ]
        );
        // A hold before it is kept, and it is handed out alone.
        let hold = HoldPoint::Position(at(25));
        assert!(matches!(b.cut(1 << 20, Some(&hold)), Cut::Hold));
        let Cut::Large(large) = b.cut(1 << 20, None) else { panic!() };
        assert_eq!((large.transaction, large.committed_at, large.end), (7, 1, at(30)));
        assert_eq!(batch(b.cut(1 << 20, None)).end, Some(at(40)));
        assert_eq!((b.bytes(), b.transactions()), (0, 0));
        b.push([note(5), undone(9)]);
        let end = batch(b.cut(1 << 20, None));
        assert_eq!(end.notes, [Note::RolledBack { transaction: 9, part: 9 }]);
        assert!(matches!(b.cut(1 << 20, None), Cut::Wait));
    }

    #[test]
    fn stops_behind_a_marker() {
        let hold = HoldPoint::Marker("m1".into());
        let mut b = Batcher::default();
        b.push([begin(), row(1), commit(10), begin(), marker("m1"), commit(12)]);
        b.push([begin(), row(1), commit(20)]);
        let cut = batch(b.cut(1 << 20, Some(&hold)));
        assert_eq!((cut.end, cut.markers), (Some(at(12)), vec!["m1".to_owned()]));
    }
}
