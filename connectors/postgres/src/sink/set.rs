//! The set-wise path: what a reduced table becomes on the wire. Pure.

use cutover_core::{
    model::value::{Tuple, Value},
    port::{PortError, Result},
};

use super::{
    cache::{self, Kind},
    encode::{Array, CopyText, Unfit},
    reduce::{Key, Row},
    refusal,
    shape::{Link, Shape, Target},
};

/// From so many rows on, COPY beats an INSERT although it costs a round trip of its own.
const COPY_FROM: usize = 64;

/// Bytes of a row that is updated by itself. In the join of an update over arrays each new value is
/// in the server's row twice, which holds no more than a gigabyte.
const LARGE: usize = 256 << 20;

/// A statement over arrays, and how many rows it must touch.
#[derive(Debug)]
pub(super) struct Many {
    pub(super) key: cache::Key,
    pub(super) arrays: Vec<Array>,
    pub(super) rows: u64,
}

/// Rows to be copied in.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) key: cache::Key,
    pub(super) text: CopyText,
    pub(super) rows: u64,
}

/// What the reduced tables need: the statements, then the copies.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) statements: Vec<Many>,
    pub(super) copies: Vec<Copy>,
}

impl Plan {
    /// Adds the writes of table `index`: deletes, then updates, then inserts. `false`, and nothing
    /// is added, when the rows must be written one by one.
    ///
    /// # Errors
    ///
    /// `CUT0411` when a value has no text form.
    pub(super) fn add(
        &mut self,
        index: usize,
        target: &Target,
        deletes: &[Key<'_>],
        updates: &[(Key<'_>, &Row<'_>)],
        inserts: &[&Row<'_>],
    ) -> Result<bool> {
        let mut mine = Self::default();
        match mine.fill(index, target, deletes, updates, inserts) {
            Ok(true) => {
                self.statements.append(&mut mine.statements);
                self.copies.append(&mut mine.copies);
                Ok(true)
            }
            // The server's own cast says best what is wrong with a number.
            Ok(false) | Err(Unfit::NotNumber) => Ok(false),
            Err(Unfit::NoText) => Err(no_text(target)),
        }
    }

    fn fill(
        &mut self,
        index: usize,
        target: &Target,
        deletes: &[Key<'_>],
        updates: &[(Key<'_>, &Row<'_>)],
        inserts: &[&Row<'_>],
    ) -> std::result::Result<bool, Unfit> {
        if updates.iter().any(|(_, row)| row.tuple.bytes() > LARGE) {
            return Ok(false);
        }
        self.deletes(index, target, deletes)?;
        let groups = groups(target, updates)?;
        // Nothing can be set, and whether something had to be set is not known.
        if groups.iter().any(|g| g.set.is_empty() && !g.same.is_empty()) {
            return Ok(false);
        }
        self.updates(index, groups);
        self.inserts(index, target, inserts)?;
        Ok(true)
    }

    fn deletes(
        &mut self,
        index: usize,
        target: &Target,
        deletes: &[Key<'_>],
    ) -> std::result::Result<(), Unfit> {
        let Some(first) = deletes.first() else { return Ok(()) };
        let columns: Vec<u16> = first.links.iter().map(|l| l.target).collect();
        let mut arrays = arrays(target, columns.iter().copied(), deletes.len());
        for key in deletes {
            push(&mut arrays, key.values())?;
        }
        let key = (index, Kind::DeleteMany(columns));
        self.statements.push(Many { key, arrays, rows: deletes.len() as u64 });
        Ok(())
    }

    fn updates(&mut self, index: usize, groups: Vec<Group<'_>>) {
        // A row of which nothing but the key is known has nothing to be set.
        for group in groups.into_iter().filter(|g| !g.set.is_empty()) {
            let targets = |links: &[Link]| links.iter().map(|l| l.target).collect::<Vec<u16>>();
            let kind = Kind::UpdateMany(
                group.shape.key_targets(),
                targets(&group.set),
                targets(&group.same),
            );
            self.statements.push(Many {
                key: (index, kind),
                arrays: group.arrays,
                rows: group.rows,
            });
        }
    }

    fn inserts(
        &mut self,
        index: usize,
        target: &Target,
        inserts: &[&Row<'_>],
    ) -> std::result::Result<(), Unfit> {
        let mut shapes: Vec<&Shape> = Vec::new();
        for row in inserts {
            if !shapes.iter().any(|s| std::ptr::eq(*s, row.shape)) {
                shapes.push(row.shape);
            }
        }
        for shape in shapes {
            let rows = inserts.iter().filter(|row| std::ptr::eq(row.shape, shape));
            let count = rows.clone().count();
            let columns = shape.targets();
            if count >= COPY_FROM {
                let mut text = CopyText::default();
                for row in rows {
                    text.begin();
                    for value in values(&row.tuple, &shape.columns) {
                        text.push(value)?;
                    }
                    text.end();
                }
                let key = (index, Kind::Copy(columns));
                self.copies.push(Copy { key, text, rows: count as u64 });
            } else {
                let mut arrays = arrays(target, columns.iter().copied(), count);
                for row in rows {
                    push(&mut arrays, values(&row.tuple, &shape.columns))?;
                }
                let key = (index, Kind::InsertMany(columns));
                self.statements.push(Many { key, arrays, rows: count as u64 });
            }
        }
        Ok(())
    }
}

/// Updates that set the same columns.
#[derive(Debug)]
struct Group<'a> {
    shape: &'a Shape,
    /// Columns that stay as they are, and so are not in `set`.
    unchanged: Vec<Link>,
    set: Vec<Link>,
    /// Columns that the server does not let us set; the row is right only if they are equal.
    same: Vec<Link>,
    arrays: Vec<Array>,
    rows: u64,
}

fn groups<'a>(
    target: &Target,
    updates: &[(Key<'a>, &'a Row<'a>)],
) -> std::result::Result<Vec<Group<'a>>, Unfit> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut last = 0;
    for (key, row) in updates {
        let at = match groups.get(last) {
            Some(group) if group.takes(row) => last,
            _ => groups.iter().position(|g| g.takes(row)).unwrap_or_else(|| {
                groups.push(Group::new(target, row, updates.len()));
                groups.len() - 1
            }),
        };
        last = at;
        groups[at].push(*key, &row.tuple)?;
    }
    Ok(groups)
}

impl<'a> Group<'a> {
    fn new(target: &Target, row: &Row<'a>, rows: usize) -> Self {
        let shape = row.shape;
        let (mut unchanged, mut set, mut same) = (Vec::new(), Vec::new(), Vec::new());
        for link in shape.columns.iter().filter(|link| !shape.key.contains(link)) {
            if Shape::value(&row.tuple, *link) == Value::Unchanged {
                unchanged.push(*link);
            } else if target.column(link.target).identity_always {
                same.push(*link);
            } else {
                set.push(*link);
            }
        }
        let columns = shape.key.iter().chain(&set).chain(&same).map(|l| l.target);
        let arrays = arrays(target, columns, rows);
        Self { shape, unchanged, set, same, arrays, rows: 0 }
    }

    fn takes(&self, row: &Row<'_>) -> bool {
        let is_unchanged = |l: &Link| Shape::value(&row.tuple, *l) == Value::Unchanged;
        std::ptr::eq(self.shape, row.shape)
            && self.unchanged.iter().all(is_unchanged)
            && !self.set.iter().chain(&self.same).any(is_unchanged)
    }

    fn push(&mut self, key: Key<'_>, tuple: &Tuple) -> std::result::Result<(), Unfit> {
        let rest = values(tuple, &self.set).chain(values(tuple, &self.same));
        push(&mut self.arrays, key.values().chain(rest))?;
        self.rows += 1;
        Ok(())
    }
}

/// A value that has no text form, in a row of this table.
pub(super) fn no_text(target: &Target) -> PortError {
    refusal::not_a_stream(format!("a value for table {} is not in text form", target.name))
}

fn values<'a>(tuple: &'a Tuple, links: &'a [Link]) -> impl Iterator<Item = Value<'a>> {
    links.iter().map(|link| Shape::value(tuple, *link))
}

/// One array per column, with room for so many rows.
pub(super) fn arrays(
    target: &Target,
    columns: impl Iterator<Item = u16>,
    rows: usize,
) -> Vec<Array> {
    columns.map(|c| Array::new(target.column(c).wire, rows)).collect()
}

fn push<'a>(
    arrays: &mut [Array],
    values: impl Iterator<Item = Value<'a>>,
) -> std::result::Result<(), Unfit> {
    for (array, value) in arrays.iter_mut().zip(values) {
        array.push(value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use cutover_core::model::value::TupleBuilder;

    use super::*;
    use crate::sink::shape::tests::{relation, target};

    fn tuple(values: &[Value<'_>]) -> Tuple {
        let mut b = TupleBuilder::new();
        values.iter().for_each(|v| b.push(*v));
        b.finish()
    }

    #[test]
    fn updates_are_grouped_by_what_they_set() {
        let target = target(&["k*", "a", "i!"]);
        let shape = Shape::new(&relation(&["k*", "a", "i"], false), 0, &target).unwrap();
        let (one, x) = (Value::Text(b"1"), Value::Text(b"x"));
        let rows: Vec<Row<'_>> = [
            tuple(&[one, x, one]),
            tuple(&[one, x, one]),
            tuple(&[one, Value::Null, one]),
            tuple(&[one, x, Value::Unchanged]),
        ]
        .into_iter()
        .map(|t| Row { shape: &shape, tuple: Cow::Owned(t) })
        .collect();
        let updates: Vec<(Key<'_>, &Row<'_>)> =
            rows.iter().map(|r| (Key { tuple: &r.tuple, links: &shape.key }, r)).collect();
        let mut plan = Plan::default();
        assert!(plan.add(0, &target, &[], &updates, &[]).unwrap());
        let got: Vec<(&Kind, u64)> = plan.statements.iter().map(|m| (&m.key.1, m.rows)).collect();
        assert_eq!(
            got,
            [
                (&Kind::UpdateMany(vec![0], vec![1], vec![2]), 3),
                (&Kind::UpdateMany(vec![0], vec![1], vec![]), 1),
            ]
        );
        let row = Row { shape: &shape, tuple: Cow::Owned(tuple(&[one, Value::Unchanged, one])) };
        let updates = [(Key { tuple: &row.tuple, links: &shape.key }, &row)];
        let mut plan = Plan::default();
        assert!(
            !plan
                .add(
                    0,
                    &target,
                    &updates[..1].iter().map(|u| u.0).collect::<Vec<_>>(),
                    &updates,
                    &[]
                )
                .unwrap()
        );
        assert!(plan.statements.is_empty());
    }

    #[test]
    fn many_rows_are_copied_and_few_are_inserted() {
        let target = target(&["k*", "a"]);
        let shape = Shape::new(&relation(&["k*", "a"], false), 0, &target).unwrap();
        let row =
            Row { shape: &shape, tuple: Cow::Owned(tuple(&[Value::Text(b"1"), Value::Null])) };
        let mut plan = Plan::default();
        plan.add(0, &target, &[], &[], &vec![&row; COPY_FROM - 1]).unwrap();
        assert_eq!((plan.statements.len(), plan.copies.len()), (1, 0));
        plan.add(0, &target, &[], &[], &vec![&row; COPY_FROM]).unwrap();
        assert_eq!((plan.statements.len(), plan.copies.len()), (1, 1));
        assert_eq!(plan.copies[0].rows, COPY_FROM as u64);
    }

    #[test]
    fn what_is_no_number_goes_one_by_one() {
        let mut target = target(&["k*", "n"]);
        target.columns[1].wire = crate::sink::encode::Wire::Int4;
        let shape = Shape::new(&relation(&["k*", "n"], false), 0, &target).unwrap();
        let row = |n: &'static [u8]| Row {
            shape: &shape,
            tuple: Cow::Owned(tuple(&[Value::Text(b"1"), Value::Text(n)])),
        };
        let mut plan = Plan::default();
        let (good, bad) = (row(b"-7"), row(b"7.0"));
        assert!(plan.add(0, &target, &[], &[], &[&good]).unwrap());
        assert!(!plan.add(0, &target, &[], &[], &[&good, &bad]).unwrap());
        assert_eq!(plan.statements.len(), 1);
    }

    #[test]
    fn a_binary_value_is_refused() {
        let target = target(&["k*"]);
        let shape = Shape::new(&relation(&["k*"], false), 0, &target).unwrap();
        let row = Row { shape: &shape, tuple: Cow::Owned(tuple(&[Value::Binary(b"\x01")])) };
        let error = Plan::default().add(0, &target, &[], &[], &[&row]).unwrap_err();
        assert_eq!(error.code(), Some("CUT0411"));
    }
}
