//! How fast changes arrive. Run in release mode, with the figures printed:
//! `cargo test --release -p cutover-postgres --test capture -- --ignored --nocapture rate`
#![allow(clippy::print_stdout, reason = "a measurement says what it measured")]

use std::time::{Duration, Instant};

use cutover_core::model::event::Event;

use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_on_an_idle_stream_arrives_at_once() {
    let w = World::newest("latency").await;
    w.sql("create table t (id serial primary key)").await;
    let client = w.client().await;
    let mut tap = w.tap().await;
    let (mut waits, mut trips) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let client = &client;
        let write = async {
            client.batch_execute("insert into t default values").await.unwrap();
            Instant::now()
        };
        let read = async {
            loop {
                let events = tap.next().await.unwrap();
                if events.iter().any(|e| matches!(e, Event::Commit { .. })) {
                    return Instant::now();
                }
            }
        };
        let (written, arrived) = tokio::join!(write, read);
        waits.push(arrived.saturating_duration_since(written));
        let asked = Instant::now();
        client.batch_execute("select 1").await.unwrap();
        trips.push(asked.elapsed());
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (wait, trip) = (median(waits), median(trips));
    println!("commit to consumer: median {wait:?}; question to answer: {trip:?}");
    // Far above what it takes, far below a pause that somebody put into the path. Where others have
    // the machine, every process on the way waits for its turn as those of a question do.
    assert!(wait < Duration::from_millis(5) + 4 * trip, "{wait:?}, {trip:?}");
    w.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, for release mode"]
async fn small_rows_per_second() {
    const ROWS: usize = 1_000_000;
    for w in World::everywhere("throughput").await {
        w.sql("create table t (id int primary key, a int, b text, c timestamptz default now())")
            .await;
        let start = w.capture().await.start;
        for i in 0..100 {
            w.sql(&format!(
                "insert into t select i, i, 'some text of a row ' || i from generate_series({}, {}) i",
                i * ROWS / 100,
                (i + 1) * ROWS / 100 - 1
            ))
            .await;
        }
        let began = Instant::now();
        let before = cpu();
        let mut tap = w.tap_from(Some(&start)).await;
        let mut rows = 0;
        while rows < ROWS {
            rows +=
                tap.next().await.unwrap().iter().filter(|e| matches!(e, Event::Row { .. })).count();
        }
        let (took, ours) = (began.elapsed(), cpu() - before);
        println!(
            "PostgreSQL {}: {:.0} rows/s received; {:.0} rows/s per second of our processor time",
            w.server.major(),
            ROWS as f64 / took.as_secs_f64(),
            ROWS as f64 / ours.as_secs_f64()
        );
        assert!(ROWS as f64 / ours.as_secs_f64() >= 200_000.0, "too much work per row");
        w.release().await;
    }
}

/// Processor time of this process, at a hundredth of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
