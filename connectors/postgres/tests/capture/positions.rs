//! Confirming, resuming, idle databases, and what a server keeps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cutover_core::{
    model::{event::Event, position::Position},
    port::{primary::Primary, source::Source},
};
use cutover_sandbox::wait_until;

use crate::world::{PATIENCE, Tap, World, show};

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

/// The server would be silent about all that commits until its log is as long again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_behind_the_end_of_the_log_is_one_that_was_lost() {
    for w in World::everywhere_and_standbys("set-back").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        w.sql("insert into t values (1)").await;
        let last = commits(&w.drain(&mut tap).await).pop().unwrap();
        drop(tap);
        drop(w.tap_from(Some(&last)).await);
        let Position::Postgres { timeline, lsn } = w.db.head().await.unwrap();
        // Other tests write to the server meanwhile.
        let lost = Position::Postgres { timeline, lsn: lsn + (1 << 40) };
        let e = w.db.stream(&w.run, Some(&lost)).await.map(drop).unwrap_err();
        assert_eq!(e.code(), Some("CUT0216"), "PostgreSQL {}: {e}", w.server.major());
        assert!(e.to_string().contains("earlier state"), "{e}");
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
    // A whole machine that stands still for some seconds is no reason to end a stream.
    w.sql("alter database slow set wal_sender_timeout = '8s'").await;
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
    // Nobody reads for more than twice the patience of the server.
    let start = Instant::now();
    wait_until("twenty seconds to pass", PATIENCE, async || {
        start.elapsed() > Duration::from_secs(20)
    })
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

/// A message that is written with the closing of the fence is the end of what others have written
/// whenever the position that comes with it says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_closes_the_fence_is_behind_every_write_that_its_position_covers() {
    for w in World::everywhere("closing").await {
        w.sql("create table t (id bigint generated always as identity primary key)").await;
        let tables = w.tables().await;
        w.db.install_fence(&w.run, &tables).await.unwrap();
        w.db.warm_up().await.unwrap();
        let mut tap = w.tap().await;

        // Nobody writes: no other marker is needed. Other tests do, to other databases of the server, so
        // that the moment has to be met.
        let mut tries = 0;
        while !close(&w, &mut tap, &format!("quiet {tries}")).await.0 {
            tries += 1;
            assert!(tries < 50, "PostgreSQL {}", w.server.major());
            w.db.open_to_clients(&w.run).await.unwrap();
        }

        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for _ in 0..3 {
            let (client, stop) = (w.client().await, Arc::clone(&stop));
            writers.push(tokio::spawn(async move {
                // The lock goes long before the disk has it.
                client.batch_execute("set synchronous_commit = off").await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let _refused = client.batch_execute("insert into t default values").await;
                }
            }));
        }
        let mut read = 0;
        for n in 0..10 {
            w.db.open_to_clients(&w.run).await.unwrap();
            let rows = w.text("select count(*) from t").await;
            wait_until("rows to come in", PATIENCE, async || {
                w.text("select count(*) from t").await != rows
            })
            .await
            .unwrap();
            let (covers, events) = close(&w, &mut tap, &format!("busy {n}")).await;
            read += inserts(&events);
            if !covers {
                read += inserts(&w.drain(&mut tap).await);
            }
            assert_eq!(w.text("select count(*) from t").await, read.to_string(), "{covers}");
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        w.db.remove_fence(&w.run).await.unwrap();
        w.release().await;
    }
}

/// Closes the fence, and reads up to the message that comes with it: whether that covers all that
/// others have written, and what was read.
async fn close(w: &World, tap: &mut Tap, message: &str) -> (bool, Vec<Event>) {
    let closing = w.db.close_with_message(&w.run, PATIENCE, "test", message);
    let position = closing.await.unwrap().expect("a position");
    let mut events = Vec::new();
    let reached = loop {
        events.extend(tap.next().await.unwrap());
        let written = |e: &Event| matches!(e, Event::Message { content, .. } if content == message);
        if let Some(at) = events.iter().position(written)
            && let Some(reached) = commits(&events[at..]).first().cloned()
        {
            break reached;
        }
    };
    (reached.covers(&position) == Ok(true), events)
}

fn inserts(events: &[Event]) -> usize {
    events.iter().filter(|e| matches!(e, Event::Row { .. })).count()
}
