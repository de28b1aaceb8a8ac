use std::collections::{BTreeMap, BTreeSet};

use cutover_core::model::value::TupleBuilder;
use proptest::prelude::*;

use super::*;
use crate::sink::shape::tests::{relation, target};

/// One value of a test row.
#[derive(Debug, Clone, PartialEq, Eq)]
enum V {
    Text(String),
    Null,
    Same,
}

fn tuple(values: &[V]) -> Tuple {
    let mut b = TupleBuilder::new();
    for v in values {
        b.push(match v {
            V::Text(t) => Value::Text(t.as_bytes()),
            V::Null => Value::Null,
            V::Same => Value::Unchanged,
        });
    }
    b.finish()
}

fn texts(row: &str) -> Tuple {
    let values: Vec<V> = row
        .split(' ')
        .map(|w| match w {
            "~" => V::Same,
            "-" => V::Null,
            w => V::Text(w.to_owned()),
        })
        .collect();
    tuple(&values)
}

fn show(tuple: &Tuple) -> String {
    let words: Vec<&str> = tuple
        .values()
        .map(|v| match v {
            Value::Null => "-",
            Value::Unchanged => "~",
            Value::Text(t) | Value::Binary(t) => std::str::from_utf8(t).unwrap(),
        })
        .collect();
    words.join(" ")
}

/// `+ 1 a` insert, `= 1 b` update, `= 1 a > 2 b` update with an old image, `x 1 -` delete.
fn change(text: &str) -> Change {
    let (kind, row) = text.split_once(' ').unwrap();
    match kind {
        "+" => Change::Insert { new: texts(row) },
        "x" => Change::Delete { old: texts(row) },
        _ => match row.split_once(" > ") {
            Some((old, new)) => Change::Update { old: Some(texts(old)), new: texts(new) },
            None => Change::Update { old: None, new: texts(row) },
        },
    }
}

fn net(shape: &Shape, changes: &[&str]) -> String {
    let changes: Vec<Change> = changes.iter().map(|t| change(t)).collect();
    let mut pending = Pending::default();
    for (event, change) in changes.iter().enumerate() {
        pending.push(Step { shape, change, event });
    }
    match pending.net() {
        Net::Ordered(reason) => format!("{reason:?}"),
        Net::Set { deletes, updates, inserts } => {
            let mut words: Vec<String> = Vec::new();
            for key in deletes {
                let values: Vec<String> = key
                    .values()
                    .map(|v| match v {
                        Value::Text(t) => String::from_utf8(t.to_vec()).unwrap(),
                        other => panic!("{other:?}"),
                    })
                    .collect();
                words.push(format!("x {}", values.join(" ")));
            }
            words.extend(updates.iter().map(|(_, row)| format!("= {}", show(&row.tuple))));
            words.extend(inserts.iter().map(|row| format!("+ {}", show(&row.tuple))));
            words.join(", ")
        }
    }
}

#[test]
fn changes_of_one_row_become_one() {
    let shape = Shape::new(&relation(&["k*", "a", "b"], false), 0, &target(&["k*", "a", "b"]));
    let shape = shape.unwrap();
    for (changes, want) in [
        (vec!["+ 1 a b", "= 1 c ~"], "+ 1 c b"),
        (vec!["+ 1 a b", "= 1 c ~", "= 1 ~ -"], "+ 1 c -"),
        (vec!["+ 1 a b", "x 1 - -"], ""),
        (vec!["+ 1 a b", "x 1 - -", "+ 1 c d"], "+ 1 c d"),
        (vec!["= 1 a ~", "= 1 b ~"], "= 1 b ~"),
        (vec!["= 1 ~ x", "= 1 b ~"], "= 1 b x"),
        (vec!["= 1 a b", "x 1 - -"], "x 1"),
        (vec!["x 1 - -", "+ 1 a b"], "x 1, + 1 a b"),
        (vec!["x 1 - -", "+ 1 a b", "= 1 c ~"], "x 1, + 1 c b"),
        (vec!["x 1 - -", "+ 1 a b", "x 1 - -"], "x 1"),
        (vec!["= 2 a ~", "x 1 - -", "+ 3 a b", "= 2 ~ q"], "x 1, = 2 a q, + 3 a b"),
        // The server says so.
        (vec!["+ 1 a b", "+ 1 a b"], "+ 1 a b, + 1 a b"),
        (vec!["+ 1 a b", "+ 1 a b", "= 2 a b"], "Contradiction"),
        (vec!["x 1 - -", "= 1 a b"], "Contradiction"),
        (vec!["x 1 - -", "x 1 - -"], "Contradiction"),
        (vec!["+ 1 a b", "x 1 - -", "= 1 a b"], "Contradiction"),
        (vec!["= 1 a b", "+ 1 a b"], "Contradiction"),
        (vec!["= 1 - - > 2 a b"], "KeyChange"),
        (vec!["= 1 - - > 1 a ~"], "= 1 a ~"),
        (vec!["= 1 - - > ~ a b"], "= ~ a b"),
        (vec!["= ~ a b"], "KeyUnknown"),
        (vec!["x - a b"], "KeyUnknown"),
    ] {
        assert_eq!(net(&shape, &changes), want, "{changes:?}");
    }
}

#[test]
fn rows_that_nothing_names_can_only_be_added_in_bulk() {
    let shape = Shape::new(&relation(&["a", "b"], false), 0, &target(&["a", "b"])).unwrap();
    assert_eq!(net(&shape, &["+ 1 a", "+ 1 a"]), "+ 1 a, + 1 a");
    assert_eq!(net(&shape, &["+ 1 a", "x 1 a"]), "NoKey");
}

#[test]
fn a_whole_old_row_fills_what_did_not_change() {
    let shape = Shape::new(&relation(&["k", "a"], true), 0, &target(&["k*", "a"])).unwrap();
    assert_eq!(net(&shape, &["= 1 big > 1 ~"]), "= 1 big");
    assert_eq!(net(&shape, &["= 1 a > 2 a"]), "KeyChange");
}

#[test]
fn two_rows_of_one_key_are_told_apart() {
    let target = target(&["k*", "a"]);
    let whole = Shape::new(&relation(&["k", "a"], true), 0, &target).unwrap();
    for (changes, want) in [
        (["+ 1 new", "x 1 new"], ""),
        (["+ 1 new", "x 1 old"], "Contradiction"),
        (["+ 1 new", "= 1 old > 1 b"], "Contradiction"),
        (["= 1 a > 1 b", "x 1 b"], "x 1"),
        (["= 1 a > 1 b", "x 1 c"], "Contradiction"),
    ] {
        assert_eq!(net(&whole, &changes), want, "{changes:?}");
    }
    // Of two partitions that go to one table.
    let [one, other] = [1, 2].map(|id| {
        let relation = cutover_core::model::event::Relation { id, ..relation(&["k*", "a"], false) };
        Shape::new(&relation, 0, &target).unwrap()
    });
    for second in ["x 1 -", "= 1 b"] {
        let (first, second) = (change("+ 1 a"), change(second));
        let mut pending = Pending::default();
        pending.push(Step { shape: &one, change: &first, event: 0 });
        pending.push(Step { shape: &other, change: &second, event: 1 });
        assert!(matches!(pending.net(), Net::Ordered(Reason::Contradiction)));
    }
}

type Table = BTreeMap<String, Vec<V>>;

/// The reference: one change after the other on a map. `None` when a row is missing or there
/// already.
fn row_by_row(table: &Table, changes: &[Change]) -> Option<Table> {
    let mut table = table.clone();
    let values = |t: &Tuple| -> Vec<V> {
        t.values()
            .map(|v| match v {
                Value::Null => V::Null,
                Value::Unchanged => V::Same,
                Value::Text(t) | Value::Binary(t) => V::Text(String::from_utf8_lossy(t).into()),
            })
            .collect()
    };
    let key = |row: &[V]| match &row[0] {
        V::Text(k) => k.clone(),
        other => panic!("no key: {other:?}"),
    };
    let merged = |before: &[V], after: &[V]| -> Vec<V> {
        let pick = |(b, a): (&V, &V)| if *a == V::Same { b.clone() } else { a.clone() };
        before.iter().zip(after).map(pick).collect()
    };
    for change in changes {
        match change {
            Change::Insert { new } => {
                let row = values(new);
                if table.insert(key(&row), row).is_some() {
                    return None;
                }
            }
            Change::Update { old, new } => {
                let new = values(new);
                let at = key(&old.as_ref().map_or_else(|| new.clone(), values));
                let row = merged(&table.remove(&at)?, &new);
                if table.insert(key(&row), row).is_some() {
                    return None;
                }
            }
            Change::Delete { old } => {
                table.remove(&key(&values(old)))?;
            }
        }
    }
    Some(table)
}

/// Deletes, updates, inserts; `None` when a number of rows is not the expected one.
fn set_wise(table: &Table, net: &Net<'_>) -> Option<Table> {
    let Net::Set { deletes, updates, inserts } = net else { return None };
    let text = |v: Value<'_>| match v {
        Value::Text(t) => String::from_utf8(t.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    let mut table = table.clone();
    for key in deletes {
        table.remove(&text(key.values().next().unwrap()))?;
    }
    for (key, row) in updates {
        let at = text(key.values().next().unwrap());
        let before = table.get_mut(&at)?;
        for (i, v) in row.tuple.values().enumerate() {
            match v {
                Value::Unchanged => {}
                Value::Null => before[i] = V::Null,
                v => before[i] = V::Text(text(v)),
            }
        }
    }
    for row in inserts {
        let row: Vec<V> = row
            .tuple
            .values()
            .map(|v| match v {
                Value::Null => V::Null,
                Value::Unchanged => panic!("an inserted row is complete"),
                v => V::Text(text(v)),
            })
            .collect();
        let V::Text(key) = row[0].clone() else { panic!("a key is a text") };
        if table.insert(key, row).is_some() {
            return None;
        }
    }
    Some(table)
}

/// The keys of which anything is left to write.
fn written(net: &Net<'_>) -> BTreeSet<String> {
    let Net::Set { deletes, updates, inserts } = net else { return BTreeSet::new() };
    let key = |v: Value<'_>| match v {
        Value::Text(t) => String::from_utf8(t.to_vec()).unwrap(),
        other => panic!("no key: {other:?}"),
    };
    let changed = deletes.iter().chain(updates.iter().map(|(key, _)| key));
    let named = changed.map(|k| key(k.values().next().unwrap()));
    named.chain(inserts.iter().map(|row| key(row.tuple.values().next().unwrap()))).collect()
}

fn value(unchanged: bool) -> impl Strategy<Value = V> {
    let text = "[a-c]".prop_map(V::Text);
    if unchanged {
        prop_oneof![3 => text, 1 => Just(V::Null), 2 => Just(V::Same)].boxed()
    } else {
        prop_oneof![3 => text, 1 => Just(V::Null)].boxed()
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    let key = || "[1-5]".prop_map(V::Text);
    let insert = (key(), value(false), value(false))
        .prop_map(|(k, a, b)| Change::Insert { new: tuple(&[k, a, b]) });
    let update = (key(), value(true), value(true))
        .prop_map(|(k, a, b)| Change::Update { old: None, new: tuple(&[k, a, b]) });
    let moved = (key(), key(), value(true), value(true)).prop_map(|(o, k, a, b)| Change::Update {
        old: Some(tuple(&[o, V::Null, V::Null])),
        new: tuple(&[k, a, b]),
    });
    let delete = key().prop_map(|k| Change::Delete { old: tuple(&[k, V::Null, V::Null]) });
    prop_oneof![4 => insert, 6 => update, 1 => moved, 4 => delete]
}

/// Keeps the changes that a real table would have allowed.
fn possible(table: &Table, changes: Vec<Change>) -> Vec<Change> {
    let mut kept = Vec::new();
    for change in changes {
        kept.push(change);
        if row_by_row(table, &kept).is_none() {
            kept.pop();
        }
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_net_result_is_the_result_row_by_row(
        rows in prop::collection::btree_map("[1-5]", (value(false), value(false)), 0..5),
        changes in prop::collection::vec(any_change(), 0..24),
        honest in any::<bool>(),
    ) {
        let table: Table =
            rows.into_iter().map(|(k, (a, b))| (k.clone(), vec![V::Text(k), a, b])).collect();
        let changes = if honest { possible(&table, changes) } else { changes };
        let shape =
            Shape::new(&relation(&["k*", "a", "b"], false), 0, &target(&["k*", "a", "b"])).unwrap();
        let mut pending = Pending::default();
        for (event, change) in changes.iter().enumerate() {
            pending.push(Step { shape: &shape, change, event });
        }
        let net = pending.net();
        let want = row_by_row(&table, &changes);
        match (&net, want) {
            (Net::Ordered(reason), Some(_)) => prop_assert_eq!(*reason, Reason::KeyChange),
            (Net::Ordered(_), None) => {}
            (Net::Set { .. }, Some(want)) => {
                prop_assert_eq!(set_wise(&table, &net), Some(want));
            }
            // Not one by one: then some number of rows is wrong, unless the row that was in the
            // way was inserted and deleted again; then it is left as it was.
            (Net::Set { .. }, None) => {
                if let Some(got) = set_wise(&table, &net) {
                    let written = written(&net);
                    let cancelled: Vec<&String> =
                        table.keys().filter(|k| !written.contains(*k)).collect();
                    let without = |t: &Table| -> Table {
                        t.iter()
                            .filter(|(k, _)| !cancelled.contains(k))
                            .map(|(k, r)| (k.clone(), r.clone()))
                            .collect()
                    };
                    prop_assert_eq!(
                        row_by_row(&without(&table), &changes).map(|t| without(&t)),
                        Some(without(&got))
                    );
                }
            }
        }
    }
}
