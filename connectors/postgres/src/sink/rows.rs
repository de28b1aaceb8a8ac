//! The ordered row path: one change, one statement, one row. Slow, and always right or refused.
//!
//! [`plan`] decides, [`write`] sends the statements in small groups, one round trip each.

use std::borrow::Cow;

use cutover_core::{
    model::{
        event::{Change, Event},
        value::{Tuple, Value},
    },
    port::Result,
};
use tokio_postgres::{Client, error::SqlState};

use super::{
    batch::place,
    cache::{self, Cache, Kind},
    encode::{TextValue, Unfit},
    pipeline::pipeline,
    reduce::Step,
    refusal,
    router::Router,
    set::no_text,
    shape::{Link, Shape, Target},
    statement::Find,
};
use crate::connect::{is_about_encoding, port_error, row_error};

/// Statements per round trip.
const GROUP: usize = 64;

/// A statement for one row.
#[derive(Debug)]
struct One<'a> {
    key: cache::Key,
    /// Where its values come from, so that the parameters can borrow from them.
    find: Cow<'a, Tuple>,
    find_links: Vec<Link>,
    set: Cow<'a, Tuple>,
    set_links: Vec<Link>,
    event: usize,
}

impl One<'_> {
    fn parameters(&self) -> std::result::Result<Vec<TextValue<'_>>, Unfit> {
        let find = self.find_links.iter().map(|l| Shape::value(&self.find, *l));
        let set = self.set_links.iter().map(|l| Shape::value(&self.set, *l));
        find.chain(set).map(TextValue::new).collect()
    }
}

/// What to send for one change; `None` when it changes nothing.
fn plan<'a>(target: &Target, step: Step<'a>) -> Option<One<'a>> {
    let shape = step.shape;
    let one = |kind, find: (&'a Tuple, Vec<Link>), set: (Cow<'a, Tuple>, Vec<Link>)| One {
        key: (shape.target, kind),
        find: Cow::Borrowed(find.0),
        find_links: find.1,
        set: set.0,
        set_links: set.1,
        event: step.event,
    };
    match step.change {
        Change::Insert { new } => {
            let kind = Kind::InsertOne(shape.targets());
            Some(one(kind, (new, Vec::new()), (Cow::Borrowed(new), shape.columns.clone())))
        }
        Change::Delete { old } => {
            let (find, links) = finder(target, shape, old);
            Some(one(Kind::DeleteOne(find), (old, links), (Cow::Borrowed(old), Vec::new())))
        }
        Change::Update { old, new } => {
            let before = old.as_ref().unwrap_or(new);
            let (find, links) = finder(target, shape, before);
            let whole = old.as_ref().filter(|_| shape.full);
            let set: Vec<Link> = shape
                .columns
                .iter()
                .filter(|l| sets(shape, old.as_ref(), whole, new, **l))
                .copied()
                .collect();
            if set.is_empty() {
                return None;
            }
            let targets: Vec<u16> = set.iter().map(|l| l.target).collect();
            let kind = if targets.iter().any(|t| target.column(*t).identity_always) {
                Kind::MoveOne(find, targets)
            } else {
                Kind::UpdateOne(find, targets)
            };
            Some(one(kind, (before, links), (Cow::Borrowed(new), set)))
        }
    }
}

/// Whether an update must set this column: it was sent, and it is not known to be as before.
fn sets(
    shape: &Shape,
    old: Option<&Tuple>,
    whole: Option<&Tuple>,
    new: &Tuple,
    link: Link,
) -> bool {
    let value = Shape::value(new, link);
    if value == Value::Unchanged {
        return false;
    }
    let before = match (old, whole) {
        (_, Some(whole)) => Some(whole),
        (Some(old), None) if shape.key.contains(&link) => Some(old),
        (None, None) if shape.key.contains(&link) => return false,
        _ => None,
    };
    before.is_none_or(|before| Shape::value(before, link) != value)
}

/// How to find a row, and the columns whose values the finder needs. By its key, unless that may
/// name another row as well until the transaction ends, and all of the row is known.
fn finder(target: &Target, shape: &Shape, tuple: &Tuple) -> (Find, Vec<Link>) {
    let late = shape.full && target.late_key;
    if !late && !shape.key.is_empty() {
        return (Find::Key(shape.key_targets()), shape.key.clone());
    }
    let is_null = |l: &Link| Shape::value(tuple, *l) == Value::Null;
    let find = shape.columns.iter().map(|l| (l.target, is_null(l))).collect();
    (Find::Whole(find), shape.columns.iter().filter(|l| !is_null(l)).copied().collect())
}

/// Everything the row path needs to know about the call.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) client: &'a Client,
    pub(super) router: &'a Router,
    /// All events of the call and the transaction that has no end yet, for messages.
    pub(super) events: &'a [Event],
    pub(super) open: Option<u32>,
}

/// Writes changes one after the other.
///
/// # Errors
///
/// Definite when a row is missing, there already, not accepted, or not the only one.
pub(super) async fn write(
    context: Context<'_>,
    cache: &mut Cache,
    steps: &[Step<'_>],
) -> Result<()> {
    for group in steps.chunks(GROUP) {
        let ones: Vec<One<'_>> = group
            .iter()
            .filter_map(|step| plan(context.router.target(step.shape.target), *step))
            .collect();
        cache.prepare(context.client, context.router, ones.iter().map(|one| &one.key)).await?;
        send(context, cache, &ones).await?;
    }
    Ok(())
}

async fn send(context: Context<'_>, cache: &Cache, ones: &[One<'_>]) -> Result<()> {
    let mut requests = Vec::with_capacity(ones.len());
    for one in ones {
        let target = context.router.target(one.key.0);
        let parameters = one.parameters().map_err(|_| no_text(target))?;
        let Some(statement) = cache.get(&one.key) else {
            return Err(refusal::not_a_stream("a statement was not prepared"));
        };
        requests.push(async move { context.client.execute_raw(statement, parameters).await });
    }
    for (one, answer) in ones.iter().zip(pipeline(requests.into_iter()).await) {
        let table = &context.router.target(one.key.0).name;
        let place = || place(context.events, one.event, context.open);
        match answer {
            Ok(1) => {}
            Ok(0) if matches!(one.key.1, Kind::InsertOne(_)) => {
                return Err(refusal::row_suppressed(table, &place()));
            }
            Ok(0) => return Err(refusal::row_missing(table, &place())),
            Ok(rows) => return Err(refusal::key_not_unique(table, &place(), rows)),
            Err(error) => {
                let Some(db) = error.as_db_error() else {
                    return Err(port_error(format!("writing table {table}"), error));
                };
                return Err(match db.code() {
                    c if *c == SqlState::UNIQUE_VIOLATION
                        || *c == SqlState::EXCLUSION_VIOLATION =>
                    {
                        refusal::row_exists(table, &place(), db.constraint())
                    }
                    c if is_about_encoding(c.code()) => {
                        refusal::not_convertible(table, &place(), db)
                    }
                    _ if refusal::is_about_rows(db) => refusal::row_refused(table, &place(), db),
                    _ => row_error(format!("writing table {table}"), error),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cutover_core::model::value::TupleBuilder;

    use super::*;
    use crate::sink::shape::tests::{relation, target};

    /// A row from words: `-` is NULL, `~` unchanged.
    fn row(words: &str) -> Tuple {
        let mut b = TupleBuilder::new();
        for word in words.split(' ') {
            b.push(match word {
                "-" => Value::Null,
                "~" => Value::Unchanged,
                word => Value::Text(word.as_bytes()),
            });
        }
        b.finish()
    }

    fn kind(columns: &[&str], full: bool, on: &[&str], change: &Change) -> Option<(Kind, usize)> {
        let target = target(on);
        let shape = Shape::new(&relation(columns, full), 0, &target).unwrap();
        plan(&target, Step { shape: &shape, change, event: 0 })
            .map(|one| (one.key.1.clone(), one.parameters().unwrap().len()))
    }

    fn update(old: Option<&str>, new: &str) -> Change {
        Change::Update { old: old.map(row), new: row(new) }
    }

    #[test]
    fn a_key_change_sets_the_key_where_the_old_one_was() {
        let t: &[&str] = &["k*", "a", "b"];
        let key = || Find::Key(vec![0]);
        for (change, want) in [
            (update(None, "1 x ~"), Some((Kind::UpdateOne(key(), vec![1]), 2))),
            (update(Some("1 - -"), "2 x y"), Some((Kind::UpdateOne(key(), vec![0, 1, 2]), 4))),
            (update(Some("1 - -"), "1 x y"), Some((Kind::UpdateOne(key(), vec![1, 2]), 3))),
            (update(Some("1 - -"), "~ ~ y"), Some((Kind::UpdateOne(key(), vec![2]), 2))),
            (update(None, "1 ~ ~"), None),
        ] {
            assert_eq!(kind(t, false, t, &change), want, "{change:?}");
        }
    }

    #[test]
    fn a_row_without_a_key_is_found_by_all_it_has() {
        let t: &[&str] = &["a", "b", "c"];
        let whole = || Find::Whole(vec![(0, false), (1, true), (2, false)]);
        let delete = Change::Delete { old: row("1 - x") };
        assert_eq!(kind(t, true, t, &delete), Some((Kind::DeleteOne(whole()), 2)));
        let change = update(Some("1 - x"), "1 y ~");
        assert_eq!(kind(t, true, t, &change), Some((Kind::UpdateOne(whole(), vec![1]), 3)));
    }

    #[test]
    fn a_key_that_is_checked_late_is_not_enough() {
        let t: &[&str] = &["k*", "a"];
        let mut target = target(t);
        target.late_key = true;
        let delete = Change::Delete { old: row("1 x") };
        for (full, want) in
            [(true, Find::Whole(vec![(0, false), (1, false)])), (false, Find::Key(vec![0]))]
        {
            let shape = Shape::new(&relation(t, full), 0, &target).unwrap();
            let one = plan(&target, Step { shape: &shape, change: &delete, event: 0 }).unwrap();
            assert_eq!(one.key.1, Kind::DeleteOne(want));
        }
    }

    #[test]
    fn what_cannot_be_set_moves_the_row() {
        let on: &[&str] = &["k*!", "a"];
        let t: &[&str] = &["k*", "a"];
        let key = || Find::Key(vec![0]);
        for (change, want) in [
            (update(None, "1 x"), Kind::UpdateOne(key(), vec![1])),
            (update(Some("1 -"), "2 x"), Kind::MoveOne(key(), vec![0, 1])),
            (update(Some("1 -"), "2 ~"), Kind::MoveOne(key(), vec![0])),
        ] {
            assert_eq!(kind(t, false, on, &change).map(|k| k.0), Some(want));
        }
        // Beside the key nobody knows what it was.
        let beside = kind(&["k*", "i"], false, &["k*", "i!"], &update(None, "1 7"));
        assert_eq!(beside.map(|k| k.0), Some(Kind::MoveOne(key(), vec![1])));
    }
}
