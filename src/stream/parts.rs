//! The handover of a table whose parts, ranges of its key, were copied under several snapshots.
//!
//! A part holds what its snapshot contains, and gets every other transaction that concerns keys of
//! it. Parts have no row in common, so each is joined as a table would be. A row that goes from one
//! to another is removed from the first and comes new to the second, each unless it contains that.
//! Where that cannot be said the table is copied as a whole: nothing is guessed.

use cutover_core::model::{
    event::{Change, Relation, TransactionId},
    ranges::KeyRanges,
    schema::TableName,
    value::{Tuple, Value},
};

use super::handover::Visibility;

/// PostgreSQL's numbers of `bigint`, `smallint` and `integer`.
const WHOLE: [u32; 3] = [20, 21, 23];

/// A table in parts.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where they are.
    target: TableName,
    ranges: KeyRanges,
    /// What each part contains.
    seen: Vec<Visibility>,
}

/// Where a transaction is contained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Everywhere,
    Partly,
    Nowhere,
}

/// What becomes of a change.
#[derive(Debug)]
pub(super) enum Row {
    /// It is there already.
    Left,
    /// It is applied as it is.
    Kept,
    /// This is applied instead.
    Becomes(Change),
}

/// It is not known what the parts of this target make of a change: it has to be copied as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parts of {0} were copied at different times, and a change cannot be divided among them")]
pub struct Unsure(pub TableName);

impl Parts {
    /// `None` unless there is a snapshot for each range.
    #[must_use]
    pub fn new(target: TableName, ranges: KeyRanges, seen: Vec<Visibility>) -> Option<Self> {
        (seen.len() == ranges.count()).then_some(Self { target, ranges, seen })
    }

    pub(super) fn seen(&self, id: TransactionId) -> Seen {
        let mut answers = self.seen.iter().map(|snapshot| snapshot.contains(id));
        let first = answers.next().unwrap_or(false);
        match answers.all(|answer| answer == first) {
            false => Seen::Partly,
            true if first => Seen::Everywhere,
            true => Seen::Nowhere,
        }
    }

    /// What becomes of a change by transaction `id`, which some parts contain and some do not.
    pub(super) fn row(
        &self,
        id: TransactionId,
        relation: &Relation,
        change: &Change,
    ) -> Result<Row, Unsure> {
        let there = |row: &Tuple| {
            let key = self.key(relation, row).ok_or_else(|| self.unsure())?;
            Ok(self.seen[self.ranges.of(key)].contains(id))
        };
        let as_it_is = |there: bool| if there { Row::Left } else { Row::Kept };
        Ok(match change {
            Change::Insert { new } | Change::Update { old: None, new } => as_it_is(there(new)?),
            Change::Delete { old } => as_it_is(there(old)?),
            Change::Update { old: Some(old), new } => match (there(old)?, there(new)?) {
                (gone, come) if gone == come => as_it_is(gone),
                (true, _) => {
                    // With the whole old row nothing is missing.
                    let new =
                        if relation.full_identity { new.filled_from(old) } else { new.clone() };
                    if new.values().any(|value| value == Value::Unchanged) {
                        return Err(self.unsure());
                    }
                    Row::Becomes(Change::Insert { new })
                }
                (false, _) => Row::Becomes(Change::Delete { old: old.clone() }),
            },
        })
    }

    /// The key of a row, where it is among what the stream tells rows apart by: then it is in every
    /// row of the stream, and a row that gets another one brings both.
    fn key(&self, relation: &Relation, row: &Tuple) -> Option<i64> {
        let at = relation.columns.iter().position(|c| c.name == self.ranges.column)?;
        let column = &relation.columns[at];
        let known = relation.full_identity || column.key;
        if !known || !WHOLE.contains(&column.type_id) || at >= row.len() {
            return None;
        }
        match row.get(at) {
            Value::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            Value::Binary(_) | Value::Null | Value::Unchanged => None,
        }
    }

    /// The table has to be copied as a whole: also where such a transaction empties it, since some
    /// parts hold rows of before and some of after that.
    pub(super) fn unsure(&self) -> Unsure {
        Unsure(self.target.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, HashMap},
        sync::Arc,
    };

    use cutover_core::model::{
        event::{Event, RelationColumn},
        value::TupleBuilder,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::stream::handover::{Copied, Handover};

    const BOUNDS: [i64; 3] = [10, 20, 30];

    fn name() -> TableName {
        TableName::new("s", "t")
    }

    fn relation(full_identity: bool) -> Arc<Relation> {
        let column = |name: &str, key, type_id| RelationColumn {
            name: name.into(),
            key,
            type_id,
            type_modifier: -1,
        };
        let columns = vec![column("v", full_identity, 25), column("id", true, 23)];
        Arc::new(Relation { id: 7, name: name(), columns, full_identity })
    }

    fn tuple(key: i64, value: Value<'_>) -> Tuple {
        let mut row = TupleBuilder::new();
        row.push(value);
        row.push(Value::Text(key.to_string().as_bytes()));
        row.finish()
    }

    fn text(key: i64, value: u32) -> Tuple {
        tuple(key, Value::Text(value.to_string().as_bytes()))
    }

    fn handover(seen: &[u64]) -> Handover {
        let ranges = KeyRanges { column: "id".into(), bounds: BOUNDS.to_vec() };
        let seen = seen.iter().map(|at| Visibility::parse(&format!("{at}:{at}:")).expect("text"));
        let parts = Parts::new(name(), ranges, seen.collect()).expect("one for each");
        Handover::new(HashMap::from([(name(), Copied::InParts(parts))]), HashMap::new(), None)
    }

    /// What becomes of a change by transaction 5, of which the second and the third part know.
    fn becomes(relation: &Arc<Relation>, change: Change) -> Result<Option<Change>, Unsure> {
        let mut handover = handover(&[3, 9, 9, 3]);
        handover.keep(&mut Event::Begin { transaction: 5, committed_at: 0 })?;
        let mut event = Event::Row { relation: Arc::clone(relation), change };
        let kept = handover.keep(&mut event)?;
        let Event::Row { change, .. } = event else { unreachable!() };
        Ok(kept.then_some(change))
    }

    fn update(from: i64, to: i64) -> Change {
        Change::Update { old: Some(tuple(from, Value::Null)), new: text(to, 1) }
    }

    #[test]
    fn a_row_is_where_its_key_is() {
        let plain = relation(false);
        let insert = |key| Change::Insert { new: text(key, 1) };
        for (key, kept) in [(9, true), (10, false), (29, false), (30, true), (-4, true)] {
            assert_eq!(becomes(&plain, insert(key)).expect("sure").is_some(), kept, "{key}");
            let delete = Change::Delete { old: tuple(key, Value::Null) };
            assert_eq!(becomes(&plain, delete).expect("sure").is_some(), kept, "{key}");
            let same = Change::Update { old: None, new: tuple(key, Value::Unchanged) };
            assert_eq!(becomes(&plain, same).expect("sure").is_some(), kept, "{key}");
        }
        let found = |from, to| becomes(&plain, update(from, to)).expect("sure");
        assert!(matches!(found(1, 31), Some(Change::Update { .. })));
        assert!(found(11, 21).is_none());
        assert!(matches!(found(11, 31), Some(Change::Insert { .. })));
        assert!(matches!(found(31, 11), Some(Change::Delete { .. })));
    }

    #[test]
    fn what_did_not_travel_is_not_guessed() {
        let come = |full, old: Value<'_>| {
            let (old, new) = (Some(tuple(11, old)), tuple(31, Value::Unchanged));
            becomes(&relation(full), Change::Update { old, new })
        };
        assert_eq!(come(false, Value::Null).unwrap_err(), Unsure(name()));
        let Ok(Some(Change::Insert { new })) = come(true, Value::Text(b"old")) else { panic!() };
        assert_eq!(new.get(0), Value::Text(b"old"));
        // It only goes away.
        let (old, new) = (Some(tuple(31, Value::Null)), tuple(11, Value::Unchanged));
        let gone = becomes(&relation(false), Change::Update { old, new });
        assert!(matches!(gone, Ok(Some(Change::Delete { .. }))));
    }

    #[test]
    fn other_keys_are_not_trusted() {
        let change = |relation: Relation| becomes(&Arc::new(relation), update(1, 31)).is_err();
        let plain = || (*relation(false)).clone();
        assert!(!change(plain()));
        let mut other = plain();
        other.columns[0].key = true;
        assert!(!change(other), "part of a larger key");
        let mut other = plain();
        other.columns.iter_mut().for_each(|c| c.key = !c.key);
        assert!(change(other), "another key");
        let mut other = plain();
        other.columns[1].name = "was_id".into();
        assert!(change(other), "another name");
        let mut other = plain();
        other.columns[1].type_id = 1700;
        assert!(change(other), "another type");
    }

    #[test]
    fn a_table_that_is_emptied_between_its_parts_is_copied_as_a_whole() {
        let emptied = |transaction| {
            let mut handover = handover(&[3, 9, 9, 3]);
            handover.keep(&mut Event::Begin { transaction, committed_at: 0 }).expect("sure");
            handover.keep(&mut Event::Truncate {
                relations: vec![relation(false)],
                others: false,
                cascade: false,
                restart_identity: false,
            })
        };
        assert_eq!(emptied(2), Ok(false));
        assert_eq!(emptied(5), Err(Unsure(name())));
        assert_eq!(emptied(9), Ok(true));
    }

    /// One change of a client: what it aims at, and at which key it may put it.
    #[derive(Debug, Clone)]
    struct Wish(u8, i64, i64);

    type Rows = BTreeMap<i64, u32>;

    /// Does what can be done of a wish; the change as the stream tells it.
    fn does(rows: &mut Rows, wish: &Wish, stamp: u32) -> Option<Change> {
        let Wish(kind, key, other) = *wish;
        match kind {
            0 if !rows.contains_key(&key) => {
                rows.insert(key, stamp);
                Some(Change::Insert { new: text(key, stamp) })
            }
            1 => rows.remove(&key).map(|_| Change::Delete { old: tuple(key, Value::Null) }),
            2 if rows.contains_key(&key) => {
                rows.insert(key, stamp);
                Some(Change::Update { old: None, new: text(key, stamp) })
            }
            3 if rows.contains_key(&key) && !rows.contains_key(&other) => {
                rows.remove(&key);
                rows.insert(other, stamp);
                let old = Some(tuple(key, Value::Null));
                Some(Change::Update { old, new: text(other, stamp) })
            }
            _ => None,
        }
    }

    /// As strict as the sink.
    fn apply(rows: &mut Rows, change: &Change) {
        let key = |row: &Tuple| match row.get(1) {
            Value::Text(text) => std::str::from_utf8(text).unwrap().parse::<i64>().unwrap(),
            _ => panic!("no key"),
        };
        let value = |row: &Tuple| match row.get(0) {
            Value::Text(text) => std::str::from_utf8(text).unwrap().parse::<u32>().unwrap(),
            _ => panic!("no value"),
        };
        match change {
            Change::Insert { new } => assert_eq!(rows.insert(key(new), value(new)), None),
            Change::Delete { old } => assert!(rows.remove(&key(old)).is_some()),
            Change::Update { old, new } => {
                let old = old.as_ref().map_or_else(|| key(new), key);
                assert!(rows.remove(&old).is_some());
                assert_eq!(rows.insert(key(new), value(new)), None);
            }
        }
    }

    proptest! {
        /// Whatever clients do, and whenever each part was read: both sides are equal in the end.
        #[test]
        fn parts_of_several_snapshots_become_equal(
            history in prop::collection::vec(
                prop::collection::vec((0..4u8, 0..40i64, 0..40i64), 1..4), 1..30),
            taken in prop::collection::vec(0..31usize, 4),
        ) {
            let ranges = KeyRanges { column: "id".into(), bounds: BOUNDS.to_vec() };
            let (mut blue, mut green) = (Rows::new(), Rows::new());
            for key in 0..20 {
                blue.insert(key * 2, 0);
            }
            let mut stream = Vec::new();
            for (id, wishes) in (0..).zip(&history) {
                for (part, _) in taken.iter().enumerate().filter(|(_, at)| **at == id) {
                    green.extend(blue.iter().filter(|(k, _)| ranges.of(**k) == part));
                }
                let stamps = 1..;
                let changes: Vec<Change> = wishes
                    .iter()
                    .zip(stamps)
                    .filter_map(|((kind, key, other), n)| {
                        let stamp = u32::try_from(id).unwrap() * 10 + n;
                        does(&mut blue, &Wish(*kind, *key, *other), stamp)
                    })
                    .collect();
                stream.push(changes);
            }
            for (part, _) in taken.iter().enumerate().filter(|(_, at)| **at >= history.len()) {
                green.extend(blue.iter().filter(|(k, _)| ranges.of(**k) == part));
            }
            let seen: Vec<u64> = taken.iter().map(|at| (*at).min(history.len()) as u64).collect();
            let mut handover = handover(&seen);
            for (transaction, changes) in (0..).zip(stream) {
                handover.keep(&mut Event::Begin { transaction, committed_at: 0 }).unwrap();
                for change in changes {
                    let mut event = Event::Row { relation: relation(false), change };
                    if handover.keep(&mut event).unwrap() {
                        let Event::Row { change, .. } = event else { unreachable!() };
                        apply(&mut green, &change);
                    }
                }
            }
            prop_assert_eq!(blue, green);
        }
    }
}
