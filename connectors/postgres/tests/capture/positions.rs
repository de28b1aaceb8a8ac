//! Confirming, resuming, idle databases, and what a server keeps.

use std::time::{Duration, Instant};

use cutover_core::{
    model::{event::Event, position::Position},
    port::source::Source,
};
use cutover_sandbox::wait_until;

use crate::world::{PATIENCE, World, show};

fn lsn(position: &Position) -> u64 {
    let Position::Postgres { lsn, .. } = position;
    *lsn
}

async fn confirmed(w: &World) -> u64 {
    let name = w.run.object_name();
    let text = w
        .text(&format!(
            "select (confirmed_flush_lsn - '0/0')::text from pg_replication_slots \
             where slot_name = '{name}'"
        ))
        .await;
    text.parse().unwrap()
}

fn commits(events: &[Event]) -> Vec<Position> {
    events
        .iter()
        .filter_map(|e| match e {
            Event::Commit { position } => Some(position.clone()),
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_resumes_after_any_commit_without_gap_or_overlap() {
    for w in World::everywhere("resume").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        for i in 0..10 {
            w.sql(&format!("insert into t values ({i})")).await;
        }
        let events = w.drain(&mut tap).await;
        let positions = commits(&events);
        assert_eq!(positions.len(), 10);
        for (i, position) in positions.iter().enumerate() {
            drop(tap);
            tap = w.tap_from(Some(position)).await;
            let rows: Vec<_> =
                show(&w.drain(&mut tap).await).into_iter().filter(|l| l.starts_with('+')).collect();
            let want: Vec<_> = (i + 1..10).map(|n| format!("+ public.t {n}")).collect();
            assert_eq!(rows, want, "after commit {i} on PostgreSQL {}", w.server.major());
            // Nothing was confirmed but what it was asked to go on from: a status message says
            // that much at most.
            assert!(confirmed(&w).await <= lsn(position));
        }
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_confirmed_is_forgotten() {
    for w in World::everywhere("confirm").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        for i in 0..3 {
            w.sql(&format!("insert into t values ({i})")).await;
        }
        let positions = commits(&w.drain(&mut tap).await);
        tap.stream.confirm(&positions[1]);
        wait_until("the slot to move", PATIENCE, async || {
            confirmed(&w).await == lsn(&positions[1])
        })
        .await
        .unwrap();
        // Another timeline is another history.
        tap.stream.confirm(&Position::Postgres { timeline: 99, lsn: lsn(&positions[2]) });
        drop(tap);
        let mut tap = w.tap_from(None).await;
        assert_eq!(confirmed(&w).await, lsn(&positions[1]));
        let rows = show(&w.drain(&mut tap).await);
        assert!(rows.contains(&"+ public.t 2".to_owned()), "{rows:?}");
        assert!(!rows.contains(&"+ public.t 1".to_owned()), "{rows:?}");
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_database_reports_how_far_its_log_was_read() {
    for w in World::everywhere("idle").await {
        w.sql("create table t (id int primary key); create table beside (id int)").await;
        let tables: Vec<_> = w.tables().await.into_iter().filter(|t| t.name.name == "t").collect();
        let start = w.db.capture(&w.run, &tables, false).await.unwrap().start;
        let mut tap = w.tap_from(Some(&start)).await;
        w.sql("insert into beside select generate_series(1, 50000)").await;
        let target = w.db.head().await.unwrap();
        let before = w.db.retained(&w.run).await.unwrap().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let reached = loop {
            assert!(Instant::now() < deadline, "the position does not move");
            // The log of a table that is not followed must not pile up either.
            w.db.emit("test", "heartbeat").await.unwrap();
            let events = tap.next().await.unwrap();
            let last = events.iter().rev().find_map(|e| match e {
                Event::Idle { position } | Event::Commit { position } => Some(position.clone()),
                _ => None,
            });
            if let Some(position) = last {
                tap.stream.confirm(&position);
                if position.covers(&target) == Ok(true) {
                    break position;
                }
            }
        };
        wait_until("the slot to move", PATIENCE, async || confirmed(&w).await >= lsn(&reached))
            .await
            .unwrap();
        wait_until("the log to be given up", PATIENCE, async || {
            // A checkpoint logs the running transactions, which lets the slot move.
            w.sql("checkpoint").await;
            w.db.emit("test", "heartbeat").await.unwrap();
            if let Ok(events) = tap.next().await
                && let Some(p) = commits(&events).last()
            {
                tap.stream.confirm(p);
            }
            w.db.retained(&w.run).await.unwrap().unwrap() < before
        })
        .await
        .unwrap();
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_is_worth_another_try() {
    for w in World::everywhere("broken").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        w.sql("insert into t values (1)").await;
        let positions = commits(&w.drain(&mut tap).await);
        let name = w.run.object_name();
        w.sql(&format!(
            "select pg_terminate_backend(active_pid) from pg_replication_slots \
             where slot_name = '{name}'"
        ))
        .await;
        let e = tap.error().await;
        assert!(e.is_transient(), "{e}");
        assert!(tap.next().await.is_err());
        w.sql("insert into t values (2)").await;
        let mut tap = w.tap_from(positions.last()).await;
        let rows = show(&w.drain(&mut tap).await);
        assert!(rows.contains(&"+ public.t 2".to_owned()));
        assert!(!rows.contains(&"+ public.t 1".to_owned()));
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_loses_nothing_and_the_server_stays_content() {
    let w = World::newest("slow").await;
    w.sql("create table t (id int primary key, v text)").await;
    w.sql("alter database slow set wal_sender_timeout = '1s'").await;
    let mut tap = w.tap().await;
    let client = w.client().await;
    // More than the queue holds, in small transactions.
    for i in 0..600 {
        client
            .batch_execute(&format!(
                "insert into t select {i} * 1000 + i, repeat('v', 100) \
                 from generate_series(0, 999) i"
            ))
            .await
            .unwrap();
    }
    // Nobody reads for several times the patience of the server.
    let start = Instant::now();
    wait_until("four seconds to pass", PATIENCE, async || start.elapsed() > Duration::from_secs(4))
        .await
        .unwrap();
    let rows = show(&w.drain(&mut tap).await).iter().filter(|l| l.starts_with('+')).count();
    assert_eq!(rows, 600_000);
    w.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn release_leaves_nothing_and_can_be_repeated() {
    for w in World::everywhere("release").await {
        w.sql("create table t (id int primary key)").await;
        let tap = w.tap().await;
        let left = "select (select count(*) from pg_replication_slots where slot_name = \
                    'cutover_release') + (select count(*) from pg_publication)";
        assert_eq!(w.text(left).await, "2");
        // The stream is still open: the slot is in use.
        w.release().await;
        assert_eq!(w.text(left).await, "0");
        w.release().await;
        drop(tap);
    }
}
