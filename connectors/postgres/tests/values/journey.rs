//! Every type through the copy and through the stream: what blue renders, green renders.

use std::collections::HashMap;

use cutover_core::{
    model::{
        digest::RowKey,
        event::{Change, Event},
        schema::{RowIdentity, Table},
        value::Value,
    },
    port::{
        copy::{CopyFormat, Opened, Snapshot},
        reader::RowReader,
        sink::{Sink, SinkWriter},
        source::Source,
    },
};

use crate::{
    kinds::{DEFINED, Kind, kinds},
    random::{Random, cases, seed},
    world::{Pair, pairs},
};

/// The tables of one type: with a key beside it, without any, and as the key.
struct Tables<'a> {
    n: usize,
    kind: &'a Kind,
    key: bool,
}

impl Tables<'_> {
    fn ddl(&self) -> String {
        let (n, t) = (self.n, &self.kind.name);
        // What lies outside of the row is not sent again while it stays as it is.
        format!(
            "CREATE TABLE app.k{n} (id int PRIMARY KEY, v {t}, a {t}[], pad text);
             ALTER TABLE app.k{n} ALTER pad SET STORAGE EXTERNAL;
             CREATE TABLE app.f{n} (v {t}, a {t}[], n int, pad text);
             ALTER TABLE app.f{n} REPLICA IDENTITY FULL;
             ALTER TABLE app.f{n} ALTER pad SET STORAGE EXTERNAL;"
        )
    }

    fn key_ddl(&self) -> String {
        format!("CREATE TABLE app.p{0} (v {1} PRIMARY KEY, n int)", self.n, self.kind.name)
    }

    fn names(&self) -> Vec<String> {
        let prefixes = if self.key { &["k", "f", "p"][..] } else { &["k", "f"] };
        prefixes.iter().map(|p| format!("{p}{}", self.n)).collect()
    }
}

fn value(kind: &Kind, r: &mut Random, pair: &Pair) -> String {
    if r.one_in(8) { "NULL".into() } else { kind.value(r, &pair.able) }
}

fn pad(r: &mut Random) -> String {
    match r.below(3) {
        0 => "NULL".into(),
        1 => "'short'".into(),
        _ => format!("repeat('{}', 3000)", r.pick(&["a", "B", "0", "_"])),
    }
}

/// Rows with ids from `first` on.
fn inserts(t: &Tables<'_>, r: &mut Random, pair: &Pair, first: usize, rows: usize) -> Vec<String> {
    let n = t.n;
    let mut all = Vec::new();
    let (mut keyed, mut full) = (Vec::new(), Vec::new());
    for id in first..first + rows {
        let mut row = || {
            let v = value(t.kind, r, pair);
            (v, t.kind.array(r, &pair.able), pad(r))
        };
        let (v, a, p) = row();
        keyed.push(format!("({id}, {v}, {a}, {p})"));
        let (v, a, p) = row();
        let twice = format!("({v}, {a}, {id}, {p})");
        full.push(twice.clone());
        full.push(twice);
    }
    all.push(format!("INSERT INTO app.k{n} VALUES {}", keyed.join(", ")));
    all.push(format!("INSERT INTO app.f{n} VALUES {}", full.join(", ")));
    if t.key {
        for id in first..first + rows {
            let v = t.kind.value(r, &pair.able);
            // An index takes no large values.
            all.push(format!(
                "INSERT INTO app.p{n} SELECT v, {id} FROM (SELECT {v} AS v) AS one
                  WHERE pg_column_size(v) < 2000 ON CONFLICT DO NOTHING"
            ));
        }
    }
    all
}

/// Changes that a batch can hold as a set.
fn updates(t: &Tables<'_>, r: &mut Random, pair: &Pair) -> Vec<String> {
    let n = t.n;
    let mut all = Vec::new();
    for rest in 0..4 {
        let mut v = || value(t.kind, r, pair);
        let (one, two) = (v(), v());
        let (a, p) = (t.kind.array(r, &pair.able), pad(r));
        let keyed = match rest {
            0 => format!("v = {one}"),
            1 => format!("a = {a}, v = {one}"),
            2 => format!("pad = {p}"),
            _ => format!("v = {one}, a = {a}, pad = {p}"),
        };
        all.push(format!("UPDATE app.k{n} SET {keyed} WHERE id % 4 = {rest}"));
        // One of two equal rows.
        all.push(format!(
            "UPDATE app.f{n} SET v = {two}, n = n + 1000 WHERE ctid IN
               (SELECT min(ctid) FROM app.f{n} WHERE n % 4 = {rest} GROUP BY n)"
        ));
    }
    all.push(format!("DELETE FROM app.k{n} WHERE id % 5 = 1"));
    all.push(format!(
        "DELETE FROM app.f{n} WHERE ctid IN (SELECT min(ctid) FROM app.f{n} WHERE n % 5 = 1 GROUP BY n)"
    ));
    if t.key {
        all.push(format!("UPDATE app.p{n} SET n = n + 1000"));
        all.push(format!("DELETE FROM app.p{n} WHERE n % 5 = 1"));
    }
    all
}

/// Changes of keys, which take the ordered path, together with others.
fn moves(t: &Tables<'_>, r: &mut Random, pair: &Pair) -> Vec<String> {
    let n = t.n;
    let v = value(t.kind, r, pair);
    let mut all = vec![
        format!("UPDATE app.k{n} SET id = id + 100000 WHERE id % 2 = 0"),
        format!("UPDATE app.k{n} SET v = {v} WHERE id % 3 = 0"),
        format!("DELETE FROM app.k{n} WHERE id % 7 = 2"),
    ];
    if t.key {
        let v = t.kind.value(r, &pair.able);
        // Unless another row has that key.
        all.push(format!(
            "DO $do$ BEGIN
               UPDATE app.p{n} SET v = {v}, n = -1
                WHERE n = (SELECT min(n) FROM app.p{n}) AND pg_column_size({v}) < 2000;
             EXCEPTION WHEN unique_violation THEN NULL; END $do$"
        ));
        all.push(format!("UPDATE app.p{n} SET n = n + 7"));
        all.push(format!("DELETE FROM app.p{n} WHERE n % 3 = 0"));
    }
    all
}

/// The engine's rule for the binary form (`copy::format`).
fn portable(table: &Table) -> bool {
    let text_only = ["reg", "aclitem", "int2vector", "oidvector", "tsquery"];
    table.carried().all(|c| {
        !c.base_type.contains('.') && !text_only.iter().any(|t| c.base_type.starts_with(t))
    })
}

/// Applies events in batches of any number of transactions.
pub(crate) async fn apply(
    writer: &mut dyn SinkWriter,
    events: &[Event],
    r: &mut Random,
    when: &str,
) {
    let mut from = 0;
    for (i, event) in events.iter().enumerate() {
        if matches!(event, Event::Commit { .. }) && (r.one_in(4) || i + 1 == events.len()) {
            writer.apply(&events[from..=i]).await.unwrap_or_else(|e| panic!("{when}: {e}"));
            from = i + 1;
        }
    }
}

/// Keys as the stream names them, per table.
pub(crate) fn keys(events: &[Event]) -> HashMap<String, Vec<RowKey>> {
    let mut all: HashMap<String, Vec<RowKey>> = HashMap::new();
    for event in events {
        let Event::Row { relation, change: Change::Insert { new } } = event else { continue };
        if relation.full_identity {
            continue;
        }
        let key = relation.columns.iter().zip(new.values()).filter(|(c, _)| c.key);
        let texts = key.map(|(_, value)| match value {
            Value::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
            other => panic!("a key is {other:?}"),
        });
        all.entry(relation.name.name.clone()).or_default().push(RowKey(texts.collect()));
    }
    all
}

/// Rows that differ are found by their keys and written again.
pub(crate) async fn repair(
    pair: &Pair,
    snapshot: &dyn Snapshot,
    table: &Table,
    writer: &mut dyn SinkWriter,
) {
    let name = cutover_postgres::sql::table(&table.name);
    let all = pair.blue.reader.bucket_rows(table, 1, &[0]).await.unwrap();
    let keys: Vec<RowKey> = all.into_iter().map(|row| row.key).collect();
    if keys.is_empty() {
        return;
    }
    pair.green
        .sql(&format!(
            "SET session_replication_role = replica;
             DELETE FROM {name} WHERE ctid IN (SELECT ctid FROM {name} LIMIT {});
             SET session_replication_role = origin",
            keys.len().div_ceil(2)
        ))
        .await;
    let range = snapshot.keys_range(table, &keys).await.unwrap();
    let opened = snapshot.read(table, &range, CopyFormat::PostgresText).await;
    let rows = opened
        .and_then(Opened::rows)
        .unwrap_or_else(|e| panic!("repair, {}, {name}: {e}", pair.versions()));
    let written = writer
        .replace(table, Some(&keys), CopyFormat::PostgresText, rows)
        .await
        .unwrap_or_else(|e| panic!("repair, {}, {name}: {e}", pair.versions()));
    assert_eq!(written as usize, keys.len(), "repair, {}, {name}", pair.versions());
    pair.assert_equal(table, "after a repair").await;
}

async fn journey(pair: &Pair, seed: u64, rows: usize, wanted: fn(&Kind) -> bool) {
    let mut random = Random::new(seed);
    let r = &mut random;
    pair.both(DEFINED).await;
    pair.both("CREATE SEQUENCE \"my.Types\".mood_seq").await;
    let kinds: Vec<Kind> = kinds(&pair.able).into_iter().filter(wanted).collect();
    let mut all: Vec<Tables<'_>> = Vec::new();
    for (n, kind) in kinds.iter().enumerate() {
        let mut t = Tables { n, kind, key: false };
        pair.both(&t.ddl()).await;
        t.key = pair.blue.client.batch_execute(&t.key_ddl()).await.is_ok();
        if t.key {
            pair.green.sql(&t.key_ddl()).await;
        }
        for statement in inserts(&t, r, pair, 0, rows) {
            pair.blue.sql(&statement).await;
        }
        all.push(t);
    }
    let keyed = all.iter().filter(|t| t.key).count();
    assert!(2 * keyed > all.len(), "{keyed} of {} types can be a key", all.len());

    // Copy.
    let (snapshot, mut pump) = pair.follow().await;
    let tables: HashMap<String, Table> =
        pair.blue.tables().await.into_iter().map(|t| (t.name.name.clone(), t)).collect();
    for table in tables.values() {
        let binary = portable(table).then_some(CopyFormat::PostgresBinary);
        for format in binary.into_iter().chain([CopyFormat::PostgresText]) {
            pair.green.db.clear(&pair.run, table).await.unwrap();
            let when = format!("copied as {format:?}");
            pair.copy(&*snapshot, table, format)
                .await
                .unwrap_or_else(|e| panic!("{when}, {}: {e}", table.name));
            pair.assert_equal(table, &when).await;
        }
    }
    drop(snapshot);

    // Stream.
    let mut writer = pair.writer().await;
    let mut follow = async |statements: Vec<String>, when: &str, r: &mut Random| {
        for statement in &statements {
            pair.blue.sql(statement).await;
        }
        let events = pair.changes(&mut pump).await;
        apply(&mut *writer, &events, r, &format!("{when}, {}", pair.versions())).await;
        events
    };
    let mut named: HashMap<String, Vec<RowKey>> = HashMap::new();
    for t in &all {
        let mut statements = inserts(t, r, pair, rows, rows);
        // So many that they are copied in.
        statements.push(format!(
            "INSERT INTO app.k{0} SELECT g * 1000 + id, v, a, pad
               FROM app.k{0}, generate_series(1, {1}) g WHERE id < {rows}",
            t.n,
            70 / rows + 1
        ));
        let when = format!("{} inserted", t.kind.name);
        named.extend(keys(&follow(statements, &when, r).await));
        let when = format!("{} updated", t.kind.name);
        follow(updates(t, r, pair), &when, r).await;
        for name in t.names() {
            pair.assert_equal(&tables[&name], &when).await;
        }
        let when = format!("{} moved", t.kind.name);
        follow(moves(t, r, pair), &when, r).await;
        for name in t.names() {
            pair.assert_equal(&tables[&name], &when).await;
        }
    }

    // By key, as the stream names it and as the reader does.
    for (name, keys) in &named {
        let table = &tables[name];
        let mut found = Vec::new();
        for half in [&pair.blue, &pair.green] {
            let rows = half.reader.key_digests(table, keys).await;
            let rows = rows.unwrap_or_else(|e| panic!("by key, {name}: {e}"));
            for row in &rows {
                assert!(
                    keys.contains(&row.key),
                    "{name}: the reader names {:?} otherwise than the stream",
                    row.key.0
                );
            }
            let mut rows: Vec<_> = rows.into_iter().map(|row| (row.key, row.hash)).collect();
            rows.sort();
            found.push(rows);
        }
        assert!(found[0] == found[1], "by key, {name}");
        let left = pair.blue.rows(&table.name).await.len();
        assert!(
            found[0].len() <= left && (left == 0 || !found[0].is_empty() || name.starts_with('p'))
        );
    }
    let snapshot = pair.blue.db.snapshot().await.unwrap();
    for table in tables.values().filter(|t| matches!(t.identity, RowIdentity::Key(_))) {
        repair(pair, &*snapshot, table, &mut *writer).await;
    }
}

async fn journey_between(blue: u32, green: u32, wanted: fn(&Kind) -> bool) {
    let seed = seed();
    for (blue, green) in pairs(&[(blue, green)]).await {
        let pair = Pair::new(blue, green).await;
        journey(&pair, seed, cases(), wanted).await;
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_travels_from_14_to_17() {
    journey_between(14, 17, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_travels_from_15_to_18() {
    journey_between(15, 18, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_travels_between_equal_versions() {
    journey_between(18, 18, |_| true).await;
}

/// The way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_travels_from_18_to_14() {
    journey_between(18, 14, |_| true).await;
}

/// More of them are there for these two than for others, and their binary forms are their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_of_extensions_travel_from_17_to_18() {
    journey_between(17, 18, |kind| kind.name.starts_with("ext.")).await;
}

/// Else every other test here would say so in a less helpful way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_generator_makes_is_a_value_of_its_type() {
    let mut random = Random::new(seed());
    let r = &mut random;
    let mut wrong = Vec::new();
    for (one, other) in pairs(&[(14, 18), (17, 18)]).await {
        let pair = Pair::new(one, other).await;
        pair.both(DEFINED).await;
        pair.both("CREATE SEQUENCE \"my.Types\".mood_seq").await;
        for kind in kinds(&pair.able) {
            for _ in 0..15 {
                for text in [kind.value(r, &pair.able), kind.array(r, &pair.able)] {
                    for half in [&pair.blue, &pair.green] {
                        if let Err(e) = half.client.batch_execute(&format!("SELECT {text}")).await {
                            let said = e.as_db_error().map(|e| e.message().to_owned());
                            wrong.push(format!(
                                "{} on {}: {} from {}",
                                kind.name,
                                half.server.major(),
                                said.unwrap_or_default().chars().take(200).collect::<String>(),
                                text.chars().take(300).collect::<String>(),
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
}
