//! Texts that are sorted and compared by other rules on the other side.

use cutover_core::{
    model::{
        digest::RowKey,
        schema::{RowIdentity, Table},
    },
    port::{copy::CopyFormat, copy::Range, reader::RowReader, source::Source},
};

use crate::{
    journey::{apply, repair},
    random::{Random, seed},
    world::{Pair, pairs},
};

/// Upper and lower case are equal.
const CI: &str = "CREATE COLLATION app.ci (provider = icu, locale = 'und-u-ks-level2', \
                  deterministic = false)";

/// What happens to keys that differ by case only, each in one transaction.
const CASES: &[&str] = &[
    "UPDATE app.k SET k = upper(k) WHERE n = 1",
    "DELETE FROM app.k WHERE k = 'b'; INSERT INTO app.k VALUES ('B', 20)",
    "DELETE FROM app.k WHERE k = 'c'; INSERT INTO app.k VALUES ('C', 30); \
     DELETE FROM app.k WHERE k = 'c'; INSERT INTO app.k VALUES ('c', 31)",
    "UPDATE app.k SET n = 40 WHERE k = 'D'; DELETE FROM app.k WHERE k = 'd'; \
     INSERT INTO app.k VALUES ('D', 41); UPDATE app.k SET n = 42 WHERE k = 'd'",
    "UPDATE app.k SET k = 'free' WHERE k = 'e'; UPDATE app.k SET k = 'E' WHERE k = 'f'; \
     UPDATE app.k SET k = 'F' WHERE k = 'FREE'",
    "UPDATE app.k SET k = upper(k), n = n + 1 WHERE k > 'm'",
    "INSERT INTO app.k SELECT 'Many' || g, g FROM generate_series(1, 100) g",
    "UPDATE app.k SET k = lower(k) WHERE n % 5 = 0; DELETE FROM app.k WHERE n % 7 = 0",
];

async fn table(pair: &Pair, name: &str) -> Table {
    pair.blue.tables().await.into_iter().find(|t| t.name.name == name).unwrap()
}

async fn buckets_agree(pair: &Pair, table: &Table) {
    let whole = Range { condition: String::new(), bytes: 0 };
    let mut found = Vec::new();
    for half in [&pair.blue, &pair.green] {
        found.push(half.reader.bucket_digests(table, &whole, 8).await.unwrap());
    }
    assert!(found[0] == found[1], "buckets of {}", table.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_a_collation_calls_equal_keep_their_bytes() {
    let mut r = Random::new(seed());
    // On both sides, and where only blue thinks so.
    for (blue, green) in pairs(&[(14, 18)]).await {
        for there in ["app.ci", "\"C\""] {
            let pair = Pair::with((blue, ""), (green, "")).await;
            pair.both(CI).await;
            pair.blue.sql("CREATE TABLE app.k (k text COLLATE app.ci PRIMARY KEY, n int)").await;
            pair.green
                .sql(&format!("CREATE TABLE app.k (k text COLLATE {there} PRIMARY KEY, n int)"))
                .await;
            pair.blue
                .sql("INSERT INTO app.k SELECT chr(96 + g), g FROM generate_series(1, 26) g")
                .await;
            let (snapshot, mut pump) = pair.follow().await;
            let table = table(&pair, "k").await;
            pair.copy(&*snapshot, &table, CopyFormat::PostgresBinary).await.unwrap();
            drop(snapshot);
            for case in CASES {
                pair.blue.sql(&format!("BEGIN; {case}; COMMIT")).await;
            }
            let events = pair.changes(&mut pump).await;
            let mut writer = pair.writer().await;
            apply(&mut *writer, &events, &mut r, there).await;
            pair.assert_equal(&table, there).await;
            buckets_agree(&pair, &table).await;
            // Both spellings were written: a reader finds the same row by either.
            let keys = |names: &[&str]| -> Vec<RowKey> {
                names.iter().map(|k| RowKey(vec![(*k).to_owned()])).collect()
            };
            let named = keys(&["a", "A", "b", "B", "c", "C"]);
            let rows = pair.blue.reader.key_digests(&table, &named).await.unwrap();
            assert_eq!(rows.len(), 6, "three rows, each by two names");
            let here = pair.green.reader.key_digests(&table, &keys(&["A"])).await.unwrap();
            assert!(rows.contains(&here[0]));
            // The other spelling on green is a difference, and is repaired: by either spelling
            // where green calls them equal, else by both.
            pair.green
                .sql(
                    "SET session_replication_role = replica; UPDATE app.k SET k = 'a' WHERE k = 'A';
                     SET session_replication_role = origin",
                )
                .await;
            let whole = Range { condition: String::new(), bytes: 0 };
            let blue = pair.blue.reader.bucket_digests(&table, &whole, 1).await.unwrap();
            let green = pair.green.reader.bucket_digests(&table, &whole, 1).await.unwrap();
            assert!(blue != green);
            let snapshot = pair.blue.db.snapshot().await.unwrap();
            for names in [keys(&["a", "A"]), keys(&["A"])] {
                let range = snapshot.keys_range(&table, &names).await.unwrap();
                let format = CopyFormat::PostgresText;
                let rows = snapshot.read(&table, &range, format).await.unwrap().rows().unwrap();
                let written = writer.replace(&table, Some(&names), format, rows).await;
                assert_eq!(written.unwrap_or_else(|e| panic!("{there}: {e}")), 1);
                pair.assert_equal(&table, "repaired").await;
            }
            repair(&pair, &*snapshot, &table, &mut *writer).await;
            buckets_agree(&pair, &table).await;
            Source::release(&pair.blue.db, &pair.run).await.unwrap();
        }
    }
}

/// Two rows of blue are one to green's unique index: told, and nothing written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_equal_on_green_only_stop_by_name() {
    for (blue, green) in pairs(&[(14, 18)]).await {
        let pair = Pair::with((blue, ""), (green, "")).await;
        pair.both(CI).await;
        pair.blue
            .sql("CREATE TABLE app.k (k text PRIMARY KEY); CREATE TABLE app.u (id int PRIMARY KEY, u text UNIQUE)")
            .await;
        pair.green
            .sql(
                "CREATE TABLE app.k (k text COLLATE app.ci PRIMARY KEY);
                 CREATE TABLE app.u (id int PRIMARY KEY, u text COLLATE app.ci UNIQUE)",
            )
            .await;
        let (snapshot, mut pump) = pair.follow().await;
        drop(snapshot);
        for change in
            ["INSERT INTO app.k VALUES ('a'), ('A')", "INSERT INTO app.u VALUES (1, 'a'), (2, 'A')"]
        {
            pair.blue.sql(change).await;
            let events = pair.changes(&mut pump).await;
            let error = pair.writer().await.apply(&events).await.unwrap_err();
            assert_eq!(error.code(), Some("CUT0402"), "{change}: {error}");
            assert!(error.to_string().contains("_key") || error.to_string().contains("_pkey"));
            let Some(cutover_core::model::event::Event::Commit { position }) = events.last() else {
                panic!("no commit")
            };
            pair.writer().await.store(position).await.unwrap();
        }
        let snapshot = pair.blue.db.snapshot().await.unwrap();
        for table in pair.blue.tables().await {
            let error = pair.copy(&*snapshot, &table, CopyFormat::PostgresText).await.unwrap_err();
            assert_eq!(error.code(), Some("CUT0402"), "{error}");
            assert!(pair.green.rows(&table.name).await.is_empty());
        }
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}

/// Nothing of ours goes by the order of texts; what PostgreSQL itself puts where by it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_sort_by_other_rules() {
    let mut r = Random::new(seed());
    let icu =
        "LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE' LOCALE 'C' ENCODING 'UTF8' TEMPLATE template0";
    for (blue, green) in pairs(&[(14, 17), (17, 14), (15, 18)]).await {
        let of = |server: &cutover_sandbox::Postgres, other: &cutover_sandbox::Postgres| {
            if server.major() > other.major() { icu } else { "" }
        };
        let pair = Pair::with((blue, of(blue, green)), (green, of(green, blue))).await;
        pair.both(
            "CREATE TABLE app.k (k text, l varchar, n int, PRIMARY KEY (k, l));
             CREATE TABLE app.f (k text, n int); ALTER TABLE app.f REPLICA IDENTITY FULL;
             CREATE TABLE app.u (id int PRIMARY KEY, u text UNIQUE);
             CREATE TABLE app.p (k text, n int, PRIMARY KEY (k)) PARTITION BY RANGE (k);
             CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (MINVALUE) TO ('a');
             CREATE TABLE app.p2 PARTITION OF app.p FOR VALUES FROM ('a') TO (MAXVALUE)",
        )
        .await;
        let words = "ARRAY['z','Z','ä','å','ö','Ö','o','a','A','aa','AA','-a','','é','e','1','ø']";
        let fill = format!(
            "INSERT INTO app.k SELECT w, v, row_number() OVER () FROM unnest({words}) w, unnest({words}) v;
             INSERT INTO app.f SELECT w, 1 FROM unnest({words}) w, generate_series(1, 2);
             INSERT INTO app.u SELECT row_number() OVER (), w FROM unnest({words}) w"
        );
        pair.blue.sql(&fill).await;
        let (snapshot, mut pump) = pair.follow().await;
        for table in pair.blue.tables().await {
            pair.copy(&*snapshot, &table, CopyFormat::PostgresBinary).await.unwrap();
        }
        drop(snapshot);
        let mut writer = pair.writer().await;
        for change in [
            "UPDATE app.k SET n = -n WHERE k > 'm'",
            "UPDATE app.k SET k = k || 'öö' WHERE l < 'o'",
            "DELETE FROM app.k WHERE k >= 'z'",
            "UPDATE app.f SET k = upper(k) WHERE ctid IN (SELECT min(ctid) FROM app.f GROUP BY k)",
            "DELETE FROM app.f WHERE k BETWEEN 'A' AND 'a'",
            "UPDATE app.u SET u = u || 'x' WHERE u > 'a'",
        ] {
            pair.blue.sql(change).await;
            let events = pair.changes(&mut pump).await;
            apply(&mut *writer, &events, &mut r, change).await;
        }
        let snapshot = pair.blue.db.snapshot().await.unwrap();
        for table in pair.blue.tables().await {
            pair.assert_equal(&table, "sorted otherwise").await;
            buckets_agree(&pair, &table).await;
            if matches!(table.identity, RowIdentity::Key(_)) {
                repair(&pair, &*snapshot, &table, &mut *writer).await;
            }
        }
        // 'B' stands before 'a' by bytes and behind it elsewhere: another partition.
        pair.blue.sql("INSERT INTO app.p VALUES ('B', 1)").await;
        let events = pair.changes(&mut pump).await;
        let error = writer.apply(&events).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0407"), "{error}");
        assert!(error.to_string().contains("23514"), "{error}");
        drop(writer);
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}
