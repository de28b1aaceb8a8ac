//! The ledger, against what was recorded.

use cutover_core::model::{
    event::RelationColumn,
    schema::{Column, Generated, Identity, RowIdentity, Table},
    value::TupleBuilder,
};

use std::sync::Arc;

use super::*;
use crate::verify::tail::Mark;

pub(super) fn setup(budget: usize) -> (Ledger, Relation) {
    let name = TableName::new("public", "t");
    let column = Column {
        name: "id".into(),
        base_type: "integer".into(),
        declared_type: "integer".into(),
        nullable: false,
        generated: Generated::No,
        identity: Identity::No,
        collation: None,
    };
    let table = Table {
        name: name.clone(),
        columns: vec![column].into(),
        identity: RowIdentity::Key(vec!["id".into()]),
        primary_key: vec!["id".into()],
        root: None,
        estimated_rows: None,
        bytes: 0,
    };
    let pair =
        Pair { name: name.clone(), blue: vec![table.clone()], green: vec![table], keyed: true };
    let relation = Relation {
        id: 1,
        name,
        columns: vec![RelationColumn {
            name: "id".into(),
            key: true,
            type_id: 23,
            type_modifier: -1,
        }],
        full_identity: false,
    };
    (Ledger::new(&[pair], budget), relation)
}

impl Ledger {
    /// A row changed, and is on the other side by now.
    pub(crate) fn changed(&self, side: Side, relation: &Relation, change: &Change) {
        self.row(side, relation, change, false);
        self.applied();
    }
}

/// A table that is followed by its key, `id`, on both sides.
pub(crate) fn pair(name: TableName) -> Pair {
    let table = Table {
        name: name.clone(),
        columns: Default::default(),
        identity: RowIdentity::Key(vec!["id".into()]),
        primary_key: vec!["id".into()],
        root: None,
        estimated_rows: None,
        bytes: 0,
    };
    Pair { name, blue: vec![table.clone()], green: vec![table], keyed: true }
}

pub(super) fn id(text: impl AsRef<[u8]>) -> Tuple {
    let mut b = TupleBuilder::new();
    b.push(Value::Text(text.as_ref()));
    b.finish()
}

#[test]
fn records_old_and_new_keys_once_it_is_armed() {
    let (ledger, relation) = setup(1 << 20);
    ledger.changed(Side::Blue, &relation, &Change::Insert { new: id("1") });
    assert_eq!(ledger.pending(), 0);
    ledger.restart(&[0]).finished();
    ledger.changed(Side::Blue, &relation, &Change::Insert { new: id("1") });
    let moved = Change::Update { old: Some(id("1")), new: id("2") };
    ledger.changed(Side::Green, &relation, &moved);
    assert_eq!(ledger.pending(), 2);
    let (pair, keys) = ledger.take(10).compared().remove(0);
    assert_eq!((pair, keys.len(), ledger.pending()), (0, 2, 0));
    ledger.put_back(0, keys.clone());
    assert!(ledger.holds(0, &keys[0]));
}

/// Compared before it is applied, a change may be nowhere to be seen, and would be missed after.
#[test]
fn a_change_is_compared_once_it_is_applied() {
    let (ledger, relation) = setup(1 << 20);
    ledger.restart(&[0]).finished();
    let change = |n: &str| Change::Insert { new: id(n) };
    ledger.row(Side::Blue, &relation, &change("1"), false);
    ledger.ended(Side::Blue, 7, true);
    ledger.early(Side::Blue, 8, &relation, &change("2"));
    ledger.ended(Side::Blue, 8, true);
    // Nobody applies what somebody wrote behind our back.
    ledger.row(Side::Green, &relation, &change("3"), true);
    let taken = |ledger: &Ledger| -> Vec<String> {
        let taken = ledger.take(10).compared();
        let mut keys: Vec<String> =
            taken.into_iter().flat_map(|(_, keys)| keys).map(|key| key.0[0].clone()).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!((ledger.pending(), taken(&ledger)), (3, vec!["3".to_owned()]));
    assert!(ledger.holds(0, &RowKey(vec!["1".into()])));
    ledger.applied();
    assert_eq!(taken(&ledger), ["1", "2"]);
    assert_eq!((ledger.pending(), ledger.filled()), (0, 0.0));
    // Behind the fence all is applied.
    ledger.row(Side::Blue, &relation, &change("4"), false);
    assert_eq!(ledger.take_all().compared(), [(0, vec![RowKey(vec!["4".into()])])]);
}

/// A key that is no text cannot be asked for: what is left of it might be another one's.
#[test]
fn a_key_that_is_no_utf8_needs_a_full_pass() {
    let (ledger, relation) = setup(1 << 20);
    ledger.restart(&[0]).finished();
    let change = Change::Insert { new: id(b"caf\xe9") };
    ledger.changed(Side::Blue, &relation, &change);
    assert_eq!((ledger.pending(), ledger.whole()), (0, vec![0]));
}

/// One that began first and is given up leaves its part to the one that began later.
#[test]
fn a_comparison_that_comes_to_no_end_takes_nothing_away() {
    let insert = |n: u32| Change::Insert { new: id(n.to_string()) };
    // Which of two passes comes to its end, and which is told first; what is left to be compared.
    for (ends, older_first, left) in [
        ([true, true], true, 1),
        ([true, true], false, 1),
        ([true, false], true, 2),
        ([true, false], false, 2),
        ([false, true], true, 1),
        ([false, true], false, 1),
        ([false, false], true, 3),
        ([false, false], false, 3),
    ] {
        for whole in [None, Some(0), Some(1), Some(2)] {
            let (ledger, relation) = setup(1 << 20);
            let change = |n: u32| {
                ledger.changed(Side::Blue, &relation, &insert(n));
                if whole == Some(n) {
                    ledger.truncated(Side::Blue, &relation);
                }
            };
            ledger.restart(&[0]).finished();
            change(0);
            let older = ledger.restart(&[0]);
            change(1);
            let newer = ledger.restart(&[0]);
            change(2);
            let end = |pass: Pass<'_>, ends: bool| if ends { pass.finished() } else { drop(pass) };
            if older_first {
                end(older, ends[0]);
                assert_eq!(ledger.whole(), [0]);
                end(newer, ends[1]);
            } else {
                end(newer, ends[1]);
                assert_eq!(ledger.whole(), [0]);
                end(older, ends[0]);
            }
            let case = format!("{ends:?} {older_first} {whole:?}");
            let is_whole = whole.is_some_and(|n| n + left > 2);
            assert_eq!(ledger.whole().len(), usize::from(is_whole), "{case}");
            let keys = if is_whole { 0 } else { left as usize };
            assert_eq!(
                ledger.take_all().compared().iter().map(|t| t.1.len()).sum::<usize>(),
                keys,
                "{case}"
            );
            assert_eq!(ledger.lock().bytes, 0, "{case}");
        }
    }
}

#[test]
fn a_pass_leaves_room_for_what_changes_meanwhile() {
    let (ledger, relation) = setup(1000);
    ledger.restart(&[0]).finished();
    for n in 0..12 {
        ledger.changed(Side::Blue, &relation, &Change::Insert { new: id(n.to_string()) });
    }
    assert!(ledger.filled() > 0.5 && ledger.pending() == 12);
    let pass = ledger.restart(&[0]);
    assert_eq!(ledger.lock().bytes, 0);
    drop(pass);
    assert_eq!((ledger.whole(), ledger.pending()), (vec![0], 0));
}

#[test]
fn keys_that_are_not_compared_wait_again() {
    let (ledger, relation) = setup(1 << 20);
    let insert = |n: u32| Change::Insert { new: id(n.to_string()) };
    let pass = ledger.restart(&[0]);
    ledger.changed(Side::Blue, &relation, &insert(1));
    // Nothing is proven of a table in the middle of a pass.
    assert_eq!((ledger.whole(), ledger.pending()), (vec![0], 1));
    pass.finished();
    assert_eq!((ledger.whole(), ledger.pending()), (vec![], 1));
    drop(ledger.take(10));
    assert_eq!(ledger.pending(), 1);
    drop(ledger.take_all());
    assert_eq!(ledger.pending(), 1);
    drop(ledger.restart(&[0]));
    assert_eq!((ledger.whole(), ledger.pending()), (vec![], 1));
    // Of two passes at once each counts for itself.
    let (first, second) = (ledger.restart(&[0]), ledger.restart(&[0]));
    first.finished();
    assert_eq!(ledger.whole(), [0]);
    second.finished();
    assert!(ledger.whole().is_empty());
    assert_eq!(ledger.lock().bytes, 0);
}

#[test]
fn every_pair_has_its_turn() {
    let (_, relation) = setup(1 << 20);
    let names = ["a", "b", "c"].map(|name| TableName::new("public", name));
    let pairs = names.clone().map(pair);
    let ledger = Ledger::new(&pairs, 1 << 20);
    ledger.restart(&[0, 1, 2]).finished();
    let change = |pair: usize, key: &str| {
        let relation = Relation { name: names[pair].clone(), ..relation.clone() };
        ledger.changed(Side::Blue, &relation, &Change::Insert { new: id(key) });
    };
    let taken = |limit| -> Vec<(usize, usize)> {
        ledger.take(limit).compared().into_iter().map(|(pair, keys)| (pair, keys.len())).collect()
    };
    (0..3).for_each(|i| change(0, &i.to_string()));
    change(2, "1");
    change(1, "1");
    assert_eq!(ledger.latest(), [1, 2, 0]);
    assert_eq!(taken(2), [(0, 2)]);
    change(0, "7");
    assert_eq!(taken(3), [(1, 1), (2, 1), (0, 1)]);
    assert_eq!(taken(9), [(0, 1)]);
    assert_eq!(taken(9), []);
}

/// Learned from ghostferry #195: a re-verification queue that grew while a human
/// decided about the cutover.
#[test]
fn the_queue_of_changed_rows_is_bounded_while_a_human_waits() {
    let (ledger, relation) = setup(200);
    ledger.restart(&[0]).finished();
    for i in 0..100 {
        ledger.changed(Side::Blue, &relation, &Change::Insert { new: id(i.to_string()) });
    }
    assert_eq!((ledger.pending(), ledger.whole()), (0, vec![0]));
    ledger.restart(&[0]).finished();
    assert!(ledger.whole().is_empty());
}

#[test]
fn rows_of_a_transaction_in_progress_count_when_it_commits() {
    let (ledger, relation) = setup(1 << 20);
    let insert = |n: u32| Change::Insert { new: id(n.to_string()) };
    // Also those from before the full pass that begins meanwhile.
    ledger.early(Side::Blue, 7, &relation, &insert(1));
    ledger.restart(&[0]).finished();
    ledger.early(Side::Blue, 7, &relation, &insert(2));
    ledger.early(Side::Blue, 8, &relation, &insert(3));
    ledger.changed(Side::Blue, &relation, &insert(4));
    assert_eq!(ledger.pending(), 1);
    assert_eq!(ledger.take_all().compared()[0].1.len(), 1);
    ledger.ended(Side::Blue, 8, false);
    ledger.ended(Side::Blue, 7, true);
    assert_eq!((ledger.pending(), ledger.whole()), (2, vec![]));
    ledger.ended(Side::Blue, 7, true);
    assert_eq!(ledger.take_all().compared().len(), 1);
    assert_eq!(ledger.lock().bytes, 0);
}

#[test]
fn a_transaction_in_progress_with_too_many_rows_asks_for_a_full_pass_at_its_end() {
    let (ledger, relation) = setup(400);
    ledger.restart(&[0]).finished();
    for i in 0..100 {
        ledger.early(Side::Blue, 7, &relation, &Change::Insert { new: id(i.to_string()) });
    }
    assert_eq!(ledger.lock().bytes, 0);
    assert!(ledger.whole().is_empty());
    ledger.ended(Side::Blue, 7, true);
    assert_eq!(ledger.whole(), [0]);
}

#[test]
fn truncate_needs_a_full_pass() {
    let (ledger, relation) = setup(1 << 20);
    ledger.restart(&[0]).finished();
    ledger.truncated(Side::Blue, &relation);
    assert_eq!(ledger.whole(), [0]);
}

/// A table without a key.
pub(super) fn keyless() -> (Ledger, Relation) {
    let (_, relation) = setup(0);
    let pair = Pair { keyed: false, ..pair(relation.name.clone()) };
    (Ledger::new(&[pair], 1 << 20), relation)
}

pub(super) fn mark() -> Vec<Option<Arc<Mark>>> {
    vec![Some(Arc::new(Mark::empty()))]
}

#[test]
fn rows_that_come_into_a_table_without_a_key_are_counted() {
    let (ledger, relation) = keyless();
    let insert = Change::Insert { new: id("1") };
    let count = || ledger.grown(0).map(|grown| (grown.growth.rows, grown.growth.bytes));
    let bytes = insert.bytes() as u64;
    // Those of a transaction in progress when it commits, wherever it began.
    ledger.early(Side::Blue, 7, &relation, &insert);
    let pass = ledger.restart(&[0]);
    ledger.changed(Side::Blue, &relation, &insert);
    assert_eq!(count(), None);
    pass.finished_with(&mark());
    assert_eq!((count(), ledger.whole()), (Some((1, bytes)), vec![0]));
    ledger.changed(Side::Green, &relation, &insert);
    ledger.early(Side::Blue, 7, &relation, &insert);
    ledger.early(Side::Blue, 8, &relation, &insert);
    assert_eq!(count(), Some((2, 2 * bytes)));
    ledger.ended(Side::Blue, 8, false);
    ledger.ended(Side::Blue, 7, true);
    assert_eq!(count(), Some((4, 4 * bytes)));
    // A pass that comes to no end leaves what was known.
    let pass = ledger.restart(&[0]);
    ledger.changed(Side::Blue, &relation, &insert);
    drop(pass);
    assert_eq!((count(), ledger.whole()), (Some((5, 5 * bytes)), vec![0]));
    ledger.restart(&[0]).finished_with(&mark());
    assert_eq!((count(), ledger.whole()), (Some((0, 0)), vec![]));
}

#[test]
fn a_table_without_a_key_that_did_more_than_grow_has_no_mark() {
    let (_, relation) = keyless();
    let insert = Change::Insert { new: id("1") };
    let delete = Change::Delete { old: id("1") };
    type Happens = fn(&Ledger, &Relation, &Change, &Change);
    let cases: [(&str, Happens); 6] = [
        ("a row went", |l, r, _, delete| l.changed(Side::Blue, r, delete)),
        ("somebody else wrote", |l, r, insert, _| l.row(Side::Green, r, insert, true)),
        ("written anew", |l, _, _, _| l.rewritten(0)),
        ("emptied", |l, r, _, _| l.truncated(Side::Blue, r)),
        ("a row went early", |l, r, _, delete| {
            l.early(Side::Blue, 7, r, delete);
            l.ended(Side::Blue, 7, true);
        }),
        ("a pass found a difference", |l, _, _, _| l.restart(&[0]).finished_with(&[None])),
    ];
    for (what, happens) in cases {
        let (ledger, relation) = keyless();
        ledger.restart(&[0]).finished_with(&mark());
        ledger.changed(Side::Blue, &relation, &insert);
        assert!(ledger.grown(0).is_some());
        let under_way = ledger.restart(&[0]);
        happens(&ledger, &relation, &insert, &delete);
        assert!(ledger.grown(0).is_none(), "{what}");
        under_way.finished_with(&mark());
        ledger.restart(&[0]).finished_with(&mark());
        assert!(ledger.grown(0).is_some(), "{what}");
    }
    // Rolled back, it did not happen.
    let (ledger, _) = keyless();
    ledger.restart(&[0]).finished_with(&mark());
    ledger.early(Side::Blue, 7, &relation, &delete);
    ledger.ended(Side::Blue, 7, false);
    assert!(ledger.grown(0).is_some());
}
