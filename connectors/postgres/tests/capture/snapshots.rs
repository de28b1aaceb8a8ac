//! The snapshot and the stream join without gap and without overlap, under load.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
};

use cutover_core::{
    model::{
        event::{Change, Event},
        position::Position,
        run::RunId,
        side::Side,
        value::Value,
    },
    port::{
        copy::{CopyChunk, CopyFormat, Snapshot},
        source::Source,
    },
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres};
use tokio::task::JoinHandle;

use crate::world::{PATIENCE, World, patiently, servers};

/// Clients that insert numbers 0, 1, 2, ... each in its own transaction, some of which roll back.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<BTreeSet<i32>>>,
    count: Arc<AtomicI32>,
}

impl Load {
    pub(crate) async fn start(w: &World) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
        let mut clients = Vec::new();
        for _ in 0..4 {
            let client = w.client().await;
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            clients.push(tokio::spawn(async move {
                let mut committed = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    let i = count.fetch_add(1, Ordering::Relaxed);
                    let keep = i % 10 != 0;
                    let end = if keep { "commit" } else { "rollback" };
                    client
                        .batch_execute(&format!(
                            "begin; insert into t values ({i}); savepoint s; \
                             insert into t values (-{i} - 1); rollback to s; {end}"
                        ))
                        .await
                        .unwrap();
                    if keep {
                        committed.insert(i);
                    }
                }
                committed
            }));
        }
        Self { stop, clients, count }
    }

    pub(crate) async fn pass(&self, more: i32) {
        let from = self.count.load(Ordering::Relaxed);
        cutover_sandbox::wait_until("load", PATIENCE, async || {
            self.count.load(Ordering::Relaxed) > from + more
        })
        .await
        .unwrap();
    }

    pub(crate) async fn finish(self) -> BTreeSet<i32> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeSet::new();
        for client in self.clients {
            all.extend(client.await.unwrap());
        }
        all
    }
}

pub(crate) async fn ids(w: &World, snapshot: &dyn Snapshot) -> BTreeSet<i32> {
    let tables = w.tables().await;
    let mut text = Vec::new();
    for range in snapshot.split(&tables[0], 64 << 10).await.unwrap() {
        let mut rows = snapshot
            .read(&tables[0], &range, CopyFormat::PostgresText)
            .await
            .unwrap()
            .rows()
            .unwrap();
        while let Some(chunk) = rows.next().await.unwrap() {
            let CopyChunk::Raw(bytes) = chunk else { panic!("decoded rows") };
            text.extend_from_slice(&bytes);
        }
    }
    let text = String::from_utf8(text).unwrap();
    let all: Vec<i32> = text.lines().map(|l| l.parse().unwrap()).collect();
    let set: BTreeSet<i32> = all.iter().copied().collect();
    assert_eq!(set.len(), all.len(), "a row was read twice");
    set
}

/// Inserted numbers with the position of their commit.
fn inserted(events: &[Event]) -> Vec<(i32, Position)> {
    let mut all = Vec::new();
    let mut open = Vec::new();
    for event in events {
        match event {
            Event::Row { change: Change::Insert { new }, .. } => {
                let Value::Text(id) = new.get(0) else { panic!("no text") };
                open.push(std::str::from_utf8(id).unwrap().parse::<i32>().unwrap());
            }
            Event::Commit { position } => {
                all.extend(open.drain(..).map(|id| (id, position.clone())));
            }
            _ => {}
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copy_and_the_stream_join() {
    for w in World::everywhere_and_standbys("join").await {
        w.sql("create table t (id int primary key)").await;
        let load = Load::start(&w).await;
        load.pass(100).await;
        let tables = w.tables().await;
        let capture = patiently(async || w.db.capture(&w.run, &tables, true).await).await;
        let snapshot = capture.snapshot.expect("a snapshot was asked for");
        load.pass(100).await;
        let copied = ids(&w, &*snapshot).await;
        drop(snapshot);
        assert!(!copied.is_empty());
        let mut tap = w.tap_from(Some(&capture.start)).await;
        load.pass(100).await;
        let committed = load.finish().await;
        let followed: Vec<i32> =
            inserted(&w.drain(&mut tap).await).into_iter().map(|(id, _)| id).collect();
        let set: BTreeSet<i32> = followed.iter().copied().collect();
        assert_eq!(set.len(), followed.len(), "a row came twice");
        assert!(set.is_disjoint(&copied), "{:?}", set.intersection(&copied));
        let all: BTreeSet<i32> = set.union(&copied).copied().collect();
        assert!(all == committed, "PostgreSQL {}", w.server.major());
        // A second capture keeps the first.
        let again = w.db.capture(&w.run, &w.tables().await, true).await.unwrap();
        assert!(again.snapshot.is_none());
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_with_a_position_holds_exactly_what_committed_before_it() {
    for w in World::everywhere_and_standbys("exact").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        let load = Load::start(&w).await;
        let mut taken = Vec::new();
        for _ in 0..8 {
            load.pass(30).await;
            let (position, snapshot) = patiently(async || w.db.snapshot_at_position().await).await;
            load.pass(30).await;
            taken.push((position, ids(&w, &*snapshot).await));
        }
        load.finish().await;
        let stream = inserted(&w.drain(&mut tap).await);
        for (position, held) in &taken {
            let before: BTreeSet<i32> = stream
                .iter()
                .filter(|(_, commit)| position.covers(commit) == Ok(true))
                .map(|(id, _)| *id)
                .collect();
            assert!(!before.is_empty());
            assert!(
                before == *held,
                "PostgreSQL {}: {} before {position}, {} in the snapshot",
                w.server.major(),
                before.len(),
                held.len()
            );
        }
        let temporary = "select count(*) from pg_replication_slots where temporary and database = \
                         current_database()";
        cutover_sandbox::wait_until("the temporary slots to go", PATIENCE, async || {
            w.text_of_reader(temporary).await == "0"
        })
        .await
        .unwrap();
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_waits_for_transactions_that_are_open() {
    let w = World::newest("waits").await;
    w.sql("create table t (id int primary key)").await;
    let client = w.client().await;
    client.batch_execute("begin; insert into t values (1)").await.unwrap();
    let tables = w.tables().await;
    let capture = w.db.capture(&w.run, &tables, true);
    let commit = async {
        cutover_sandbox::wait_until("the slot to be asked for", PATIENCE, async || {
            w.text("select count(*) from pg_replication_slots where slot_name = 'cutover_waits'")
                .await
                == "1"
        })
        .await
        .unwrap();
        client.batch_execute("insert into t values (2); commit").await.unwrap();
    };
    let (capture, ()) = tokio::join!(capture, commit);
    let capture = capture.unwrap();
    let copied = ids(&w, &*capture.snapshot.unwrap()).await;
    let mut tap = w.tap_from(Some(&capture.start)).await;
    let followed = inserted(&w.drain(&mut tap).await);
    assert_eq!(copied.len() + followed.len(), 2);
    w.release().await;
}

/// A process died while its slot waited for an open transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_was_cut_off_is_begun_again() {
    let mut worlds = World::standbys("cutoff").await;
    worlds.push(World::newest("cutoff").await);
    for w in worlds {
        w.sql("create table t (id int primary key)").await;
        let client = w.client().await;
        client.batch_execute("begin; insert into t values (1)").await.unwrap();
        let (db, run, tables) = (w.db.clone(), w.run.clone(), w.tables().await);
        let again = tables.clone();
        let first = tokio::spawn(async move { db.capture(&run, &tables, true).await.map(drop) });
        let creator =
            "select active_pid from pg_replication_slots where slot_name = 'cutover_cutoff'";
        let mut pid = String::new();
        cutover_sandbox::wait_until("the slot", PATIENCE, async || {
            pid = w.text_of_reader(creator).await;
            !pid.is_empty()
        })
        .await
        .unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let second = w.db.capture(&w.run, &again, true);
        let commit = async {
            cutover_sandbox::wait_until("another one", PATIENCE, async || {
                let now = w.text_of_reader(creator).await;
                !now.is_empty() && now != pid
            })
            .await
            .unwrap();
            client.batch_execute("commit").await.unwrap();
        };
        let (second, ()) = tokio::join!(second, commit);
        let copied = ids(&w, &*second.unwrap().snapshot.expect("it is a new one")).await;
        assert_eq!(copied, [1].into(), "PostgreSQL {}", w.server.major());
        w.release().await;
    }
}

/// Commits need not wait for the disk. What was copied of them must be there: a server that fails
/// gives the numbers of forgotten transactions to others, and the stream leaves those out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_snapshot_contains_outlives_a_failure() {
    for install in find_postgres() {
        let options = PgOptions::new().set("wal_writer_delay", "10s");
        let mut server = Postgres::start(&install, options).await.unwrap();
        let db = database(&server);
        server.execute("postgres", "create table t (id int)").await.unwrap();
        let client = server.connect("postgres").await.unwrap();
        client.batch_execute("set synchronous_commit = off").await.unwrap();
        client.batch_execute("insert into t values (1)").await.unwrap();
        let snapshot = db.snapshot().await.unwrap();
        server.kill9().await.unwrap();
        drop(snapshot);
        server.start_again().await.unwrap();
        let client = server.connect("postgres").await.unwrap();
        let rows = client.query_one("select count(*) from t", &[]).await.unwrap();
        assert_eq!(rows.get::<_, i64>(0), 1, "PostgreSQL {}", server.major());
    }
}

/// A snapshot of now waits for the server's own disk, and for nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_does_not_wait_for_a_standby_that_is_not_there() {
    for install in find_postgres() {
        let server = Postgres::start(&install, PgOptions::new()).await.unwrap();
        let client = server.connect("postgres").await.unwrap();
        let nobody = "alter system set synchronous_standby_names = 'nobody'";
        client.batch_execute(nobody).await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
        // Until the server has heard of it, commits end.
        let waits = tokio::spawn(async move {
            while client.batch_execute("create table t (); drop table t").await.is_ok() {}
        });
        let hangs = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
        cutover_sandbox::wait_until("a commit to hang", PATIENCE, async || {
            server.query_text("postgres", hangs).await.unwrap().as_deref() == Some("1")
        })
        .await
        .unwrap();
        let db = database(&server);
        let snapshot = tokio::time::timeout(PATIENCE, db.snapshot()).await;
        snapshot.expect("it waits for nobody").unwrap();
        waits.abort();
    }
}

/// A server whose disk does not answer is named, and the next one to ask is not kept waiting.
#[tokio::test]
async fn a_message_that_does_not_reach_the_disk_is_given_up() {
    let server = &servers().await[0];
    let db = database(server);
    db.snapshot().await.unwrap();
    let control = "select pid::text from pg_stat_activity \
                   where application_name = 'cutover forgets control'";
    let pid = server.query_text("postgres", control).await.unwrap().unwrap();
    let signal = |name: &str| {
        let sent = std::process::Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    };
    signal("-STOP");
    // Nothing else is waited for, so the deadline is there at once.
    tokio::time::pause();
    let error = db.emit("cutover", "never").await.unwrap_err();
    tokio::time::resume();
    assert!(error.is_transient(), "{error}");
    let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(why.contains("not on the disk within 30 s"), "{error}: {why}");
    assert!(error.to_string().contains("writing a message into the log on blue"), "{error}");
    db.snapshot().await.unwrap();
    signal("-CONT");
}

fn database(server: &Postgres) -> Database {
    let config = PgConfig::parse(&server.url("postgres"), None).unwrap();
    Database::new(config, Side::Blue, RunId::new("forgets").unwrap(), &std::env::temp_dir())
}
