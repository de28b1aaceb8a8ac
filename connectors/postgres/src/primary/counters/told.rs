//! Statements about many sequences at once.
//!
//! A function of the server tells the state of any number of them in one statement. Before release
//! 18 (`pg_get_sequence_data`) there is only `pg_sequence_last_value`, which tells nothing about a
//! sequence that was not called yet. Such a one has to be read from the relation that it is, by a
//! statement that names it and is made and planned ahead: that takes five times as long, and to
//! plan it forty times.

use std::collections::HashSet;

use cutover_core::model::{counter::Counter, schema::TableName};
use futures_util::future::{join, join_all, join3};
use tokio_postgres::{Error, Row, types::ToSql};

use crate::{shelf::Warm, sql};

/// The first release that tells everything by a function.
const TELLS_ALL: u32 = 180_000;

/// Sequences per statement that names them: planning grows faster than their number.
const PER_STATEMENT: usize = 250;

/// The session that reads and moves sequences.
pub(in crate::primary) struct Counting {
    pub(super) warm: Warm,
    /// Those that nothing was told about the last time.
    untold: HashSet<TableName>,
}

/// What a sequence holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::primary) struct State {
    pub(super) last_value: i64,
    pub(super) is_called: bool,
}

impl Counting {
    pub(super) fn new(warm: Warm) -> Self {
        Self { warm, untold: HashSet::new() }
    }

    /// The states of these sequences in their order, and the answer to `also` of `parameters`, which
    /// is at least as new.
    ///
    /// # Errors
    ///
    /// One of them is missing or may not be read.
    pub(super) async fn read(
        &mut self,
        names: &[&TableName],
        also: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(Vec<State>, Vec<Row>), Error> {
        let texts: Vec<String> = names.iter().map(|name| sql::table(name)).collect();
        let version = self.warm.session.version();
        let tell = self.warm.prepared(&tell(version)).await?;
        let also = self.warm.prepared(also).await?;
        loop {
            let groups = self.groups(names);
            let named = groups.iter().map(|group| read_named(group, &texts)).collect::<Vec<_>>();
            let named = self.warm.prepared_all(&named).await?;
            let session = &self.warm.session;
            let (told, read, also) = join3(
                session.query(&tell, &[&texts]),
                join_all(named.iter().map(|s| session.query(s, &[]))),
                session.query(&also, parameters),
            )
            .await;
            let told = told?;
            self.untold.clear();
            let mut states: Vec<Option<State>> = vec![None; names.len()];
            for (i, row) in told.iter().enumerate() {
                match (row.get(0), row.get(1)) {
                    (Some(last_value), Some(is_called)) => {
                        states[i] = Some(State { last_value, is_called });
                    }
                    _ => drop(self.untold.insert(names[i].clone())),
                }
            }
            for row in read.into_iter().collect::<Result<Vec<_>, _>>()?.iter().flatten() {
                let state = State { last_value: row.get(1), is_called: row.get(2) };
                states[place(row)].get_or_insert(state);
            }
            if let Some(states) = states.into_iter().collect() {
                return Ok((states, also?));
            }
        }
    }

    /// Moves each sequence that is behind its counter, or that still holds what was `seen`. An unknown
    /// value moves none.
    ///
    /// # Errors
    ///
    /// One of them is missing, may not be moved, or does not take the value.
    pub(super) async fn advance(
        &mut self,
        counters: &[Counter],
        seen: &[Option<State>],
        value: fn(i64) -> Option<i64>,
    ) -> Result<(), Error> {
        let names: Vec<&TableName> = counters.iter().map(|c| &c.name).collect();
        let texts: Vec<String> = names.iter().map(|name| sql::table(name)).collect();
        let values: Vec<Option<i64>> = counters.iter().map(|c| value(c.last_value)).collect();
        let called: Vec<bool> = counters.iter().map(|c| c.is_called).collect();
        let steps: Vec<i64> = counters.iter().map(step).collect();
        let seen_called: Vec<Option<bool>> = seen.iter().map(|s| s.map(|s| s.is_called)).collect();
        let seen: Vec<Option<i64>> = seen.iter().map(|s| s.map(|s| s.last_value)).collect();
        let version = self.warm.session.version();
        let advance = self.warm.prepared(&advance(version)).await?;
        loop {
            let groups = self.groups(&names);
            let named = groups.iter().map(|group| advance_named(group, counters, &texts));
            let named = self.warm.prepared_all(&named.collect::<Vec<_>>()).await?;
            let session = &self.warm.session;
            let moves = named.iter().zip(&groups).map(async |(statement, group)| {
                let values: Vec<Option<i64>> = group.iter().map(|&i| values[i]).collect();
                let called: Vec<bool> = group.iter().map(|&i| called[i]).collect();
                let seen_called: Vec<_> = group.iter().map(|&i| seen_called[i]).collect();
                let seen: Vec<_> = group.iter().map(|&i| seen[i]).collect();
                session.query(statement, &[&values, &called, &seen, &seen_called]).await
            });
            let all: [&(dyn ToSql + Sync); 6] =
                [&texts, &values, &called, &steps, &seen, &seen_called];
            let told = async { session.query(&advance, &all).await };
            let (told, moved) = join(told, join_all(moves)).await;
            let told = told?;
            moved.into_iter().collect::<Result<Vec<_>, _>>()?;
            let untold: HashSet<usize> =
                told.iter().filter(|row| !row.get::<_, bool>(1)).map(place).collect();
            self.untold = untold.iter().map(|&i| names[i].clone()).collect();
            let named: HashSet<usize> = groups.into_iter().flatten().collect();
            if untold.is_subset(&named) {
                return Ok(());
            }
        }
    }

    /// Which of `names` nothing was told about, in groups of one statement each. A group stays as
    /// it is when another one changes.
    fn groups(&self, names: &[&TableName]) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..names.len()).collect();
        let untold = |i: &usize| self.untold.contains(names[*i]);
        let groups = all.chunks(PER_STATEMENT).map(|c| c.iter().copied().filter(untold).collect());
        groups.filter(|group: &Vec<usize>| !group.is_empty()).collect()
    }
}

/// Where in the order of the names a row belongs.
fn place(row: &Row) -> usize {
    usize::try_from(row.get::<_, i32>(0)).unwrap_or_default()
}

/// Which way a sequence goes; 0 for one that cycles, which has no order.
fn step(counter: &Counter) -> i64 {
    if counter.cycle { 0 } else { counter.increment.signum() }
}

/// What the server tells of the sequence `at`: nothing is NULL.
fn state(version: u32) -> &'static str {
    if version >= TELLS_ALL {
        "(SELECT (s).last_value, (s).is_called FROM (SELECT pg_get_sequence_data(at) AS s OFFSET 0) s)"
    } else {
        "(SELECT pg_sequence_last_value(at) AS last_value, true AS is_called)"
    }
}

/// The state of each of `$1`.
fn tell(version: u32) -> String {
    format!(
        "SELECT s.last_value, s.is_called \
           FROM (SELECT n, to_regclass(name) AS at FROM unnest($1::text[]) WITH ORDINALITY AS w(name, n)) w \
                LEFT JOIN LATERAL {} s ON true ORDER BY n",
        state(version)
    )
}

/// Moves each of `$1` that is behind `$2` and `$3` by its step `$4`, or is at `$5` and `$6`. Answers
/// with those that were moved, and those that nothing is told about.
fn advance(version: u32) -> String {
    format!(
        "SELECT (n - 1)::int4, last_value IS NOT NULL, \
                CASE WHEN last_value IS NOT NULL THEN setval(at, value, called) END \
           FROM (SELECT to_regclass(name) AS at, value, called, step, seen, seen_called, n \
                   FROM unnest($1::text[], $2::int8[], $3::bool[], $4::int8[], $5::int8[], \
                               $6::bool[]) WITH ORDINALITY \
                        AS w(name, value, called, step, seen, seen_called, n)) w \
                LEFT JOIN LATERAL {} s ON true \
          WHERE last_value IS NULL \
             OR CASE WHEN step = 0 OR (last_value, is_called) = (seen, seen_called) \
                     THEN (last_value, is_called) IS DISTINCT FROM (value, called) \
                     WHEN step > 0 THEN last_value < value ELSE last_value > value END \
             OR (last_value = value AND called AND NOT is_called)",
        state(version)
    )
}

/// The states of a group, each read from its relation.
fn read_named(group: &[usize], names: &[String]) -> String {
    let parts: Vec<String> = group
        .iter()
        .map(|&i| format!("SELECT {i}::int4, last_value, is_called FROM {}", names[i]))
        .collect();
    parts.join(" UNION ALL ")
}

/// Moves each of a group that is behind its place in `$1` and `$2`, or is at that in `$3` and `$4`.
fn advance_named(group: &[usize], counters: &[Counter], names: &[String]) -> String {
    let parts: Vec<String> = group
        .iter()
        .zip(1..)
        .map(|(&i, n)| {
            let name = &names[i];
            let (value, called) = (format!("$1[{n}]"), format!("$2[{n}]"));
            let elsewhere = format!("(last_value, is_called) IS DISTINCT FROM ({value}, {called})");
            let behind = match step(&counters[i]) {
                0 => elsewhere,
                step => {
                    let operator = if step < 0 { '>' } else { '<' };
                    format!(
                        "last_value {operator} {value} \
                         OR (last_value = {value} AND {called} AND NOT is_called) \
                         OR ((last_value, is_called) = ($3[{n}], $4[{n}]) AND {elsewhere})"
                    )
                }
            };
            format!(
                "SELECT setval({}::regclass, {value}, {called}) FROM {name} WHERE {behind}",
                sql::literal(name)
            )
        })
        .collect();
    // The types of the parameters, said once where nothing is ever read.
    format!(
        "SELECT ($1::int8[])[0] WHERE ($2::bool[])[0] AND ($3::int8[])[0] = 0 AND ($4::bool[])[0] \
         UNION ALL {}",
        parts.join(" UNION ALL ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direction_and_cycle() {
        let counter = |increment, cycle| Counter {
            name: TableName::new("s", "q"),
            last_value: 1,
            is_called: true,
            increment,
            cycle,
        };
        let text = |c: Counter| advance_named(&[0], &[c], &["s.q".into()]);
        assert!(text(counter(1, false)).contains("WHERE last_value < $1[1]"));
        assert!(text(counter(-1, false)).contains("WHERE last_value > $1[1]"));
        assert!(text(counter(1, true)).contains("IS DISTINCT FROM ($1[1], $2[1])"));
    }
}
