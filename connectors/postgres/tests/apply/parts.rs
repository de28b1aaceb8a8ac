//! Which parts of a table are there is known exactly, whatever happened to who wrote them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use cutover_core::{
    model::schema::Table,
    port::{
        PortError, Result,
        copy::{CopyChunk, CopyFormat, CopyStream},
        sink::{Part, Sink},
    },
};
use tokio::sync::Semaphore;

use crate::{on_each_server, world::World};

/// Rows as text, and an end that waits, or never comes.
struct Lines {
    text: Option<String>,
    end: Arc<Semaphore>,
    fails: bool,
}

#[async_trait]
impl CopyStream for Lines {
    async fn next(&mut self) -> Result<Option<CopyChunk>> {
        if let Some(text) = self.text.take() {
            return Ok(Some(CopyChunk::Raw(Bytes::from(text))));
        }
        self.end.acquire().await.expect("open").forget();
        if self.fails {
            Err(PortError::transient("reading", "the source is gone"))
        } else {
            Ok(None)
        }
    }
}

fn lines(keys: std::ops::Range<i32>, permits: usize, fails: bool) -> (Box<Lines>, Arc<Semaphore>) {
    let end = Arc::new(Semaphore::new(permits));
    let text = keys.map(|key| format!("{key}\n")).collect();
    (Box::new(Lines { text: Some(text), end: Arc::clone(&end), fails }), end)
}

fn part(number: u32) -> Part {
    Part { number, snapshot: format!("{number}:{number}:") }
}

async fn numbers(world: &World, table: &Table) -> Vec<(u32, u64)> {
    let there = world.green.parts(&world.run, table).await.unwrap();
    assert!(there.iter().all(|p| p.part.snapshot.starts_with(&p.part.number.to_string())));
    there.iter().map(|p| (p.part.number, p.rows)).collect()
}

const TEXT: CopyFormat = CopyFormat::PostgresText;

on_each_server! {
    async fn a_part_is_there_with_its_rows_or_not_at_all(server) {
        let world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        world.green.prepare(&world.run).await.unwrap();
        let table = world.table("dst", "t").await;
        assert!(world.green.takes_parts(&table, "id").await.unwrap());
        let load = world.green.load(&world.run).await.unwrap();
        assert_eq!(numbers(&world, &table).await, []);
        load.copy(&table, TEXT, lines(0..10, 1, false).0, Some(&part(0))).await.unwrap();
        load.copy(&table, TEXT, lines(20..25, 1, false).0, Some(&part(2))).await.unwrap();
        load.copy(&table, TEXT, lines(10..20, 1, true).0, Some(&part(1))).await.unwrap_err();
        assert_eq!(numbers(&world, &table).await, [(0, 10), (2, 5)]);
        // Nobody writes one twice.
        let again = load.copy(&table, TEXT, lines(30..31, 1, false).0, Some(&part(2))).await;
        assert!(again.unwrap_err().is_transient());
        let rows = "SELECT count(*) FROM dst.t";
        let rows: i64 = world.client.query_one(rows, &[]).await.unwrap().get(0);
        assert_eq!(rows, 15);
        // What was emptied, or made anew, has none, whoever did it.
        for anew in ["TRUNCATE dst.t", "DROP TABLE dst.t; CREATE TABLE dst.t (id int PRIMARY KEY)"] {
            world.meddle(anew).await;
            assert_eq!(numbers(&world, &table).await, [], "{anew}");
            world.green.clear(&world.run, &table).await.unwrap();
            load.copy(&table, TEXT, lines(0..1, 1, false).0, Some(&part(0))).await.unwrap();
            assert_eq!(numbers(&world, &table).await, [(0, 1)]);
        }
        world.green.clear(&world.run, &table).await.unwrap();
        assert_eq!(numbers(&world, &table).await, []);
        // Rows that are deleted since a foreign key points at them.
        load.copy(&table, TEXT, lines(0..1, 1, false).0, Some(&part(0))).await.unwrap();
        world.meddle("CREATE TABLE dst.r (id int REFERENCES dst.t)").await;
        world.green.clear(&world.run, &table).await.unwrap();
        assert_eq!(numbers(&world, &table).await, []);
    }

    async fn whoever_still_writes_is_waited_for(server) {
        let world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        world.green.prepare(&world.run).await.unwrap();
        let table = world.table("dst", "t").await;
        let load = world.green.load(&world.run).await.unwrap();
        let ((rows, end), first) = (lines(0..10, 0, false), part(0));
        let writing = load.copy(&table, TEXT, rows, Some(&first));
        let looking = async {
            let held = "SELECT count(*) = 1 FROM pg_locks WHERE granted AND mode = 'RowExclusiveLock' \
                          AND relation = 'dst.t'::regclass";
            let waits = "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted \
                           AND relation = 'dst.t'::regclass";
            let patience = Duration::from_secs(120);
            let is = async |sql: &str| world.client.query_one(sql, &[]).await.unwrap().get(0);
            cutover_sandbox::wait_until("a writer", patience, async || is(held).await).await.unwrap();
            let found = numbers(&world, &table);
            let released = async {
                cutover_sandbox::wait_until("a look", patience, async || is(waits).await)
                    .await
                    .unwrap();
                end.add_permits(1);
            };
            tokio::join!(found, released).0
        };
        let (written, found) = tokio::join!(writing, looking);
        assert_eq!(written.unwrap(), 10);
        assert_eq!(found, [(0, 10)]);
    }

    async fn tables_with_other_keys_take_no_parts(server) {
        let world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY, v int)").await;
        let table = world.table("dst", "t").await;
        let takes = async || world.green.takes_parts(&table, "id").await.unwrap();
        assert!(takes().await);
        assert!(!world.green.takes_parts(&table, "v").await.unwrap(), "another key");
        world.define("dst", "CREATE INDEX plain ON t (v)").await;
        assert!(takes().await);
        world.define("dst", "CREATE UNIQUE INDEX other ON t (v)").await;
        assert!(!takes().await);
        world.define("dst", "DROP INDEX other; CREATE UNIQUE INDEX other ON t ((id + 1))").await;
        assert!(!takes().await);
        world.define("dst", "DROP INDEX other; ALTER TABLE t ADD EXCLUDE USING btree (id WITH =)").await;
        assert!(!takes().await);
        // Rows of two ranges have different values in it.
        let wider = "DROP TABLE t; CREATE TABLE t (id int, v int, PRIMARY KEY (id, v), UNIQUE (v, id))";
        world.define("dst", wider).await;
        assert!(takes().await);
        world.define("dst", "CREATE UNIQUE INDEX other ON t (v) INCLUDE (id)").await;
        assert!(!takes().await);
        // Without its key, as before its indexes are built.
        world.define("dst", "DROP TABLE t; CREATE TABLE t (id int, v int)").await;
        assert!(takes().await);
    }
}
