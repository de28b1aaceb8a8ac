//! Tables in ranges of their keys.

use cutover_core::port::{
    copy::{CopyChunk, CopyFormat, Keyed},
    source::Source,
};

use crate::home::{Home, servers};

/// In the order of its key and never analysed; with a key all over the table; and what cannot be cut.
const DDL: &str = "
CREATE TABLE ordered (\"the Id\" bigint PRIMARY KEY, v text, w int DEFAULT 0);
CREATE TABLE mixed (id int PRIMARY KEY, v text);
CREATE TABLE small (id smallint PRIMARY KEY);
CREATE TABLE whole (id int PRIMARY KEY, v text); ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE again (id int PRIMARY KEY, v int UNIQUE);
CREATE TABLE apart (id int PRIMARY KEY, p int4range, EXCLUDE USING gist (p WITH &&));
CREATE TABLE other (id int PRIMARY KEY, v int NOT NULL);
CREATE UNIQUE INDEX other_v ON other (v); ALTER TABLE other REPLICA IDENTITY USING INDEX other_v;
CREATE TABLE named (id text PRIMARY KEY);
CREATE TABLE two (a int, b int, c int, PRIMARY KEY (a, b), UNIQUE (c, a));
CREATE TABLE included (id int PRIMARY KEY, v int); CREATE UNIQUE INDEX ON included (v) INCLUDE (id);
CREATE TABLE behind (a text, b int, PRIMARY KEY (a, b));
CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
CREATE TABLE computed (v int, id int GENERATED ALWAYS AS (v) STORED PRIMARY KEY);
CREATE TABLE keyless (id int);
CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts DEFAULT;
INSERT INTO ordered SELECT i * 3, repeat('v', 200) FROM generate_series(1, 30000) i;
INSERT INTO mixed SELECT (i::bigint * 7919) % 30011, repeat('v', 200) FROM generate_series(1, 30000) i";
const CAN: [&str; 6] = ["ordered", "mixed", "small", "whole", "two", "parts_1"];
/// Whose ranges have something in common.
const TORN: [&str; 3] = ["again", "apart", "included"];
const CANNOT: [&str; 6] = ["other", "named", "behind", "late", "computed", "keyless"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_a_key_hold_every_row_once_and_are_read_by_its_index() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let table = home.table("ordered").await;
        let snapshot = home.db.snapshot().await.unwrap();
        // Nobody sees what comes later.
        let late = "UPDATE ordered SET \"the Id\" = -\"the Id\" WHERE \"the Id\" % 9 = 0;
            INSERT INTO ordered SELECT i FROM generate_series(1000000, 1000100) i";
        home.root.batch_execute(late).await.unwrap();
        let ranges = snapshot.by_key(&table, "the Id", 1 << 20).await.unwrap().expect("ordered");
        assert!((5..10).contains(&ranges.count()), "{ranges:?}");
        let mut rows = 0;
        for number in 0..ranges.count() {
            let range = snapshot.key_range(&ranges, number).expect("a range");
            let mut stream = snapshot
                .read(&table, &range, CopyFormat::PostgresText)
                .await
                .unwrap()
                .rows()
                .unwrap();
            let (low, high) = ranges.limits(number);
            let mut text = Vec::new();
            while let Some(chunk) = stream.next().await.unwrap() {
                let CopyChunk::Raw(chunk) = chunk else { panic!("raw was asked for") };
                text.extend_from_slice(&chunk);
            }
            for line in String::from_utf8(text).unwrap().lines() {
                let key: i64 = line.split('\t').next().unwrap().parse().unwrap();
                assert!(key > 0 && key % 3 == 0, "not of the snapshot");
                assert!(low.is_none_or(|low| low <= key) && high.is_none_or(|high| key < high));
                rows += 1;
            }
        }
        assert_eq!(rows, 30_000);
        // A range in the middle is its share of the pages, and not much more.
        let range = snapshot.key_range(&ranges, 2).expect("a range").condition;
        let explain = format!(
            "SET enable_seqscan = off; EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) \
             SELECT * FROM ONLY ordered WHERE {range}"
        );
        let said = home.root.simple_query(&explain).await.unwrap();
        let plan: String = said
            .iter()
            .filter_map(|m| match m {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            })
            .collect();
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let of = |name: &str| plan[0]["Plan"][name].as_f64().unwrap();
        let looked_at = of("Shared Hit Blocks") + of("Shared Read Blocks");
        let pages = "SELECT pg_relation_size('ordered')::float8 / 8192";
        let pages: f64 = home.root.query_one(pages, &[]).await.unwrap().get(0);
        let share = pages / ranges.count() as f64;
        assert!(looked_at < 2.0 * share, "{looked_at} of {pages}, in {} parts", ranges.count());
        // Each of its ranges would be the whole table.
        let mixed = home.table("mixed").await;
        assert_eq!(snapshot.by_key(&mixed, "id", 1 << 20).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_tables_that_nothing_but_a_plain_key_tells_apart() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let all = home.tables().await;
        let keyed = async || -> Vec<Option<Keyed>> {
            let names = CAN.iter().chain(&TORN).chain(&CANNOT);
            let tables: Vec<_> =
                names.map(|n| all.iter().find(|t| t.name.name == *n).expect("a table")).collect();
            home.db.snapshot().await.unwrap().keyed(&tables).await.unwrap()
        };
        let first = keyed().await;
        for (found, name) in first.iter().zip(CAN.iter().chain(&TORN).chain(&CANNOT)) {
            let alone = found.as_ref().map(|keyed| keyed.alone);
            let want = (!CANNOT.contains(name)).then(|| CAN.contains(name));
            assert_eq!(alone, want, "{name}");
        }
        assert_eq!(first[0].as_ref().expect("a key").column, "the Id");
        for work in ["ANALYZE", "VACUUM FREEZE", "VACUUM FULL ordered", "UPDATE ordered SET w = 1"]
        {
            home.root.batch_execute(work).await.unwrap();
        }
        assert_eq!(keyed().await, first, "the same definitions");
        let alter = "ALTER TABLE ordered ALTER COLUMN w TYPE int USING w + 1";
        home.root.batch_execute(alter).await.unwrap();
        let second = keyed().await;
        assert!(second[0].is_some() && second[0] != first[0]);
        assert_eq!(second[1..], first[1..]);
        let alter =
            "DROP INDEX included_v_id_idx; CREATE UNIQUE INDEX ON included (v) INCLUDE (id);
                     ALTER TABLE parts DETACH PARTITION parts_1";
        home.root.batch_execute(alter).await.unwrap();
        let third = keyed().await;
        for (at, name) in CAN.iter().chain(&TORN).enumerate() {
            assert_eq!(third[at] != second[at], ["included", "parts_1"].contains(name), "{name}");
        }
    }
}
