//! The events of one call, cut at commits and sorted by target table. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use cutover_core::{
    model::{
        event::{Change, Event},
        position::Position,
        value::{Tuple, Value},
    },
    port::Result,
};

use super::{
    reduce::{Pending, Reason, Step},
    refusal::{self, Place},
    router::Router,
};

/// Where a call's events are cut.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Events before this one are applied already.
    pub(super) skip: usize,
    /// The transaction that was open before the call is applied already.
    pub(super) discard_open: bool,
    /// Events from `skip` to here are whole transactions (the first may have begun earlier).
    pub(super) closed: usize,
    /// Where the last of them ends.
    pub(super) position: Option<Position>,
    /// The transaction that is open behind them.
    pub(super) open: Option<u32>,
}

/// Cuts the events of a call. `open` is the transaction that earlier calls left open, `durable`
/// what is stored already.
///
/// # Errors
///
/// `CUT0411` when the events make no stream, `CUT0406` when positions cannot be compared.
pub(super) fn cut(events: &[Event], open: Option<u32>, durable: Option<&Position>) -> Result<Cut> {
    let mut inside = open;
    let mut at = Cut { skip: 0, discard_open: false, closed: 0, position: None, open: None };
    for (i, event) in events.iter().enumerate() {
        match (event, inside) {
            (Event::Begin { transaction, .. }, None) => inside = Some(*transaction),
            (Event::Commit { position }, Some(_)) => {
                inside = None;
                at.closed = i + 1;
                if is_covered(durable, position)? {
                    if at.position.is_some() {
                        return Err(refusal::wrong_history(format!(
                            "a transaction at {position} follows later ones"
                        )));
                    }
                    at.skip = i + 1;
                    at.discard_open |= open.is_some();
                } else {
                    at.position = Some(position.clone());
                }
            }
            (Event::Idle { position }, None) => {
                at.closed = i + 1;
                if !is_covered(durable, position)? {
                    at.position = Some(position.clone());
                }
            }
            (Event::Row { .. } | Event::Truncate { .. } | Event::Definition { .. }, Some(_))
            | (Event::Message { .. }, _) => {}
            // Only the stream itself can read them.
            (Event::Large { .. } | Event::InProgress { .. } | Event::RolledBack { .. }, _) => {
                return Err(refusal::not_a_stream("rows of a large transaction are missing"));
            }
            (Event::Begin { .. }, Some(_)) => {
                return Err(refusal::not_a_stream("a transaction begins inside of another"));
            }
            (Event::Idle { .. }, Some(_)) => {
                return Err(refusal::not_a_stream("the stream is idle inside of a transaction"));
            }
            (
                Event::Row { .. }
                | Event::Truncate { .. }
                | Event::Definition { .. }
                | Event::Commit { .. },
                None,
            ) => {
                return Err(refusal::not_a_stream("a change stands outside of a transaction"));
            }
        }
    }
    at.open = inside;
    Ok(at)
}

fn is_covered(durable: Option<&Position>, position: &Position) -> Result<bool> {
    match durable {
        None => Ok(false),
        Some(durable) => {
            durable.covers(position).map_err(|e| refusal::wrong_history(e.to_string()))
        }
    }
}

/// Events that are reduced and sent together. Fewer would reduce less, more would leave the server
/// idle for longer.
const PART: usize = 6_000;

/// Cuts a range of events into parts of about equal size, anywhere.
pub(super) fn parts(range: Range<usize>) -> Vec<Range<usize>> {
    let count = (range.len() / PART).max(1);
    let size = range.len().div_ceil(count).max(1);
    let mut parts: Vec<Range<usize>> =
        range.clone().step_by(size).map(|start| start..(start + size).min(range.end)).collect();
    if parts.is_empty() {
        // The end of a transaction still has to be written.
        parts.push(range);
    }
    parts
}

/// Whether there is anything to write.
pub(super) fn has_rows(events: &[Event]) -> bool {
    events.iter().any(|e| matches!(e, Event::Row { .. } | Event::Truncate { .. }))
}

/// Where in the stream the event stands. `open` is the transaction that has no end yet.
pub(super) fn place(events: &[Event], event: usize, open: Option<u32>) -> Place {
    let end = events[event..].iter().find_map(|e| match e {
        Event::Commit { position } => Some(position.clone()),
        _ => None,
    });
    match end {
        Some(position) => Place::Position(position),
        None => Place::Open(open.unwrap_or_default()),
    }
}

/// Tables that are emptied by one statement.
#[derive(Debug)]
pub(super) struct Truncate {
    /// Numbers of the targets.
    pub(super) targets: Vec<usize>,
    /// Others that refer to them keep their rows.
    pub(super) others: bool,
    pub(super) restart_identity: bool,
    /// Which event it was, for messages.
    pub(super) event: usize,
}

/// What a call must write: first the truncates in order, then the tables in any order.
///
/// A truncate makes everything before it void for its tables, so only what follows is kept.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    pub(super) truncates: Vec<Truncate>,
    pub(super) tables: Vec<(usize, Pending<'a>)>,
}

impl<'a> Batch<'a> {
    /// Sorts events by target; tables of `in_order` are not reduced. All relations must have been
    /// learned. `offset` is the number of the first event, for messages.
    ///
    /// # Errors
    ///
    /// `CUT0411` for rows that do not fit their table, `CUT0405` for a truncate that this side
    /// cannot repeat.
    pub(super) fn collect(
        router: &'a Router,
        events: &'a [Event],
        offset: usize,
        open: Option<u32>,
        in_order: &BTreeSet<usize>,
    ) -> Result<Self> {
        let mut batch = Self::default();
        let mut slots: HashMap<usize, usize> = HashMap::new();
        let mut last = None;
        for (i, event) in events.iter().enumerate() {
            match event {
                Event::Row { relation, change } => {
                    let address = std::sync::Arc::as_ptr(relation);
                    let (shape, slot) = match last {
                        Some((known, shape, slot)) if known == address => (shape, slot),
                        _ => {
                            let shape = router.shape(relation)?;
                            let slot = *slots.entry(shape.target).or_insert_with(|| {
                                batch.tables.push((shape.target, pending(in_order, shape.target)));
                                batch.tables.len() - 1
                            });
                            last = Some((address, shape, slot));
                            (shape, slot)
                        }
                    };
                    fits(change, shape.width)?;
                    batch.tables[slot].1.push(Step { shape, change, event: offset + i });
                }
                Event::Truncate { relations, others, restart_identity, .. } => {
                    let mut targets: Vec<usize> = Vec::new();
                    for relation in relations {
                        let target = router.index(relation)?;
                        targets.push(target);
                    }
                    check_roots(router, &targets, || place(events, i, open))?;
                    targets.sort_unstable();
                    targets.dedup();
                    for (target, void) in &mut batch.tables {
                        if targets.contains(target) {
                            *void = pending(in_order, *target);
                        }
                    }
                    batch.truncates.push(Truncate {
                        targets,
                        others: *others,
                        restart_identity: *restart_identity,
                        event: offset + i,
                    });
                }
                _ => {}
            }
        }
        batch.tables.retain(|(_, pending)| !pending.steps.is_empty());
        Ok(batch)
    }
}

fn pending<'a>(in_order: &BTreeSet<usize>, target: usize) -> Pending<'a> {
    let mut pending = Pending::default();
    if in_order.contains(&target) {
        pending.keep_order(Reason::Asked);
    }
    pending
}

/// Emptying one of several source tables must not empty what the others wrote into the same
/// target, or into one above or below it.
fn check_roots(router: &Router, targets: &[usize], place: impl Fn() -> Place) -> Result<()> {
    let mut named: HashMap<usize, usize> = HashMap::new();
    for target in targets {
        *named.entry(router.holder(*target).0).or_default() += 1;
    }
    for target in targets {
        let (holder, sources) = router.holder(*target);
        if named[&holder] < sources {
            let name = |index| &router.target(index).name;
            return Err(refusal::truncate_unshared(name(*target), name(holder), &place()));
        }
    }
    Ok(())
}

fn fits(change: &Change, width: usize) -> Result<()> {
    let complete = |t: &Tuple| t.values().all(|v| v != Value::Unchanged);
    let ok = match change {
        Change::Insert { new } => new.len() == width && complete(new),
        Change::Update { old, new } => {
            new.len() == width && old.as_ref().is_none_or(|o| o.len() == width)
        }
        Change::Delete { old } => old.len() == width,
    };
    if ok { Ok(()) } else { Err(refusal::not_a_stream("a row does not fit its table")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Position {
        Position::Postgres { timeline: 1, lsn }
    }

    fn begin(transaction: u32) -> Event {
        Event::Begin { transaction, committed_at: 0 }
    }

    fn commit(lsn: u64) -> Event {
        Event::Commit { position: at(lsn) }
    }

    fn idle(lsn: u64) -> Event {
        Event::Idle { position: at(lsn) }
    }

    fn row() -> Event {
        let relations = Vec::new();
        Event::Truncate { relations, others: false, cascade: false, restart_identity: false }
    }

    #[test]
    fn whole_transactions_are_told_from_an_open_one() {
        let events = [begin(1), row(), commit(10), begin(2), row()];
        let cut = cut(&events, None, None).unwrap();
        assert_eq!((cut.closed, cut.position, cut.open), (3, Some(at(10)), Some(2)));
    }

    #[test]
    fn an_open_transaction_goes_on_and_ends() {
        assert_eq!(cut(&[row(), row()], Some(7), None).unwrap().open, Some(7));
        let done = cut(&[row(), commit(9), idle(12)], Some(7), None).unwrap();
        assert_eq!((done.closed, done.position, done.open), (3, Some(at(12)), None));
    }

    #[test]
    fn what_is_stored_is_skipped() {
        let events = [begin(1), commit(10), begin(2), commit(20), begin(3), commit(30)];
        let cut = cut(&events, None, Some(&at(20))).unwrap();
        assert_eq!((cut.skip, cut.closed, cut.position), (4, 6, Some(at(30))));
        let all = super::cut(&events[..4], None, Some(&at(20))).unwrap();
        assert_eq!((all.skip, all.position), (4, None));
        let open = super::cut(&[row(), commit(10)], Some(1), Some(&at(20))).unwrap();
        assert!(open.discard_open);
    }

    #[test]
    fn nonsense_is_refused() {
        for (events, open) in [
            (vec![row()], None),
            (vec![commit(1)], None),
            (vec![begin(1), begin(2)], None),
            (vec![begin(2)], Some(1)),
            (vec![idle(3)], Some(1)),
        ] {
            assert_eq!(cut(&events, open, None).unwrap_err().code(), Some("CUT0411"));
        }
        let other = Position::Postgres { timeline: 2, lsn: 1 };
        let error = cut(&[begin(1), commit(5)], None, Some(&other)).unwrap_err();
        assert_eq!(error.code(), Some("CUT0406"));
        let back = [begin(1), commit(30), begin(2), commit(5)];
        assert_eq!(cut(&back, None, Some(&at(20))).unwrap_err().code(), Some("CUT0406"));
    }

    #[test]
    fn parts_hold_every_event_once() {
        for len in [0, 1, PART - 1, PART, 2 * PART - 1, 2 * PART, 5 * PART + 3] {
            let parts = parts(7..7 + len);
            assert_eq!(parts.first().unwrap().start, 7);
            assert_eq!(parts.last().unwrap().end, 7 + len);
            assert!(parts.windows(2).all(|p| p[0].end == p[1].start && !p[1].is_empty()));
            assert_eq!(parts.len(), (len / PART).max(1));
        }
    }

    #[test]
    fn the_place_of_a_change_is_the_end_of_its_transaction() {
        let events = [begin(1), row(), commit(10), begin(2), row()];
        assert_eq!(place(&events, 1, None), Place::Position(at(10)));
        assert_eq!(place(&events, 4, Some(2)), Place::Open(2));
    }
}
