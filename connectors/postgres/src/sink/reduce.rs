//! Many changes of one table → at most one delete, one update and one insert per row. Pure.
//!
//! The result, written as deletes, then updates, then inserts, leaves the table as the changes in
//! their order would. Where that is not certain the changes are kept in their order and [`Net`]
//! says why. Knows nothing of uniqueness beside the key: the server finds that out.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry as Slot},
    hash::{Hash, Hasher},
};

use cutover_core::model::{
    event::Change,
    value::{Tuple, Value},
};

use super::shape::{Link, Shape};

/// One change of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    /// How its row maps to the target.
    pub(super) shape: &'a Shape,
    /// What happened.
    pub(super) change: &'a Change,
    /// Which event of the call it was, for messages.
    pub(super) event: usize,
}

/// A row to write.
#[derive(Debug, Clone)]
pub(super) struct Row<'a> {
    pub(super) shape: &'a Shape,
    pub(super) tuple: Cow<'a, Tuple>,
}

/// The key of a row: a row image that holds it, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) tuple: &'a Tuple,
    pub(super) links: &'a [Link],
}

impl<'a> Key<'a> {
    /// The key's values in the target's order.
    pub(super) fn values(self) -> impl Iterator<Item = Value<'a>> {
        self.links.iter().map(move |link| Shape::value(self.tuple, *link))
    }
}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in self.values() {
            if let Value::Text(text) | Value::Binary(text) = value {
                text.hash(state);
            }
        }
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.values().eq(other.values())
    }
}

impl Eq for Key<'_> {}

/// Why changes must be written one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The set-wise path did not work for this table now or lately.
    Asked,
    /// Only a column was sent that the server does not let us set.
    KeptColumn,
    /// A key was changed.
    KeyChange,
    /// Rows are changed that nothing names.
    NoKey,
    /// A key value is not in hand.
    KeyUnknown,
    /// Changes of one row do not follow from each other; writing them in order finds the culprit.
    Contradiction,
    /// Relations with different columns or keys write to one row or table.
    Shapes,
    /// A row has no column that could be listed.
    NoColumns,
}

/// What a table needs.
#[derive(Debug)]
pub(super) enum Net<'a> {
    /// Deletes first, then updates, then inserts.
    Set {
        /// Rows that go.
        deletes: Vec<Key<'a>>,
        /// Rows that change; `Unchanged` values stay as they are.
        updates: Vec<(Key<'a>, &'a Row<'a>)>,
        /// Rows that come, complete.
        inserts: Vec<&'a Row<'a>>,
    },
    /// Every step in order.
    Ordered(Reason),
}

/// The changes of one table in one call.
#[derive(Debug, Default)]
pub(super) struct Pending<'a> {
    /// All of them in order.
    pub(super) steps: Vec<Step<'a>>,
    reason: Option<Reason>,
    /// Places in `rows`. Empty as long as rows only come: the server finds out about their keys.
    keys: HashMap<Key<'a>, usize>,
    rows: Vec<(Key<'a>, State<'a>)>,
    keyless: Vec<Row<'a>>,
}

/// What is known of a row after the changes so far.
#[derive(Debug)]
enum State<'a> {
    Insert(Row<'a>),
    Update(Row<'a>),
    Delete,
    /// Deleted, and another row with its key inserted.
    Replace(Row<'a>),
    /// Inserted and deleted.
    Gone,
}

impl<'a> Pending<'a> {
    /// Adds a change.
    pub(super) fn push(&mut self, step: Step<'a>) {
        self.steps.push(step);
        if self.reason.is_none() {
            self.reason = self.reduce(step).err();
        }
    }

    /// Gives up reducing.
    pub(super) fn keep_order(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    /// All changes in order.
    pub(super) fn into_steps(self) -> Vec<Step<'a>> {
        self.steps
    }

    /// What to write.
    pub(super) fn net(&self) -> Net<'_> {
        if let Some(reason) = self.reason {
            return Net::Ordered(reason);
        }
        let mut deletes = Vec::new();
        let mut updates = Vec::new();
        let mut inserts: Vec<&Row<'_>> = self.keyless.iter().collect();
        for (key, state) in &self.rows {
            match state {
                State::Insert(row) => inserts.push(row),
                State::Update(row) => updates.push((*key, row)),
                State::Delete => deletes.push(*key),
                State::Replace(row) => {
                    deletes.push(*key);
                    inserts.push(row);
                }
                State::Gone => {}
            }
        }
        Net::Set { deletes, updates, inserts }
    }

    fn reduce(&mut self, step: Step<'a>) -> Result<(), Reason> {
        let shape = step.shape;
        if let Some((key, _)) = self.rows.first()
            && !same_columns(key.links, &shape.key)
        {
            return Err(Reason::Shapes);
        }
        match step.change {
            _ if shape.columns.is_empty() => Err(Reason::NoColumns),
            Change::Insert { new } if shape.key.is_empty() => {
                if !self.rows.is_empty() {
                    return Err(Reason::Shapes);
                }
                self.keyless.push(Row { shape, tuple: Cow::Borrowed(new) });
                Ok(())
            }
            _ if shape.key.is_empty() => Err(Reason::NoKey),
            _ if !self.keyless.is_empty() => Err(Reason::Shapes),
            Change::Insert { new } => {
                self.insert(key_of(shape, new)?, Row { shape, tuple: Cow::Borrowed(new) })
            }
            Change::Update { old, new } => {
                let (key, tuple) = match old {
                    None => (key_of(shape, new)?, Cow::Borrowed(new)),
                    Some(old) => {
                        let key = key_of(shape, old)?;
                        if !keeps_key(key, new) {
                            return Err(Reason::KeyChange);
                        }
                        let tuple = if shape.full { fill(new, old) } else { Cow::Borrowed(new) };
                        (key, tuple)
                    }
                };
                self.update(key, Row { shape, tuple })
            }
            Change::Delete { old } => self.delete(shape, key_of(shape, old)?),
        }
    }

    /// Makes all rows so far known by their keys.
    fn index(&mut self) -> Result<(), Reason> {
        if self.keys.is_empty() {
            self.keys = self.rows.iter().enumerate().map(|(i, (key, _))| (*key, i)).collect();
        }
        if self.keys.len() < self.rows.len() { Err(Reason::Contradiction) } else { Ok(()) }
    }

    fn insert(&mut self, key: Key<'a>, row: Row<'a>) -> Result<(), Reason> {
        if self.keys.is_empty() {
            self.rows.push((key, State::Insert(row)));
            return Ok(());
        }
        match self.keys.entry(key) {
            Slot::Vacant(slot) => {
                slot.insert(self.rows.len());
                self.rows.push((key, State::Insert(row)));
            }
            Slot::Occupied(slot) => {
                let state = &mut self.rows[*slot.get()].1;
                *state = match state {
                    State::Delete => State::Replace(row),
                    State::Gone => State::Insert(row),
                    _ => return Err(Reason::Contradiction),
                };
            }
        }
        Ok(())
    }

    fn update(&mut self, key: Key<'a>, row: Row<'a>) -> Result<(), Reason> {
        self.index()?;
        match self.keys.entry(key) {
            Slot::Vacant(slot) => {
                slot.insert(self.rows.len());
                self.rows.push((key, State::Update(row)));
            }
            Slot::Occupied(slot) => {
                let (before, whole) = match &mut self.rows[*slot.get()].1 {
                    State::Insert(before) | State::Replace(before) => (before, true),
                    State::Update(before) => (before, false),
                    State::Delete | State::Gone => return Err(Reason::Contradiction),
                };
                if is_another(row.shape, key, before) {
                    return Err(Reason::Contradiction);
                }
                before.tuple = match row.tuple {
                    Cow::Borrowed(new) => fill(new, &before.tuple),
                    Cow::Owned(new) => Cow::Owned(new.filled_from(&before.tuple)),
                };
                if whole && has_unchanged(&before.tuple) {
                    return Err(Reason::Contradiction);
                }
            }
        }
        Ok(())
    }

    fn delete(&mut self, shape: &Shape, key: Key<'a>) -> Result<(), Reason> {
        self.index()?;
        match self.keys.entry(key) {
            Slot::Vacant(slot) => {
                slot.insert(self.rows.len());
                self.rows.push((key, State::Delete));
            }
            Slot::Occupied(slot) => {
                let state = &mut self.rows[*slot.get()].1;
                if let State::Insert(row) | State::Update(row) | State::Replace(row) = state
                    && is_another(shape, key, row)
                {
                    return Err(Reason::Contradiction);
                }
                *state = match state {
                    State::Insert(_) => State::Gone,
                    State::Update(_) | State::Replace(_) => State::Delete,
                    State::Delete | State::Gone => return Err(Reason::Contradiction),
                };
            }
        }
        Ok(())
    }
}

/// Whether the row that is changed may be another one than `known` with the same key. A key that is
/// checked late names two rows for a while, of which all is known; one that is a key of each
/// partition only names a row in each of them.
fn is_another(shape: &Shape, old: Key<'_>, known: &Row<'_>) -> bool {
    !std::ptr::eq(shape, known.shape) || shape.full && !old.tuple.values().eq(known.tuple.values())
}

/// Whether the row leaves a column as it is.
pub(super) fn has_unchanged(tuple: &Tuple) -> bool {
    tuple.values().any(|v| v == Value::Unchanged)
}

/// Whether the row after holds the key of the row before. An unchanged value is the same one.
pub(super) fn keeps_key(old: Key<'_>, new: &Tuple) -> bool {
    old.links.iter().all(|link| {
        let after = Shape::value(new, *link);
        after == Value::Unchanged || after == Shape::value(old.tuple, *link)
    })
}

fn fill<'a>(new: &'a Tuple, before: &Tuple) -> Cow<'a, Tuple> {
    if has_unchanged(new) { Cow::Owned(new.filled_from(before)) } else { Cow::Borrowed(new) }
}

fn key_of<'a>(shape: &'a Shape, tuple: &'a Tuple) -> Result<Key<'a>, Reason> {
    let key = Key { tuple, links: &shape.key };
    match key.values().any(|v| matches!(v, Value::Null | Value::Unchanged)) {
        true => Err(Reason::KeyUnknown),
        false => Ok(key),
    }
}

fn same_columns(a: &[Link], b: &[Link]) -> bool {
    std::ptr::eq(a, b) || (a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.target == b.target))
}

#[cfg(test)]
#[path = "reduce_tests.rs"]
mod tests;
