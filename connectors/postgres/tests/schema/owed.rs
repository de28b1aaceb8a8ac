//! What waits for the stream where rows are of several snapshots.

use std::collections::BTreeMap;

use cutover_core::{
    model::{schema::TableName, selection::Selection},
    port::schema::SchemaCopy,
};
use cutover_postgres::schema::PgSchemaCopy;
use tokio_postgres::Client;

use crate::{green_of, home::Home, pairs};

async fn keys(client: &Client) -> Vec<String> {
    let query = "SELECT concat_ws(' ', conrelid::regclass, pg_get_constraintdef(oid), convalidated) \
                 FROM pg_constraint WHERE contype = 'f' ORDER BY 1";
    client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Rows of two snapshots may refer to one that only the stream brings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_key_waits_for_the_stream_where_rows_are_of_several_snapshots() {
    const DDL: &str = "
        CREATE TABLE p (id int PRIMARY KEY);
        CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p);
        CREATE TABLE d (id int, p int REFERENCES p) PARTITION BY LIST (id);
        CREATE TABLE d_1 PARTITION OF d FOR VALUES IN (1)";
    let (blue_server, green_server) = pairs().await.pop().unwrap();
    let all = Selection::default();
    let blue = Home::new(blue_server, DDL).await;
    let green = Home::new(green_server, "SELECT 1").await;
    let copy = PgSchemaCopy::new(blue.db.clone(), green_of(&green));
    // Nothing was ever left where nothing was made.
    copy.complete().await.unwrap();
    copy.before_rows(&all).await.unwrap();
    let early = "INSERT INTO c VALUES (1, 4711); INSERT INTO d VALUES (1, 4711)";
    green.root.batch_execute(early).await.unwrap();
    let e = copy.after_rows(&all, 2, None, false).await.unwrap_err();
    assert_eq!(e.code(), Some("CUT0305"), "{e}");
    copy.after_rows(&all, 2, Some(&BTreeMap::new()), false).await.unwrap();
    assert!(keys(&blue.root).await != keys(&green.root).await);
    // Blue's rows break it after all.
    let e = copy.complete().await.unwrap_err();
    assert_eq!(e.code(), Some("CUT0305"), "{e}");
    assert!(!format!("{e:?}").contains("4711"), "{e:?}");
    green.root.batch_execute("INSERT INTO p VALUES (4711)").await.unwrap();
    let writer = green.client().await;
    writer.batch_execute("BEGIN; UPDATE p SET id = id").await.unwrap();
    assert!(copy.complete().await.unwrap_err().is_transient(), "somebody was waited for");
    writer.batch_execute("COMMIT").await.unwrap();
    for _ in 0..2 {
        copy.complete().await.unwrap();
        assert_eq!(keys(&blue.root).await, keys(&green.root).await);
    }
}

/// Unique indexes, exclusion constraints and foreign keys, with what is said about them.
async fn forbidding(client: &Client) -> Vec<String> {
    let query = "SELECT concat_ws(' ', pg_get_indexdef(indexrelid), \
                        (SELECT pg_get_constraintdef(oid) FROM pg_constraint \
                          WHERE conindid = indexrelid AND conrelid = indrelid), \
                        obj_description(indexrelid)) \
                 FROM pg_index JOIN pg_class c ON c.oid = indrelid \
                 WHERE relnamespace = 'public'::regnamespace AND (indisunique OR indisexclusion) \
                 UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) \
                 FROM pg_constraint WHERE contype = 'f' ORDER BY 1";
    client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The comment, which is longer than a key may be.
async fn long(client: &Client) -> String {
    let query = "SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i";
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Two rows of a table may have the same value where they are of several snapshots, now or later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_forbids_two_rows_waits_where_a_table_is_of_several_snapshots() {
    const DDL: &str = "
        CREATE TABLE p (id int PRIMARY KEY, code int, \"x y\" int, r int4range,
                        CONSTRAINT \"Its code\" UNIQUE (code), EXCLUDE USING gist (r WITH &&));
        CREATE UNIQUE INDEX \"P one\" ON p (\"x y\") WHERE \"x y\" > 0;
        CREATE INDEX plain ON p (r);
        CREATE UNIQUE INDEX together ON p (code, id);
        DO $$ BEGIN EXECUTE format('COMMENT ON INDEX \"P one\" IS %L',
            (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i)); END $$;
        CREATE TABLE c (id int PRIMARY KEY, code int REFERENCES p (code));
        CREATE TABLE q (id int PRIMARY KEY, code int UNIQUE)";
    let (all, torn) =
        (Selection::default(), BTreeMap::from([(TableName::new("public", "p"), "id".to_owned())]));
    let is = async |green: &Home, index: &str| -> bool {
        let query = "SELECT to_regclass($1) IS NOT NULL";
        green.root.query_one(query, &[&index]).await.unwrap().get(0)
    };
    for (name, meanwhile, left) in [
        ("nothing", "SELECT 1", "SELECT 1"),
        ("made anew", "REINDEX TABLE CONCURRENTLY p", "SELECT 1"),
        ("renamed", "ALTER INDEX \"P one\" RENAME TO \"Q\"", "SELECT 1"),
        ("another", "DROP INDEX \"P one\"; CREATE UNIQUE INDEX \"P one\" ON p (r)", "SELECT 1"),
        (
            "dropped",
            "ALTER TABLE p DROP CONSTRAINT \"Its code\" CASCADE; DROP INDEX \"P one\"",
            "SELECT 1",
        ),
        ("there", "SELECT 1", "CREATE UNIQUE INDEX \"P one\" ON p (\"x y\") WHERE \"x y\" > 0"),
    ] {
        let (blue_server, green_server) = pairs().await.pop().unwrap();
        let blue = Home::new(blue_server, DDL).await;
        let green = Home::new(green_server, "SELECT 1").await;
        let copy = PgSchemaCopy::new(blue.db.clone(), green_of(&green));
        copy.before_rows(&all).await.unwrap();
        let twice = "INSERT INTO p VALUES (1, 7, 7, '[1,3)'), (2, 7, 8, '[4,5)'); INSERT INTO c VALUES (1, 7)";
        green.root.batch_execute(twice).await.unwrap();
        for _ in 0..2 {
            copy.after_rows(&all, 2, Some(&torn), false).await.unwrap();
        }
        for (index, there) in [
            ("p_pkey", true),
            ("plain", true),
            ("together", true),
            ("q_code_key", true),
            ("\"P one\"", false),
            ("p_r_excl", false),
        ] {
            assert_eq!(is(&green, index).await, there, "{name}: {index}");
        }
        blue.root.batch_execute(meanwhile).await.unwrap();
        if name != "dropped" {
            let e = copy.complete().await.unwrap_err();
            assert_eq!(e.code(), Some("CUT0305"), "{name}: {e}");
        }
        green.root.batch_execute("UPDATE p SET code = 8 WHERE id = 2").await.unwrap();
        green.root.batch_execute(left).await.unwrap();
        for _ in 0..2 {
            copy.complete().await.unwrap();
            let (mut want, mut has) = (forbidding(&blue.root).await, forbidding(&green.root).await);
            if ["renamed", "another", "there"].contains(&name) {
                // The comment was about another one, or came to what was there.
                let comment = format!(" {}", long(&blue.root).await);
                let plain = |all: &mut Vec<String>| {
                    all.iter_mut().for_each(|text| *text = text.replace(&comment, ""));
                };
                plain(&mut want);
                plain(&mut has);
            }
            assert_eq!(want, has, "{name}");
        }
    }
}
