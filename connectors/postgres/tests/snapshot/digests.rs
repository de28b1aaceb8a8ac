//! Digests: equal rows have equal ones on every version, and one changed value shows.

use std::collections::{BTreeMap, HashSet};

use cutover_core::{
    model::{
        digest::{Digest, RowDigest},
        schema::Table,
    },
    port::{
        copy::Range,
        reader::{Lookup, RowReader},
        source::Source,
    },
};
use cutover_postgres::LiveReader;
use cutover_testkit::contract::reader as contract;

use crate::home::{Home, servers};

/// A value of every kind of type, and the ones whose text is known to depend on settings.
const TYPES: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN small AS int CHECK (VALUE < 10);
CREATE TABLE types (id int PRIMARY KEY, b bool, i2 int2, i8 int8, f4 real, f8 double precision,
  n numeric, m money, t text, c char(4), vc varchar(9), by bytea, d date, ti time, tz timetz,
  ts timestamp, tstz timestamptz, iv interval, u uuid, j json, jb jsonb, x xml, bt bit(3),
  vb varbit, ip inet, ci cidr, ma macaddr, pt point, ln line, pg polygon, tsv tsvector,
  tsq tsquery, e mood, p pair, dm small, ia int[], ta text[], r int4range, mr int4multirange,
  o oid, ch \"char\", nm name, lsn pg_lsn, jp jsonpath, el text);
INSERT INTO types VALUES
 (1, true, -7, 9223372036854775807, 1.1, 0.1, 1.500, '$1,234.56', E'tab\\tnew\\nline \"q\" \\\\', 'ab',
  'v', '\\x00ff', '2024-02-29', '23:59:59.123456', '01:02:03+02', '0099-01-01 BC',
  '2024-01-01 00:00:00+05', '1 year -2 days 3.5 sec', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
  '{\"b\" : 1,  \"a\":2}', '{\"b\": 1, \"a\": 1.10}', '<a>x</a>', '101', '10', '10.0.0.1/8',
  '10.0.0.0/8', '08:00:2b:01:02:03', '(1.5,-2)', '{1,2,3}', '((0,0),(1,1),(1,0))', 'a b:1A',
  'a & !b', 'ok', ROW(1, 'x,y'), 5, '{1,NULL,3}', '{a,\"b c\",NULL,\"\"}', '[1,5)',
  '{[1,3),[5,7)}', 4000000000, 'x', 'nn', '1/AB', '$.a[*]', NULL),
 (2, NULL, NULL, NULL, 'NaN', '-Infinity', 'NaN', NULL, '', '', NULL, '', 'infinity', '24:00',
  NULL, '-infinity', 'infinity', '0', NULL, 'null', 'null', NULL, NULL, '', NULL, NULL, NULL,
  NULL, NULL, NULL, '', NULL, 'sad', ROW(NULL, NULL), NULL, '{}', NULL, 'empty', '{}', 0, '',
  '', NULL, NULL, repeat('long', 5000)),
 (3, false, 0, 0, -0.0, 1e-300, 1e-20, '-$0.01', 'ä€😀', 'é', 'v  ', NULL, '4000-01-01 BC',
  '00:00', '00:00-15:59', 'epoch', '1900-01-01 00:00:00.5+00', '-1 mon', NULL, '[]', '[]', NULL,
  '000', NULL, '::1', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  '[0:1]={7,8}', NULL, '(,)', NULL, NULL, NULL, NULL, NULL, NULL, NULL)";

const SHAPES: &str = "
CREATE TABLE keyed (a int, \"B b\" text, v text, g int GENERATED ALWAYS AS (a + 1) STORED, PRIMARY KEY (\"B b\", a));
INSERT INTO keyed SELECT i, 'k\"' || i % 10, CASE WHEN i % 5 > 0 THEN repeat('v', i % 50) END
  FROM generate_series(1, 3000) i;
CREATE TABLE keyless (a int, b text);
INSERT INTO keyless SELECT i % 100, NULLIF('x' || i % 7, 'x3') FROM generate_series(1, 1000) i;
CREATE TABLE narrow (a int PRIMARY KEY); INSERT INTO narrow VALUES (1), (2);
CREATE TABLE k1 (k1 int, w text, t text, h int, PRIMARY KEY (t, k1)); INSERT INTO k1 VALUES (1, 'w', 't', 2)";

fn whole() -> Range {
    Range { condition: String::new(), bytes: 0 }
}

/// How often each key and hash is there.
type Rows = BTreeMap<(Vec<String>, i64), u32>;

async fn all_rows(reader: &dyn RowReader, table: &Table) -> Rows {
    let mut rows = BTreeMap::new();
    for RowDigest { key, hash } in reader.bucket_rows(table, 1, &[0]).await.unwrap() {
        *rows.entry((key.0, hash)).or_default() += 1;
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_row_has_the_same_digest_on_every_version() {
    let mut first: Option<(u32, Rows)> = None;
    for server in servers().await {
        let home = Home::new(server, TYPES).await;
        // Whatever the database says about rendering.
        home.root
            .batch_execute(&format!(
                "ALTER DATABASE {0} SET DateStyle = 'German'; ALTER DATABASE {0} SET TimeZone = \
                 'Asia/Kolkata'; ALTER DATABASE {0} SET extra_float_digits = -5; ALTER DATABASE {0} \
                 SET bytea_output = 'escape'; ALTER DATABASE {0} SET IntervalStyle = 'iso_8601'",
                home.name
            ))
            .await
            .unwrap();
        let rows = all_rows(&home.db.reader(), &home.table("types").await).await;
        assert_eq!(rows.len(), 3);
        match &first {
            None => first = Some((server.major(), rows)),
            Some((major, expected)) => {
                assert_eq!(&rows, expected, "{} and {major}", server.major());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_ranges_and_rows_add_up() {
    for server in servers().await {
        let home = Home::new(server, SHAPES).await;
        let snapshot = home.db.snapshot().await.unwrap();
        let live = home.db.reader();
        for name in ["keyed", "keyless", "narrow", "k1"] {
            let table = home.table(name).await;
            let rows = all_rows(&live, &table).await;
            let mut expected = Digest::default();
            for ((_, hash), times) in &rows {
                for _ in 0..*times {
                    expected.add(Digest { rows: 1, sum: i128::from(*hash) });
                }
            }
            for buckets in [1, 2, 64, 4096] {
                let mut total = Digest::default();
                let mut by_range = vec![Digest::default(); buckets as usize];
                for range in snapshot.split(&table, 20_000).await.unwrap() {
                    let digests = snapshot.bucket_digests(&table, &range, buckets).await.unwrap();
                    assert_eq!(digests.len(), buckets as usize);
                    for (sum, digest) in by_range.iter_mut().zip(digests) {
                        sum.add(digest);
                        total.add(digest);
                    }
                }
                assert_eq!(total, expected, "{name} in {buckets}");
                let at_once = live.bucket_digests(&table, &whole(), buckets).await.unwrap();
                assert_eq!(at_once, by_range);
                let wanted: Vec<u32> = (0..buckets).filter(|b| b % 3 == 0).collect();
                let some = live.bucket_rows(&table, buckets, &wanted).await.unwrap();
                let in_them: u64 = wanted.iter().map(|b| at_once[*b as usize].rows).sum();
                assert_eq!(some.len() as u64, in_them);
            }
        }
    }
}

/// More tables than are read in one transaction or by one statement, of sizes of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tables_are_read_as_each_alone() {
    for server in servers().await {
        let home = Home::new(
            server,
            "DO $$ BEGIN FOR i IN 1..70 LOOP
               EXECUTE format('CREATE TABLE m%s (id int %s, v text)', i,
                              CASE WHEN i % 7 > 0 THEN 'PRIMARY KEY' END);
               EXECUTE format('INSERT INTO m%s SELECT g, repeat(''v'', %s) FROM
                              generate_series(1, %s) g', i, i, i % 10 * 9);
             END LOOP; END $$",
        )
        .await;
        let tables = home.tables().await;
        assert_eq!(tables.len(), 70);
        contract::check(&*home.db.snapshot().await.unwrap(), &tables).await;
        let live = home.db.reader();
        contract::digests(&live, &tables).await;
        contract::rows_by_key(&live, &tables).await;
    }
}

async fn changed(reader: &LiveReader, table: &Table) -> Digest {
    reader.bucket_digests(table, &whole(), 1).await.unwrap()[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_shows() {
    for server in servers().await {
        let home = Home::new(server, SHAPES).await;
        let (live, snapshot) = (home.db.reader(), home.db.snapshot().await.unwrap());
        let (keyed, keyless) = (home.table("keyed").await, home.table("keyless").await);
        for (table, change) in [
            (&keyed, "UPDATE keyed SET v = '' WHERE a = 5"),
            (&keyed, "UPDATE keyed SET a = 100000 WHERE a = 7"),
            (&keyed, "DELETE FROM keyed WHERE a = 9"),
            (&keyless, "INSERT INTO keyless VALUES (1, 'x1')"),
            (&keyless, "UPDATE keyless SET b = '' WHERE b IS NULL"),
            (&keyless, "DELETE FROM keyless WHERE ctid = '(0,1)'"),
        ] {
            let before = changed(&live, table).await;
            let under = snapshot.bucket_digests(table, &whole(), 1).await.unwrap();
            home.root.batch_execute(change).await.unwrap();
            assert_ne!(changed(&live, table).await, before, "{change}");
            let still = snapshot.bucket_digests(table, &whole(), 1).await.unwrap();
            assert_eq!(still, under, "{change}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_by_their_keys() {
    for server in servers().await {
        let home = Home::new(server, SHAPES).await;
        home.root
            .batch_execute(
                "CREATE EXTENSION citext SCHEMA public; SET ROLE app; \
                 CREATE TABLE ci (k citext PRIMARY KEY, v int); \
                 INSERT INTO ci VALUES ('Abc', 1), ('x', 2); \
                 CREATE TABLE odd (c char(5), f float8, t timestamptz, b bytea, e boolean, \
                                   PRIMARY KEY (c, f, t, b, e)); \
                 INSERT INTO odd VALUES ('ab', 0.1, '2024-01-01', '\\x00', true); \
                 CREATE DOMAIN small AS int; CREATE DOMAIN code AS char(3); \
                 CREATE TABLE unproven (k small, c code, PRIMARY KEY (k, c)); \
                 INSERT INTO unproven VALUES (100, 'a'), (5, 'b'); \
                 ALTER DOMAIN small ADD CHECK (VALUE < 10) NOT VALID; \
                 ALTER DOMAIN code ADD CHECK (VALUE <> 'a') NOT VALID; \
                 CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN mood_1 AS mood; \
                 CREATE DOMAIN mood_2 AS mood_1; CREATE TABLE deep (k mood_2 PRIMARY KEY); \
                 INSERT INTO deep VALUES ('sad'), ('ok')",
            )
            .await
            .unwrap();
        let live = home.db.reader();
        live.warm_up().await.unwrap();
        for name in ["keyed", "narrow", "k1", "ci", "odd", "unproven", "deep"] {
            let table = home.table(name).await;
            let all: Vec<RowDigest> = live.bucket_rows(&table, 1, &[0]).await.unwrap();
            let mut keys: Vec<_> = all.iter().map(|r| r.key.clone()).collect();
            let found = live.key_digests(&table, &keys).await.unwrap();
            let set = |rows: &[RowDigest]| -> HashSet<(Vec<String>, i64)> {
                rows.iter().map(|r| (r.key.0.clone(), r.hash)).collect()
            };
            assert_eq!(set(&found), set(&all), "{name}");
            assert_eq!(found.len(), all.len());
            let last = keys.pop().unwrap();
            let snapshot = home.db.snapshot().await.unwrap();
            let digests = snapshot
                .bucket_digests(
                    &table,
                    &snapshot.keys_range(&table, std::slice::from_ref(&last)).await.unwrap(),
                    1,
                )
                .await
                .unwrap();
            assert_eq!(digests[0].rows, 1, "{name}");
            assert_eq!(live.key_digests(&table, &[]).await.unwrap(), []);
        }
        // Many reads at once find what was made ready, and connect nobody.
        let tables = [home.table("keyed").await, home.table("keyless").await];
        let sessions = async || -> i64 {
            let asked = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()
                 AND application_name LIKE '%verify%' AND datname = current_database()";
            home.root.query_one(asked, &[]).await.unwrap().get(0)
        };
        live.get_ready(&tables.iter().collect::<Vec<_>>()).await.unwrap();
        let before = sessions().await;
        let reads = (0..20).map(|_| live.key_digests(&tables[0], &[]));
        futures_util::future::try_join_all(reads).await.unwrap();
        assert!(before > 0);
        assert_eq!(sessions().await, before);
        // Several tables at once are each read as alone, in their order.
        let mut one_by_one = Vec::new();
        let mut keys = Vec::new();
        for name in ["narrow", "keyed", "k1"] {
            let table = home.table(name).await;
            let rows = live.bucket_rows(&table, 1, &[0]).await.unwrap();
            keys.push((table, rows.into_iter().map(|r| r.key).take(5).collect::<Vec<_>>()));
        }
        for (table, keys) in &keys {
            one_by_one.push(live.key_digests(table, keys).await.unwrap());
        }
        let wanted: Vec<Lookup<'_>> =
            keys.iter().map(|(table, keys)| Lookup { table, keys }).collect();
        assert_eq!(one_by_one.iter().map(Vec::len).collect::<Vec<_>>(), [2, 5, 1]);
        let by_key = |mut rows: Vec<RowDigest>| {
            rows.sort_by(|a, b| a.key.cmp(&b.key));
            rows
        };
        let together = live.lookup(&wanted).await.unwrap();
        assert_eq!(
            together.into_iter().map(by_key).collect::<Vec<_>>(),
            one_by_one.into_iter().map(by_key).collect::<Vec<_>>()
        );
        // Keys without a row, and a keyless table by its hashes.
        let keyed = home.table("keyed").await;
        let none = cutover_core::model::digest::RowKey(vec!["none".into(), "1".into()]);
        assert_eq!(live.key_digests(&keyed, &[none]).await.unwrap(), []);
        let keyless = home.table("keyless").await;
        let row = live.bucket_rows(&keyless, 1, &[0]).await.unwrap().remove(0);
        let snapshot = home.db.snapshot().await.unwrap();
        let range = snapshot.keys_range(&keyless, std::slice::from_ref(&row.key)).await.unwrap();
        let same = snapshot.bucket_digests(&keyless, &range, 1).await.unwrap()[0];
        assert!(same.rows >= 1);
        assert_eq!(same.sum, i128::from(row.hash) * i128::from(same.rows));
    }
}
