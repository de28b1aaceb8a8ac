//! Random histories of definitions and rows, as one seed makes them.
#![allow(clippy::print_stderr, reason = "the seed of a history that failed")]

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    ddl_partitions_told::{play, servers},
    pair::Pair,
};
use cutover_core::model::side::Side;
use cutover_testkit::Dice;

/// Statements of a history; each second one or so defines something.
const LENGTH: usize = 60;

fn one_of<'a, T>(dice: &mut Dice, list: &'a [T]) -> &'a T {
    &list[dice.below(list.len())]
}

/// What exists so far.
struct Story {
    dice: Dice,
    /// Tables with their columns.
    tables: Vec<(String, Vec<(String, &'static str)>)>,
    indexes: Vec<String>,
    labels: usize,
    types: Vec<String>,
    number: usize,
}

/// Types, what they may become, and a value that only the type or a wider one has.
const WIDER: &[(&str, &[&str], &str)] = &[
    ("smallint", &["integer", "bigint"], "7"),
    ("integer", &["bigint", "numeric"], "70000"),
    ("bigint", &["numeric"], "5000000000"),
    ("numeric", &[], "1e20"),
    ("varchar(5)", &["varchar(9)", "text"], "'five5'"),
    ("varchar(9)", &["text"], "'ninechars'"),
    ("text", &[], "repeat('t', 40)"),
    ("mood", &[], "'m0'"),
    ("real", &["double precision"], "1.5"),
    ("double precision", &[], "1e200"),
];

fn value(kind: &str) -> &'static str {
    WIDER.iter().find(|(name, ..)| *name == kind).expect("a type of ours").2
}

impl Story {
    fn new(seed: u64) -> Self {
        let column = |name: &str, kind| (name.to_owned(), kind);
        let columns = vec![column("n", "integer"), column("v", "varchar(5)")];
        Self {
            dice: Dice::new(seed),
            tables: vec![("t0".into(), columns.clone()), ("parts".into(), columns)],
            indexes: Vec::new(),
            labels: 1,
            types: Vec::new(),
            number: 1,
        }
    }

    fn fresh(&mut self, word: &str) -> String {
        self.number += 1;
        format!("{word}{}", self.number)
    }

    /// The next statement.
    fn next(&mut self) -> String {
        let at = self.dice.below(self.tables.len());
        let table = self.tables[at].0.clone();
        let columns = self.tables[at].1.clone();
        let (column, kind) = one_of(&mut self.dice, &columns).clone();
        match self.dice.below(26) {
            0..=1 => {
                let (name, new) = (self.fresh("c"), one_of(&mut self.dice, WIDER));
                self.tables[at].1.push((name.clone(), new.0));
                let rest = ["", " DEFAULT {}", " NOT NULL DEFAULT {}"];
                let rest = one_of(&mut self.dice, &rest).replace("{}", new.2);
                format!("ALTER TABLE {table} ADD {name} {}{rest}", new.0)
            }
            2..=3 => {
                let wider = WIDER.iter().find(|w| w.0 == kind).expect("a type of ours").1;
                if wider.is_empty() {
                    return self.rows(at);
                }
                let wider = *one_of(&mut self.dice, wider);
                for known in &mut self.tables[at].1 {
                    if known.0 == column {
                        known.1 = wider;
                    }
                }
                format!("ALTER TABLE {table} ALTER {column} TYPE {wider}")
            }
            4 => {
                let name = self.fresh("i");
                self.indexes.push(name.clone());
                format!("CREATE INDEX {name} ON {table} ({column}, id)")
            }
            5 => match self.indexes.pop() {
                Some(index) => format!("DROP INDEX {index}"),
                None => self.rows(at),
            },
            6 => {
                self.labels += 1;
                format!("ALTER TYPE mood ADD VALUE 'm{}'", self.labels - 1)
            }
            7 => {
                let name = self.fresh("t");
                let kind = one_of(&mut self.dice, WIDER);
                self.tables.push((name.clone(), vec![("a".into(), kind.0)]));
                format!(
                    "CREATE TABLE {name} (id int PRIMARY KEY, a {0}); INSERT INTO {name} \
                     SELECT i, {1}::{0} FROM generate_series(1, 20) i",
                    kind.0, kind.2
                )
            }
            8 => {
                let name = self.fresh("parts_");
                let number = self.number;
                format!(
                    "BEGIN; CREATE TABLE {name} PARTITION OF parts FOR VALUES IN ({number}); \
                     INSERT INTO parts SELECT i, {number} FROM generate_series(1, 5) i; COMMIT"
                )
            }
            24 => {
                let name = self.fresh("parts_");
                let number = self.number;
                format!(
                    "CREATE TABLE {name} PARTITION OF parts FOR VALUES IN ({number}) PARTITION BY \
                     RANGE (id); CREATE TABLE {name}a PARTITION OF {name} DEFAULT; \
                     INSERT INTO parts SELECT i, {number} FROM generate_series(1, 5) i"
                )
            }
            25 => {
                let name = self.fresh("parts_");
                let number = self.number;
                format!(
                    "CREATE TABLE {name} (LIKE parts INCLUDING ALL); \
                     INSERT INTO {name} SELECT i, {number} FROM generate_series(1, 5) i; \
                     ALTER TABLE parts ATTACH PARTITION {name} FOR VALUES IN ({number})"
                )
            }
            9 => {
                let name = self.fresh("y");
                self.types.push(name.clone());
                format!("CREATE TYPE {name} AS (a int, b mood)")
            }
            10 => match self.types.pop() {
                Some(name) if self.dice.below(2) == 0 => format!("DROP TYPE {name}"),
                Some(name) => format!("ALTER TYPE {name} ADD ATTRIBUTE more text"),
                None => self.rows(at),
            },
            11 => format!("ALTER TABLE {table} ALTER {column} SET DEFAULT {}", value(kind)),
            // One that may be null.
            12 => format!("ALTER TABLE {table} ALTER {} DROP DEFAULT", columns[0].0),
            13 => {
                let (rows, name) = (self.rows(at), self.fresh("c"));
                self.tables[at].1.push((name.clone(), "integer"));
                format!(
                    "BEGIN; {rows}; ALTER TABLE {table} ADD {name} int DEFAULT 3; {rows}; COMMIT"
                )
            }
            _ => self.rows(at),
        }
    }

    /// A change of rows that fits every history.
    fn rows(&mut self, at: usize) -> String {
        let (table, columns) = &self.tables[at];
        let (column, kind) = one_of(&mut self.dice, columns);
        let id = 1 + self.dice.below(60);
        let value = value(kind);
        match self.dice.below(4) {
            0 => format!("DELETE FROM {table} WHERE id = {id}"),
            1 => format!("UPDATE {table} SET {column} = {value} WHERE id % 7 = {}", id % 7),
            _ => format!(
                "INSERT INTO {table} (id, {column}) VALUES ({id}, {value}) ON CONFLICT DO NOTHING"
            ),
        }
    }
}

const BEFORE: &str = "CREATE TYPE mood AS ENUM ('m0');
    CREATE TABLE t0 (id int PRIMARY KEY, n integer, v varchar(5));
    CREATE TABLE parts (id int, k int DEFAULT 1, n integer, v varchar(5), PRIMARY KEY (id, k))
        PARTITION BY LIST (k);
    CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN (1);
    INSERT INTO t0 SELECT i, i, 'v' FROM generate_series(1, 40) i;
    INSERT INTO parts SELECT i, 1, i, 'p' FROM generate_series(1, 40) i";

/// `SEED=n` plays one history again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_history_of_safe_changes_is_followed() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let seed = seed.unwrap_or_else(now);
    eprintln!("SEED={seed}");
    let (blue, green) = servers().await;
    let pair = Pair::open("random", &blue, &green, "ddl: apply\n").await;
    pair.does(Side::Blue, BEFORE).await;
    let mut run = pair.desk.run();
    let mut story = Story::new(seed);
    // Anywhere in the copy, and behind it.
    for half in 0..2 {
        for _ in 0..LENGTH / 2 {
            let statement = story.next();
            eprintln!("{statement};");
            pair.does(Side::Blue, &statement).await;
        }
        let stops = play(&pair, &mut run, Side::Blue, ("a random history", &[])).await;
        assert_eq!(stops, 0);
        assert_eq!(pair.defined(Side::Blue).await, pair.defined(Side::Green).await, "half {half}");
    }
    pair.desk.moves("switch").await.exits(0);
    pair.sides_are_equal().await;
    pair.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(crate::program::COMMAND_WITHIN).await.success());
    pair.nothing_is_left().await;
}
