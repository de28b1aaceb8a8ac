//! The initial copy, emptying tables, repair, and what is created and removed.

use async_trait::async_trait;
use bytes::Bytes;
use cutover_core::{
    model::{
        digest::RowKey,
        schema::Table,
        value::{TupleBuilder, Value},
    },
    port::{
        PortError, Result,
        copy::{CopyChunk, CopyFormat, CopyStream},
        sink::{Sink, SinkWriter},
    },
};
use futures_util::TryStreamExt;

use crate::{on_each_server, world::World};

/// Chunks in hand, and whether an error follows.
pub(crate) struct Chunks(std::collections::VecDeque<CopyChunk>, bool);

#[async_trait]
impl CopyStream for Chunks {
    async fn next(&mut self) -> Result<Option<CopyChunk>> {
        match self.0.pop_front() {
            Some(chunk) => Ok(Some(chunk)),
            None if self.1 => Err(PortError::transient("reading", "the source is gone")),
            None => Ok(None),
        }
    }
}

/// What COPY says of a table.
pub(crate) async fn copy_out(
    world: &World,
    table: &Table,
    binary: bool,
    condition: &str,
) -> Box<Chunks> {
    let columns: Vec<String> = table.carried().map(|c| format!("\"{}\"", c.name)).collect();
    let text = format!(
        "COPY (SELECT {} FROM \"src\".\"{}\" WHERE {condition}) TO STDOUT {}",
        columns.join(", "),
        table.name.name,
        if binary { "(FORMAT binary)" } else { "" }
    );
    let stream = world.client.copy_out(&text).await.unwrap();
    let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
    Box::new(Chunks(chunks.into_iter().map(CopyChunk::Raw).collect(), false))
}

/// Two of the hundred rows of `dst.t` are put right; then all of them are copied again.
async fn repaired_and_copied_again(world: &World, writer: &mut dyn SinkWriter, table: &Table) {
    world.meddle("DELETE FROM dst.t WHERE id IN (3, 70)").await;
    let keys = [RowKey(vec!["3".into()]), RowKey(vec!["70".into()])];
    let rows = copy_out(world, table, false, "id IN (3, 70)").await;
    writer.replace(table, Some(&keys), CopyFormat::PostgresText, rows).await.unwrap();
    world.assert_equal().await;
    world.green.clear(&world.run, table).await.unwrap();
    // Several at a time, as workers do.
    let load = world.green.load(&world.run).await.unwrap();
    let (low, high) = (
        copy_out(world, table, true, "id <= 40").await,
        copy_out(world, table, true, "id > 40").await,
    );
    let (low, high) = tokio::join!(
        load.copy(table, CopyFormat::PostgresBinary, low, None),
        load.copy(table, CopyFormat::PostgresBinary, high, None),
    );
    assert_eq!((low.unwrap(), high.unwrap()), (40, 60));
    world.assert_equal().await;
}

const T: &str = "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \"A b\" text,
    d int GENERATED ALWAYS AS (id * 2) STORED, x numeric[])";
const ROWS: &str = "INSERT INTO t (\"A b\", x)
    SELECT CASE WHEN i % 3 > 0 THEN repeat('ä' || i, 200) END, ARRAY[i, NULL] FROM generate_series(1, 3000) i";

on_each_server! {
    async fn rows_in_every_format(server) {
        let mut world = World::with(server, T).await;
        world.changes(&[ROWS]).await;
        let table = world.table("dst", "t").await;
        for format in [CopyFormat::PostgresBinary, CopyFormat::PostgresText] {
            let rows = copy_out(&world, &table, format == CopyFormat::PostgresBinary, "true").await;
            assert_eq!(world.green.copy(&world.run, &table, format, rows).await.unwrap(), 3000);
            world.assert_equal().await;
            world.green.clear(&world.run, &table).await.unwrap();
            assert!(world.rows("dst", "t").await.is_empty());
        }
        let mut row = TupleBuilder::new();
        [Value::Text(b"7"), Value::Text(b"a\tb\\"), Value::Null].into_iter().for_each(|v| row.push(v));
        let rows = Chunks([CopyChunk::Rows(vec![row.finish()])].into(), false);
        let written = world.green.copy(&world.run, &table, CopyFormat::Rows, Box::new(rows)).await;
        assert_eq!(written.unwrap(), 1);
        assert_eq!(world.rows("dst", "t").await, ["(7,\"a\tb\\\\\",14,)"]);
    }

    async fn a_copy_that_fails_leaves_nothing(server) {
        let mut world = World::with(server, T).await;
        world.changes(&[ROWS]).await;
        let table = world.table("dst", "t").await;
        let format = CopyFormat::PostgresBinary;
        // The source goes away.
        let mut rows = copy_out(&world, &table, true, "true").await;
        rows.1 = true;
        let error = world.green.copy(&world.run, &table, format, rows).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(world.rows("dst", "t").await.is_empty());
        // A row is there already.
        let rows = copy_out(&world, &table, true, "id < 10").await;
        world.green.copy(&world.run, &table, format, rows).await.unwrap();
        let rows = copy_out(&world, &table, true, "true").await;
        let error = world.green.copy(&world.run, &table, format, rows).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0402"), "{error}");
        assert!(error.to_string().contains("dst.t"), "{error}");
        assert_eq!(world.rows("dst", "t").await.len(), 9);
        // A row is not accepted.
        world.meddle("ALTER TABLE dst.t ADD CHECK (id < 20)").await;
        let rows = copy_out(&world, &table, true, "id > 10").await;
        let error = world.green.copy(&world.run, &table, format, rows).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0407"), "{error}");
        // And it goes on working.
        let rows = copy_out(&world, &table, true, "id BETWEEN 10 AND 19").await;
        assert_eq!(world.green.copy(&world.run, &table, format, rows).await.unwrap(), 10);
    }

    async fn a_table_that_others_point_at_is_emptied_alone(server) {
        let mut world = World::with(server,
            "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, t int REFERENCES t)"
        ).await;
        let events = world.changes(&["INSERT INTO t VALUES (1); INSERT INTO c VALUES (1, 1)"]).await;
        world.writer().await.apply(&events).await.unwrap();
        let table = world.table("dst", "t").await;
        world.green.clear(&world.run, &table).await.unwrap();
        world.green.clear(&world.run, &table).await.unwrap();
        assert!(world.rows("dst", "t").await.is_empty());
        assert_eq!(world.rows("dst", "c").await.len(), 1);
    }

    async fn repair_replaces_rows_by_key_or_all(server) {
        let mut world = World::with(server,
            "CREATE TABLE t (a int, b text, v text, PRIMARY KEY (b, a));
             CREATE TABLE c (id int PRIMARY KEY, a int, b text, FOREIGN KEY (b, a) REFERENCES t)").await;
        let events = world.changes(&[
            "INSERT INTO t SELECT i, 'k' || i % 3, 'v' || i FROM generate_series(1, 100) i",
            "INSERT INTO c VALUES (1, 3, 'k0')",
        ]).await;
        let mut writer = world.writer().await;
        writer.apply(&events).await.unwrap();
        let table = world.table("dst", "t").await;
        world.meddle("UPDATE dst.t SET v = 'wrong' WHERE a = 3; DELETE FROM dst.t WHERE a = 4;
                      INSERT INTO dst.t VALUES (500, 'x', 'extra')").await;
        let keys = [["k0", "3"], ["k1", "4"], ["x", "500"]]
            .map(|k| RowKey(k.iter().map(|p| (*p).to_owned()).collect()));
        let rows = copy_out(&world, &table, true, "a IN (3, 4, 500)").await;
        let written =
            writer.replace(&table, Some(&keys), CopyFormat::PostgresBinary, rows).await.unwrap();
        assert_eq!(written, 2);
        world.assert_equal().await;
        // Without keys everything is replaced.
        world.meddle("UPDATE dst.t SET v = 'wrong'").await;
        let rows = copy_out(&world, &table, false, "true").await;
        let written = writer.replace(&table, None, CopyFormat::PostgresText, rows).await.unwrap();
        assert_eq!(written, 100);
        world.assert_equal().await;
        // The writer goes on.
        let events = world.changes(&["UPDATE t SET v = 'later' WHERE a = 50"]).await;
        writer.apply(&events).await.unwrap();
        world.assert_equal().await;
    }

    /// They are on both sides, and whoever copies them again meets the constraint.
    async fn rows_that_break_a_constraint_that_is_not_valid(server) {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY, v int, w int)").await;
        let events = world.changes(&["INSERT INTO t SELECT i, i FROM generate_series(1, 100) i"]).await;
        let mut writer = world.writer().await;
        writer.apply(&events).await.unwrap();
        let late = "ALTER TABLE t ADD CONSTRAINT \"Large\" CHECK (v > 50) NOT VALID;
                    COMMENT ON CONSTRAINT \"Large\" ON t IS 'it''s'";
        let version = "SELECT current_setting('server_version_num')::int";
        let version: i32 = world.client.query_one(version, &[]).await.unwrap().get(0);
        for schema in ["src", "dst"] {
            world.define(schema, late).await;
            if version >= 180_000 {
                world.define(schema, "ALTER TABLE t ADD CONSTRAINT filled NOT NULL w NOT VALID").await;
            }
        }
        let constraint = async || -> String {
            let query = "SELECT string_agg(concat_ws(' ', conname, pg_get_constraintdef(oid),
                                      obj_description(oid, 'pg_constraint')), ', ' ORDER BY conname)
                           FROM pg_constraint WHERE conrelid = 'dst.t'::regclass";
            world.client.query_one(query, &[]).await.unwrap().get(0)
        };
        let was = constraint().await;
        let table = world.table("dst", "t").await;
        repaired_and_copied_again(&world, &mut *writer, &table).await;
        assert_eq!(constraint().await, was);
    }

    /// Defined further up, or with a type.
    async fn rows_that_break_what_a_table_has_from_elsewhere(server) {
        for (ddl, late, name, column) in [
            (
                "CREATE TABLE p (id int PRIMARY KEY, v int, w int) PARTITION BY RANGE (id);
                 CREATE TABLE q PARTITION OF p FOR VALUES FROM (0) TO (1000) PARTITION BY RANGE (id);
                 CREATE TABLE t PARTITION OF q FOR VALUES FROM (0) TO (500);
                 CREATE TABLE other PARTITION OF q FOR VALUES FROM (500) TO (1000)",
                "ALTER TABLE ONLY t ADD CONSTRAINT shared CHECK (v > 20) NOT VALID;
                 ALTER TABLE p ADD CONSTRAINT \"Large\" CHECK (v > 50) NOT VALID;
                 ALTER TABLE p ADD CONSTRAINT shared CHECK (v > 20) NOT VALID;
                 COMMENT ON CONSTRAINT \"Large\" ON t IS 'it''s';
                 COMMENT ON CONSTRAINT \"Large\" ON p IS 'all';
                 CREATE TABLE valid PARTITION OF p FOR VALUES FROM (1000) TO (1001);
                 INSERT INTO valid VALUES (1000, 1000)",
                "t",
                "v",
            ),
            (
                "CREATE TABLE a (id int, v int); CREATE TABLE b (v int, w int);
                 CREATE TABLE t (PRIMARY KEY (id)) INHERITS (a, b)",
                "ALTER TABLE a ADD CONSTRAINT large CHECK (v > 50) NOT VALID;
                 ALTER TABLE b ADD CONSTRAINT large CHECK (v > 50) NOT VALID;
                 ALTER TABLE b ADD CONSTRAINT own CHECK (v > 90) NO INHERIT NOT VALID;
                 ALTER TABLE b ADD CONSTRAINT larger CHECK (v > 60) NOT VALID",
                "t",
                "v",
            ),
            (
                "CREATE DOMAIN below AS int; CREATE DOMAIN d AS below;
                 CREATE TYPE pair AS (one d, two text);
                 CREATE TABLE t (id int PRIMARY KEY, v d, w int, many d[], pairs pair[])",
                "ALTER DOMAIN below ADD CONSTRAINT large CHECK (VALUE > 50) NOT VALID;
                 ALTER DOMAIN d ADD CONSTRAINT \"Larger\" CHECK (VALUE > 60) NOT VALID;
                 COMMENT ON CONSTRAINT \"Larger\" ON DOMAIN d IS 'it''s'",
                "t",
                "v, ARRAY[v], ARRAY[ROW(v, 'x')::pair]",
            ),
        ] {
            let mut world = World::with(server, ddl).await;
            let columns = if column == "v" { "id, v" } else { "id, v, many, pairs" };
            let rows = format!(
                "INSERT INTO {name} ({columns}) SELECT v, {column} FROM generate_series(1, 100) v"
            );
            let events = world.changes(&[&rows]).await;
            let mut writer = world.writer().await;
            writer.apply(&events).await.unwrap();
            for schema in ["src", "dst"] {
                world.define(schema, late).await;
            }
            let constraints = async || -> String {
                let query = "SELECT string_agg(concat_ws(' ', conrelid::regclass, contypid::regtype,
                                          conname, pg_get_constraintdef(oid), conislocal, coninhcount,
                                          obj_description(oid, 'pg_constraint')), ', '
                                      ORDER BY conrelid, contypid, conname)
                               FROM pg_constraint
                              WHERE connamespace = 'dst'::regnamespace AND contype = 'c'";
                world.client.query_one(query, &[]).await.unwrap().get(0)
            };
            let was = constraints().await;
            let table = world.table("dst", name).await;
            repaired_and_copied_again(&world, &mut *writer, &table).await;
            assert_eq!(constraints().await, was);
        }
    }

    async fn everything_created_is_removed(server) {
        let world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let left = async || -> i64 {
            let row = world.client
                .query_one(
                    "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = $1)
                          + (SELECT count(*) FROM pg_replication_origin WHERE roname = $1)",
                    &[&world.run.object_name()],
                )
                .await
                .unwrap();
            row.get(0)
        };
        world.green.prepare(&world.run).await.unwrap();
        assert_eq!(left().await, 2);
        // The writer may have ended a moment ago.
        drop(world.writer().await);
        world.green.release(&world.run).await.unwrap();
        world.green.release(&world.run).await.unwrap();
        assert_eq!(left().await, 0);
        // What others put into the schema stays.
        world.green.prepare(&world.run).await.unwrap();
        let name = world.run.object_name();
        world.client.batch_execute(&format!("CREATE TABLE {name}.other ()")).await.unwrap();
        world.green.release(&world.run).await.unwrap();
        assert_eq!(left().await, 1);
    }

    async fn written_rows_carry_the_origin_of_the_run(server) {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let run = world.run.object_name();
        world.client
            .execute("SELECT pg_create_logical_replication_slot($1, 'test_decoding')", &[&run])
            .await
            .unwrap();
        let mut writer = world.writer().await;
        let events = world.changes(&["INSERT INTO t SELECT generate_series(1, 200)"]).await;
        writer.apply(&events).await.unwrap();
        let seen = async |only_local: &str| -> i64 {
            world.client
                .query_one(
                    "SELECT count(*) FROM pg_logical_slot_peek_changes($1, NULL, NULL, 'only-local', $2)
                      WHERE data LIKE 'table dst.t:%'",
                    &[&run, &only_local],
                )
                .await
                .unwrap()
                .get(0)
        };
        assert_eq!(seen("0").await, 200);
        assert_eq!(seen("1").await, 0);
        world.client.execute("SELECT pg_drop_replication_slot($1)", &[&run]).await.unwrap();
    }
}
