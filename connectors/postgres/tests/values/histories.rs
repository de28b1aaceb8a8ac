//! Random histories of random tables: what several sessions did on blue at the same time is applied
//! on green in batches of any size, and green is at any moment what blue was at that commit.
//!
//! Every transaction ends by writing down a sum over all tables of its history, with all others
//! waiting; so the last sum that green holds must be that of its own tables.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use cutover_core::{
    model::event::Event,
    port::{sink::SinkWriter, source::Source},
};
use futures_util::future::join_all;
use tokio_postgres::Client;

use crate::{
    random::{Random, seed},
    world::{PINNED, Pair, pairs},
};

/// How many histories per pair of servers; more find more.
const HISTORIES: &str = "CUTOVER_VALUES_HISTORIES";
/// Histories that happen at the same time, and sessions of each.
const AT_ONCE: usize = 4;
const SESSIONS: usize = 3;
/// Transactions per session.
const TRANSACTIONS: usize = 5;

/// Types of keys. Of the last two, values may be equal and yet read differently.
const KEYS: &[&str] = &["int", "bigint", "text", "numeric", "text COLLATE app.ci"];

/// How rows are named; the last one takes inserts only.
const IDENTITIES: &[&str] = &[
    "ALTER TABLE {t} ADD PRIMARY KEY (k)",
    "ALTER TABLE {t} ADD PRIMARY KEY (k)",
    "ALTER TABLE {t} ADD PRIMARY KEY (l, k)",
    "ALTER TABLE {t} ADD PRIMARY KEY (k); ALTER TABLE {t} REPLICA IDENTITY FULL",
    "ALTER TABLE {t} ADD PRIMARY KEY (i)",
    "ALTER TABLE {t} ADD CONSTRAINT {i}_late PRIMARY KEY(k) DEFERRABLE INITIALLY DEFERRED;
     ALTER TABLE {t} REPLICA IDENTITY FULL",
    "ALTER TABLE {t} REPLICA IDENTITY FULL",
    "ALTER TABLE {t} ALTER k SET NOT NULL; CREATE UNIQUE INDEX {i}_k ON {t} (k);
     ALTER TABLE {t} REPLICA IDENTITY USING INDEX {i}_k",
    "ALTER TABLE {t} REPLICA IDENTITY NOTHING",
];

/// A table like that is not published; one that is published may come to it.
const UNNAMED: &str = "REPLICA IDENTITY NOTHING";

/// What else must be unique.
const BESIDE: &[&str] = &[
    "ALTER TABLE {t} ADD UNIQUE (u)",
    "ALTER TABLE {t} ADD UNIQUE (u) DEFERRABLE INITIALLY DEFERRED",
    "ALTER TABLE {t} ADD UNIQUE (u) DEFERRABLE",
    "ALTER TABLE {t} ADD UNIQUE (w, u)",
    "CREATE UNIQUE INDEX ON {t} (u) WHERE b > 1",
    "CREATE UNIQUE INDEX ON {t} (lower(a), b)",
    "ALTER TABLE {t} ADD EXCLUDE USING gist (int4range(u, u + 2) WITH &&)",
    "ALTER TABLE {t} ADD EXCLUDE USING gist (int4range(u, u + 2) WITH &&) DEFERRABLE INITIALLY DEFERRED",
];

/// What happens to rows that refer to another.
const REFERENCES: &[&str] = &[
    "ON DELETE CASCADE ON UPDATE CASCADE",
    "ON DELETE SET NULL",
    "ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
];

struct Table {
    name: String,
    key: &'static str,
    /// Whether keys and unique values change hands; where they never do, rows are written as sets.
    moves: bool,
    /// Type of the key it refers to.
    parent: Option<&'static str>,
    ddl: String,
}

impl Table {
    fn new(r: &mut Random, history: usize, n: usize, before: &[Self]) -> Self {
        let name = format!("app.h{history}_{n}");
        let fill = |text: &str| text.replace("{t}", &name).replace("{i}", &name[4..]);
        let key = r.pick(KEYS);
        let named = r.below(IDENTITIES.len());
        // Only one column can be referred to.
        let parent = before.iter().find(|t| t.ddl.contains("PRIMARY KEY (k)") && r.one_in(2));
        let mut ddl = format!(
            "CREATE TABLE {name} (k {key}, l int NOT NULL DEFAULT 0, a text, b int, u int, w int, \
             big text, i int GENERATED ALWAYS AS IDENTITY, g int GENERATED ALWAYS AS (b * 2) STORED, \
             p {});\nALTER TABLE {name} ALTER big SET STORAGE EXTERNAL;\n{};\n",
            parent.map_or("int", |p| p.key),
            fill(IDENTITIES[named])
        );
        for _ in 0..r.pick(&[0, 0, 1, 2]) {
            ddl += &format!("{};\n", fill(r.pick(BESIDE)));
        }
        if let Some(parent) = parent {
            let how = r.pick(REFERENCES);
            ddl += &format!(
                "ALTER TABLE {name} ADD FOREIGN KEY (p) REFERENCES {} (k) {how};\n",
                parent.name
            );
        }
        Self { key, moves: r.one_in(3), parent: parent.map(|p| p.key), ddl, name }
    }

    /// What a session does in one step.
    fn step(&self, r: &mut Random, all: &[Self]) -> String {
        let (t, key) = (&self.name, |r: &mut Random| key(r, self.key));
        let insert = |r: &mut Random, k: &str| {
            format!(
                "INSERT INTO {t} (k, l, a, b, u, w, big, p) VALUES ({k}, {}, {}, {}, {}, {}, {}, {})",
                r.below(2),
                word(r),
                r.below(6),
                small(r),
                r.below(3),
                big(r),
                self.referred(r)
            )
        };
        let kind = r.below(36);
        match if self.moves || !(18..=24).contains(&kind) { kind } else { kind + 7 } {
            0..=8 => {
                let k = key(r);
                insert(r, &k)
            }
            9..=14 => format!("UPDATE {t} SET {} WHERE k = {}", self.set(r), key(r)),
            15..=17 => format!("UPDATE {t} SET {} WHERE b % 3 = {}", self.set(r), r.below(3)),
            18 => format!("UPDATE {t} SET a = a, k = k"),
            19 | 20 => format!("UPDATE {t} SET k = {} WHERE k = {}", key(r), key(r)),
            21 => {
                let (one, two, third) = (key(r), key(r), free(self.key));
                format!(
                    "UPDATE {t} SET k = {third} WHERE k = {one}; \
                     UPDATE {t} SET k = {one} WHERE k = {two}; \
                     UPDATE {t} SET k = {two}, b = b + 1 WHERE k = {third}"
                )
            }
            22 => format!("UPDATE {t} SET l = 1 - l, i = DEFAULT WHERE k = {}", key(r)),
            23 => format!("UPDATE {t} SET u = 7 - u"),
            24 => format!("UPDATE {t} SET u = u + 1"),
            25..=27 => format!("DELETE FROM {t} WHERE k = {}", key(r)),
            28 => format!("DELETE FROM {t} WHERE b % 4 = {}", r.below(4)),
            29 | 30 => {
                let k = key(r);
                let (delete, insert) = (format!("DELETE FROM {t} WHERE k = {k}"), insert(r, &k));
                // Two rows of one key for a while.
                if self.ddl.contains("_late PRIMARY KEY") {
                    format!("{insert}; {delete} AND i < (SELECT max(i) FROM {t} WHERE k = {k})")
                } else {
                    format!("{delete}; {insert}")
                }
            }
            // So many that they are copied in.
            31 => {
                let from = 1000 * r.below(3);
                format!(
                    "INSERT INTO {t} (k, l, a, b) SELECT g::text::{}, 0, 'many', g \
                     FROM generate_series({from}, {from} + 70) g",
                    self.key.split(' ').next().unwrap()
                )
            }
            32 => format!("UPDATE {t} SET {} WHERE b > 50", self.set(r)),
            // Of what is logged from here on.
            34 | 35 => {
                let how = r.pick(&["FULL", "FULL", "DEFAULT", "NOTHING", "USING INDEX"]);
                let index =
                    if how == "USING INDEX" { format!(" {}_k", &t[4..]) } else { String::new() };
                format!("ALTER TABLE {t} REPLICA IDENTITY {how}{index}")
            }
            _ => {
                let also = &all[r.below(all.len())].name;
                let also = if also == t { String::new() } else { format!(", {also}") };
                let how = r.pick(&["", " CASCADE", " RESTART IDENTITY CASCADE"]);
                format!("TRUNCATE {t}{also}{how}")
            }
        }
    }

    fn set(&self, r: &mut Random) -> String {
        let mut set = Vec::new();
        for column in ["a", "b", "u", "w", "big", "p"] {
            if r.one_in(3) {
                let value = match column {
                    "a" => word(r),
                    "u" => small(r),
                    "big" => big(r),
                    "p" => self.referred(r),
                    _ => r.below(6).to_string(),
                };
                set.push(format!("{column} = {value}"));
            }
        }
        if set.is_empty() { "b = b".into() } else { set.join(", ") }
    }

    fn referred(&self, r: &mut Random) -> String {
        match self.parent {
            Some(of) if r.one_in(2) => key(r, of),
            _ => "NULL".into(),
        }
    }
}

/// Few, so that they meet.
fn key(r: &mut Random, of: &str) -> String {
    match of {
        "int" | "bigint" => r.below(5).to_string(),
        "numeric" => r.pick(&["1", "1.0", "1.00", "2", "-0.5", "0", "0.0"]).into(),
        _ => format!("'{}'", r.pick(&["a", "A", "b", "B", "", "é", "É", "a b"])),
    }
}

/// A key that no row has.
fn free(of: &str) -> &'static str {
    if of.starts_with("text") { "'free'" } else { "99" }
}

fn word(r: &mut Random) -> String {
    r.pick(&["NULL", "''", "'x'", "'X'", "'y'", "'it''s \\'"]).into()
}

fn small(r: &mut Random) -> String {
    if r.one_in(3) { "NULL".into() } else { r.below(8).to_string() }
}

fn big(r: &mut Random) -> String {
    match r.below(4) {
        0 => "NULL".into(),
        1 => "'short'".into(),
        n => format!("repeat('{}', {})", r.pick(&["m", "n"]), 3000 + n),
    }
}

/// A few tables, what sessions did to them, and how to sum them up.
struct History {
    n: usize,
    tables: Vec<Table>,
    sum: String,
    done: Mutex<Vec<String>>,
}

impl History {
    fn new(r: &mut Random, n: usize) -> Self {
        let mut tables = Vec::new();
        for i in 0..2 + r.below(3) {
            let table = Table::new(r, n, i, &tables);
            tables.push(table);
        }
        let sums: Vec<String> = tables
            .iter()
            .map(|t| {
                format!(
                    "(SELECT count(*) || ':' || coalesce(sum(hashtextextended(t::text, 0)), 0) \
                     FROM {} t)",
                    t.name
                )
            })
            .collect();
        let sum = format!("concat_ws(' ', {})", sums.join(", "));
        Self { n, tables, sum, done: Mutex::default() }
    }

    fn said(&self, text: String) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn story(&self) -> String {
        let ddl: Vec<&str> = self.tables.iter().map(|t| t.ddl.as_str()).collect();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{}\n{}", ddl.join(""), done.join("\n"))
    }

    /// One session's transactions. Steps that blue refuses are taken back alone; of two sessions
    /// that wait for each other one loses its transaction.
    async fn session(&self, client: &Client, mut r: Random) {
        for _ in 0..TRANSACTIONS {
            client.batch_execute("BEGIN").await.unwrap();
            let mut done = Vec::new();
            let mut lost = false;
            for _ in 0..1 + r.below(7) {
                let step = self.tables[r.below(self.tables.len())].step(&mut r, &self.tables);
                let text = format!("SAVEPOINT s; {step}; RELEASE s");
                match client.batch_execute(&text).await {
                    Ok(()) => done.push(step),
                    Err(e) => {
                        let code = e.code().map_or("", |c| c.code());
                        let refused =
                            ["0A", "23", "40", "42704", "55"].iter().any(|c| code.starts_with(c));
                        assert!(refused, "{code} {e:?}: {step}");
                        client.batch_execute("ROLLBACK TO s").await.unwrap();
                    }
                }
            }
            let end = format!(
                "SELECT pg_advisory_xact_lock({0});
                 INSERT INTO app.sums SELECT {0}, 1 + (SELECT count(*) FROM app.sums WHERE h = {0}), {1}",
                self.n, self.sum
            );
            if client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await.is_err()
                || client.batch_execute(&end).await.is_err()
                || r.one_in(8)
            {
                lost = true;
            }
            client.batch_execute(if lost { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
            if !lost {
                self.said(format!("BEGIN; {}; COMMIT", done.join("; ")));
            }
        }
    }

    /// The last sum that is written down, and the sum as it is.
    async fn sums(&self, client: &Client) -> (Option<String>, String) {
        let text = format!(
            "SELECT (SELECT s FROM app.sums WHERE h = {} ORDER BY n DESC LIMIT 1), {}",
            self.n, self.sum
        );
        let row = client.query_one(&text, &[]).await.unwrap();
        (row.get(0), row.get(1))
    }
}

/// The histories whose rows are among the events.
fn touched(events: &[Event]) -> BTreeSet<usize> {
    let of = |name: &str| name.strip_prefix('h')?.split('_').next()?.parse::<usize>().ok();
    let mut all = BTreeSet::new();
    for event in events {
        match event {
            Event::Row { relation, .. } => all.extend(of(&relation.name.name)),
            Event::Truncate { relations, .. } => {
                all.extend(relations.iter().filter_map(|r| of(&r.name.name)));
            }
            _ => {}
        }
    }
    all
}

/// Applies events cut anywhere, also inside of transactions, and looks at green after each piece.
async fn apply(
    pair: &Pair,
    writer: &mut dyn SinkWriter,
    events: &[Event],
    histories: &[History],
    r: &mut Random,
) {
    let is_edge = |e: &&Event| matches!(e, Event::Begin { .. } | Event::Commit { .. });
    let mut waiting = BTreeSet::new();
    let mut from = 0;
    while from < events.len() {
        let most = r.pick(&[8, 150, 600]);
        let to = (from + 1 + r.below(most)).min(events.len());
        let piece = &events[from..to];
        from = to;
        if let Err(e) = writer.apply(piece).await {
            let stories: Vec<String> =
                touched(piece).iter().map(|h| histories[*h].story()).collect();
            panic!("{}: {e}\n{}", pair.versions(), stories.join("\n\n"));
        }
        waiting.append(&mut touched(piece));
        // Behind a TRUNCATE that is not committed a reader would wait.
        let open = events[..to].iter().rev().find(|e| is_edge(e));
        if matches!(open, Some(Event::Begin { .. })) {
            continue;
        }
        for h in std::mem::take(&mut waiting) {
            let (told, is) = histories[h].sums(&pair.green.client).await;
            let empty = is.split(' ').all(|s| s == "0:0");
            assert!(
                told.as_ref() == Some(&is) || told.is_none() && empty,
                "{}, history {h}: green holds {is}, blue held {told:?}\n{}",
                pair.versions(),
                histories[h].story()
            );
        }
    }
}

async fn histories(blue: u32, green: u32) {
    let seed = seed();
    let count = std::env::var(HISTORIES).map_or(40, |n| n.parse().expect("a number"));
    for (blue, green) in pairs(&[(blue, green)]).await {
        let pair = Pair::with((blue, ""), (green, "")).await;
        let mut random = Random::new(seed);
        let r = &mut random;
        let all: Vec<History> = (0..count).map(|n| History::new(r, n)).collect();
        let ddl: String = all.iter().flat_map(|h| &h.tables).map(|t| t.ddl.as_str()).collect();
        pair.both(
            "CREATE COLLATION app.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE TABLE app.sums (h int, n bigint, s text, PRIMARY KEY (h, n))",
        )
        .await;
        pair.blue.sql(&ddl.replace(UNNAMED, "REPLICA IDENTITY FULL")).await;
        pair.green.sql(&ddl).await;
        let mut clients = Vec::new();
        for _ in 0..AT_ONCE * SESSIONS {
            let client = pair.blue.connect().await;
            client.batch_execute(PINNED).await.unwrap();
            client.batch_execute("SET deadlock_timeout = '5ms'").await.unwrap();
            clients.push(client);
        }
        let (snapshot, mut pump) = pair.follow().await;
        drop(snapshot);
        let unnamed: Vec<&str> = ddl.split(";\n").filter(|s| s.contains(UNNAMED)).collect();
        pair.blue.sql(&unnamed.join(";\n")).await;
        let mut writer = pair.writer().await;
        for wave in all.chunks(AT_ONCE) {
            let sessions = wave.iter().flat_map(|h| std::iter::repeat_n(h, SESSIONS));
            join_all(sessions.zip(&clients).map(|(h, client)| {
                let mine = Random::new(r.next());
                h.session(client, mine)
            }))
            .await;
            let events = pair.changes(&mut pump).await;
            assert!(!events.is_empty());
            apply(&pair, &mut *writer, &events, &all, r).await;
        }
        for history in &all {
            let (told, is) = history.sums(&pair.blue.client).await;
            assert_eq!(history.sums(&pair.green.client).await, (told, is), "{}", history.story());
        }
        for table in pair.blue.tables().await.iter().filter(|t| t.name.name.ends_with('0')) {
            pair.assert_equal(table, "at the end").await;
        }
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_is_at_any_commit_what_blue_was_from_14_to_18() {
    histories(14, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_is_at_any_commit_what_blue_was_from_18_to_14() {
    histories(18, 14).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_is_at_any_commit_what_blue_was_between_equal_versions() {
    histories(17, 17).await;
}
