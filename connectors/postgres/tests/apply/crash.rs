//! Lost sessions: what was stored is known, and nothing is applied twice or not at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use cutover_core::{
    model::event::Event,
    port::sink::{Route, Sink, SinkWriter},
};
use cutover_sandbox::{PgOptions, Postgres, find_postgres, wait_until};
use cutover_testkit::FaultProxy;

use crate::{
    on_each_server,
    world::{World, end},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Applies everything, cutting the writer's session again and again; continues each time at what
/// the new writer says.
async fn apply_through_cuts(world: &World, events: &[Event], part: usize) -> u32 {
    let killer = world.server.connect(&world.name).await.unwrap();
    let opened = Arc::new(AtomicU32::new(0));
    let sessions = Arc::clone(&opened);
    let cutting = tokio::spawn(async move {
        loop {
            // A session needs time to get somewhere: more and more, so that it does in the end.
            let age = 20.0 + f64::from(sessions.load(Ordering::Relaxed));
            killer
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name LIKE '% apply'
                        AND backend_start < clock_timestamp() - $1 * interval '1 ms'
                        AND random() < 0.3",
                    &[&age],
                )
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    let mut cuts = 0;
    let deadline = Instant::now() + Duration::from_secs(120);
    'open: loop {
        assert!(Instant::now() < deadline, "no progress through {cuts} cuts");
        opened.fetch_add(1, Ordering::Relaxed);
        let Ok(mut writer) = world.green.writer(&world.run, &world.routes().await).await else {
            continue;
        };
        let Ok(stored) = writer.progress().await else { continue };
        let from = events
            .iter()
            .position(
                |e| matches!(e, Event::Commit { position } if Some(position) == stored.as_ref()),
            )
            .map_or(0, |at| at + 1);
        for events in events[from..].chunks(part) {
            if let Err(error) = writer.apply(events).await {
                assert!(error.is_transient(), "{error}");
                cuts += 1;
                continue 'open;
            }
        }
        break;
    }
    cutting.abort();
    cuts
}

on_each_server! {
    async fn a_session_that_is_cut_at_any_moment(server) {
        let mut world = World::with(server,
            "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE log (n int);
             CREATE TABLE u (id int PRIMARY KEY, u int UNIQUE)").await;
        let mut events = world.changes(&["INSERT INTO t SELECT i, 0 FROM generate_series(1, 50) i",
            "INSERT INTO u VALUES (1, 1), (2, 2)"]).await;
        for i in 0..400 {
            events.extend(world.changes(&[
                &format!("BEGIN; UPDATE t SET n = n + {i} WHERE id = {}; INSERT INTO log VALUES ({i}); COMMIT",
                    i % 50 + 1),
                "BEGIN; UPDATE u SET u = -1 WHERE id = 1; UPDATE u SET u = 3 - u WHERE id = 2;
                 UPDATE u SET u = 3 - (SELECT u FROM u WHERE id = 2) WHERE id = 1; COMMIT",
            ]).await);
        }
        // Calls end inside of transactions, too.
        let cuts = apply_through_cuts(&world, &events, 13).await;
        assert!(cuts > 0);
        world.assert_equal().await;
    }

    async fn a_session_that_is_cut_inside_of_a_large_transaction(server) {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let mut writer: Box<dyn SinkWriter> = world.writer().await;
        let small = world.changes(&["INSERT INTO t VALUES (0)"]).await;
        let stored = writer.apply(&small).await.unwrap();
        let large = world.changes(&["INSERT INTO t SELECT generate_series(1, 1000)"]).await;
        assert_eq!(writer.apply(&large[..600]).await.unwrap(), None);
        let pid = world.backends("apply").await[0];
        world.client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
        let error = writer.apply(&large[600..]).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        drop(writer);
        let mut writer = world.writer().await;
        assert_eq!(writer.progress().await.unwrap(), stored);
        writer.apply(&large[..600]).await.unwrap();
        writer.apply(&large[600..]).await.unwrap();
        world.assert_equal().await;
    }

    async fn sessions_that_the_server_does_not_miss(server) {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let proxy = FaultProxy::start(([127, 0, 0, 1], server.port()).into()).await.unwrap();
        let url = server.url(&world.name);
        let ours = world.process(&url.replace(&server.port().to_string(), &proxy.port().to_string()));
        let routes = world.routes().await;
        let mut lease = ours.lease(&world.run).await.unwrap();
        let mut writer = ours.writer(&world.run, &routes).await.unwrap();
        writer.apply(&world.changes(&["INSERT INTO t VALUES (1)"]).await).await.unwrap();
        let holders = [world.backends("lease").await, world.backends("apply").await];
        proxy.abandon();
        let more = world.changes(&["INSERT INTO t VALUES (2)"]).await;
        assert!(writer.apply(&more).await.unwrap_err().is_transient());
        drop(writer);
        lease.keep().await.unwrap();
        let mut writer = ours.writer(&world.run, &routes).await.unwrap();
        writer.apply(&more).await.unwrap();
        world.assert_equal().await;
        assert_ne!(holders, [world.backends("lease").await, world.backends("apply").await]);
    }

    async fn a_call_that_is_given_up_half_way(server) {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let mut writer = world.writer().await;
        let events = world.changes(&["INSERT INTO t SELECT generate_series(1, 1000)"]).await;
        let given_up = tokio::time::timeout(Duration::ZERO, writer.apply(&events)).await;
        assert!(given_up.is_err());
        let error = writer.apply(&events).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0411"), "{error}");
        drop(writer);
        let mut writer = world.writer().await;
        writer.apply(&events).await.unwrap();
        world.assert_equal().await;
    }
}

/// A server that loses what nobody waited for, when it crashes. Nothing is written behind our back:
/// neither by whoever writes the log from time to time, which is stopped, nor with pages.
async fn forgetful() -> &'static Postgres {
    let install = find_postgres().pop().expect("a server: scripts/setup test");
    let options = PgOptions::new()
        .set("wal_writer_delay", "10s")
        .set("wal_writer_flush_after", "1GB")
        .set("bgwriter_lru_maxpages", "0")
        .set("autovacuum", "off");
    let server: &'static Postgres =
        Box::leak(Box::new(Postgres::start(&install, options).await.unwrap()));
    signal_log_writer(server, "-STOP").await;
    server
}

async fn signal_log_writer(server: &Postgres, signal: &str) {
    let sql = "SELECT pid::text FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    let mut pid = None;
    wait_until("the log writer", PATIENCE, async || {
        pid = server.query_text("postgres", sql).await.ok().flatten();
        pid.is_some()
    })
    .await
    .unwrap();
    let sent = std::process::Command::new("kill").args([signal, &pid.unwrap()]).status();
    assert!(sent.unwrap().success());
}

/// Kills one of the server's processes: all of them start again, with what is on disk.
async fn crash(world: &World) {
    let other = world.server.connect(&world.name).await.unwrap();
    signal_log_writer(world.server, "-9").await;
    wait_until("the sessions to be gone", PATIENCE, async || {
        other.query_one("SELECT 1", &[]).await.is_err()
    })
    .await
    .unwrap();
    wait_until("the server to be back", PATIENCE, async || {
        world.server.query_text(&world.name, "SELECT 1").await.is_ok()
    })
    .await
    .unwrap();
    signal_log_writer(world.server, "-STOP").await;
}

async fn rows(world: &World) -> String {
    let sql = "SELECT string_agg(id::text, ',' ORDER BY id) FROM dst.t";
    world.server.query_text(&world.name, sql).await.unwrap().unwrap_or_default()
}

async fn open(world: &World, routes: &[Route]) -> Box<dyn SinkWriter> {
    world.green.writer(&world.run, routes).await.unwrap()
}

/// Rows and position that nobody waited for come and go together, and whatever is said to be
/// durable is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_on_disk_yet_is_forgotten_as_a_whole() {
    let mut world = World::with(forgetful().await, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut parts = Vec::new();
    for i in 1..=6 {
        parts.push(world.changes(&[&format!("INSERT INTO t VALUES ({i})")]).await);
    }
    let ends: Vec<_> = parts.iter().map(|part| Some(end(part))).collect();
    let routes = world.routes().await;
    let mut writer = open(&world, &routes).await;
    assert_eq!(writer.apply(&parts[0]).await.unwrap(), ends[0]);
    assert_eq!(writer.apply_soon(&parts[1]).await.unwrap(), ends[0], "what is durable");
    assert_eq!(rows(&world).await, "1,2", "others see it at once");
    crash(&world).await;
    assert_eq!(rows(&world).await, "1");
    writer = open(&world, &routes).await;
    assert_eq!(writer.progress().await.unwrap(), ends[0]);

    writer.apply_soon(&parts[1]).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), ends[1]);
    crash(&world).await;
    writer = open(&world, &routes).await;
    assert_eq!(writer.progress().await.unwrap(), ends[1]);

    // A new writer says nothing that is not on disk.
    writer.apply_soon(&parts[2]).await.unwrap();
    drop(writer);
    writer = open(&world, &routes).await;
    assert_eq!(writer.progress().await.unwrap(), ends[2]);
    crash(&world).await;
    writer = open(&world, &routes).await;
    assert_eq!(writer.progress().await.unwrap(), ends[2]);

    // A position that is stored already, and changes that are applied already.
    writer.apply_soon(&parts[3]).await.unwrap();
    writer.store(ends[3].as_ref().unwrap()).await.unwrap();
    crash(&world).await;
    writer = open(&world, &routes).await;
    assert_eq!(writer.progress().await.unwrap(), ends[3]);
    writer.apply_soon(&parts[4]).await.unwrap();
    assert_eq!(writer.apply(&parts[4]).await.unwrap(), ends[4]);
    crash(&world).await;
    writer = open(&world, &routes).await;
    assert_eq!(writer.progress().await.unwrap(), ends[4]);

    // One that waits makes durable what is before it.
    writer.apply_soon(&parts[5]).await.unwrap();
    let mut early = writer.early().await.unwrap().unwrap();
    early.write(7, &[]).await.unwrap();
    let later = cutover_core::model::position::Position::Postgres { timeline: 1, lsn: 1 << 40 };
    assert!(early.commit(&later).await.unwrap());
    crash(&world).await;
    writer = open(&world, &routes).await;
    assert_eq!(writer.progress().await.unwrap(), Some(later));
    assert_eq!(rows(&world).await, "1,2,3,4,5,6");
    signal_log_writer(world.server, "-CONT").await;
}
