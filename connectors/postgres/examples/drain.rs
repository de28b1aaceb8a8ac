//! How fast a backlog of small transactions drains, beside PostgreSQL's own subscription.
//!
//! `cargo run --release -p cutover-postgres --example drain -- [TRANSACTIONS] [SCALE] [MAJOR]`
//!
//! Two throwaway servers with fsync, pgbench's TPC-B as the load. Needs `pgbench` (`scripts/setup
//! bench`). `BATCH` sets the size of a call in KiB, `SKIP_NATIVE` leaves the subscription out.
#![allow(clippy::print_stdout, missing_docs)]

mod measure;

use std::{
    env,
    time::{Duration, Instant},
};

use cutover_core::{
    model::{event::Event, position::Position, run::RunId, selection::Selection, side::Side},
    port::{
        sink::{Route, Sink},
        source::Source,
    },
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres, wait_until};

use measure::{Cpu, Result, pgbench};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut number = |default: u32| -> Result<u32> {
        arguments.next().map_or(Ok(default), |text| Ok(text.parse()?))
    };
    let (transactions, scale, major) = (number(200_000)?, number(10)?, number(15)?);
    let batch: usize = env::var("BATCH").map_or(Ok(1024), |text| text.parse())?;
    let install = find_postgres().into_iter().find(|i| i.major == major).ok_or("no such server")?;
    let options = || {
        PgOptions::new()
            .durable()
            .set("shared_buffers", "512MB")
            .set("max_wal_size", "8GB")
            .set("checkpoint_timeout", "1h")
            .set("autovacuum", "off")
    };
    let blue = Postgres::start(&install, options()).await?;
    let green = Postgres::start(&install, options()).await?;
    for (server, database) in [(&blue, "bench"), (&green, "ours"), (&green, "native")] {
        server.create_database(database).await?;
        pgbench(server, database, &["-i", "-q", "-s", &scale.to_string()])?;
    }
    blue.execute("bench", "ALTER TABLE pgbench_history REPLICA IDENTITY FULL").await?;

    let run = RunId::new("drain")?;
    let spill = env::temp_dir().join("cutover-drain");
    let source =
        Database::new(PgConfig::parse(&blue.url("bench"), None)?, Side::Blue, run.clone(), &spill);
    let sink =
        Database::new(PgConfig::parse(&green.url("ours"), None)?, Side::Green, run.clone(), &spill);
    let selection = Selection::default();
    let tables = source.tables(&selection).await?;
    let start = source.capture(&run, &tables, false).await?.start;
    let native = env::var_os("SKIP_NATIVE").is_none();
    if native {
        blue.execute("bench", "CREATE PUBLICATION native FOR ALL TABLES").await?;
        green
            .execute(
                "native",
                &format!(
                    "CREATE SUBSCRIPTION native CONNECTION 'host={} port={} user={} password={} dbname=bench'
                     PUBLICATION native WITH (copy_data = false, enabled = false)",
                    blue.host(), blue.port(), blue.user(), blue.password()
                ),
            )
            .await?;
    }
    let clients = 8;
    let each = (transactions / clients).to_string();
    pgbench(&blue, "bench", &["-n", "-c", "8", "-j", "2", "-t", &each])?;
    let transactions = transactions / clients * clients;
    let end = source.head().await?;
    println!(
        "PostgreSQL {major}, {transactions} transactions, scale {scale}, calls of {batch} KiB"
    );

    sink.prepare(&run).await?;
    let targets = sink.tables(&selection).await?;
    let routes: Vec<Route> =
        targets.into_iter().map(|t| Route { source: t.name.clone(), target: t }).collect();
    let before = Cpu::now(&blue, &green);
    let ours = drain(&source, &sink, &run, &routes, &start, &end, batch << 10).await?;
    report("cutover", transactions, ours, &before, &Cpu::now(&blue, &green));
    if native {
        let before = Cpu::now(&blue, &green);
        let began = Instant::now();
        green.execute("native", "ALTER SUBSCRIPTION native ENABLE").await?;
        let client = blue.connect("bench").await?;
        let Position::Postgres { lsn, .. } = end;
        let lsn = i64::try_from(lsn)?;
        wait_until("the subscription", Duration::from_secs(600), async || {
            let asked = client
                .query_one(
                    "SELECT coalesce(bool_or(confirmed_flush_lsn - '0/0' >= $1::bigint::numeric), false)
                       FROM pg_replication_slots WHERE slot_name = 'native'",
                    &[&lsn],
                )
                .await;
            asked.is_ok_and(|row| row.get(0))
        })
        .await?;
        let native = began.elapsed();
        report("subscription", transactions, native, &before, &Cpu::now(&blue, &green));
        println!("{:.2} times as fast", native.as_secs_f64() / ours.as_secs_f64());
    }
    for table in ["pgbench_accounts", "pgbench_branches", "pgbench_history"] {
        let sums =
            format!("SELECT count(*) || ' ' || sum(hashtext(t::text)::bigint) FROM {table} t");
        let want = blue.query_text("bench", &sums).await?;
        if green.query_text("ours", &sums).await? != want {
            return Err(format!("{table} differs").into());
        }
    }
    Ok(())
}

async fn drain(
    source: &Database,
    sink: &Database,
    run: &RunId,
    routes: &[Route],
    start: &Position,
    end: &Position,
    budget: usize,
) -> Result<Duration> {
    let began = Instant::now();
    let mut stream = source.stream(run, Some(start)).await?;
    let mut writer = sink.writer(run, routes).await?;
    let mut events: Vec<Event> = Vec::new();
    let (mut waiting, mut applying, mut calls) = (Duration::ZERO, Duration::ZERO, 0);
    loop {
        let at = Instant::now();
        cutover_testkit::next_inline(&mut *stream, &mut events).await?;
        waiting += at.elapsed();
        while let Some(whole) = cut(&events, budget) {
            let at = Instant::now();
            let stored = writer.apply(&events[..whole]).await?;
            applying += at.elapsed();
            calls += 1;
            events.drain(..whole);
            if let Some(stored) = stored {
                stream.confirm(&stored);
            }
        }
        let done = |p: &Position| p.covers(end).unwrap_or(false);
        let idle = events.iter().any(|e| matches!(e, Event::Idle { position } if done(position)));
        if idle || writer.progress().await?.as_ref().is_some_and(done) {
            println!("  {calls} calls, waited {waiting:?} for the source, applied in {applying:?}");
            return Ok(began.elapsed());
        }
    }
}

/// Whole transactions of about this size.
fn cut(events: &[Event], budget: usize) -> Option<usize> {
    let mut bytes = 0;
    let mut whole = None;
    for (i, event) in events.iter().enumerate() {
        bytes += event.bytes();
        if matches!(event, Event::Commit { .. }) {
            whole = Some(i + 1);
            if bytes > budget {
                break;
            }
        }
    }
    whole
}

fn report(who: &str, transactions: u32, took: Duration, before: &Cpu, after: &Cpu) {
    let rate = f64::from(transactions) / took.as_secs_f64();
    println!("{who:>12}: {:.2} s, {rate:.0} transactions/s", took.as_secs_f64());
    println!(
        "{:>12}  processor: source {:.2} s, target {:.2} s, this process {:.2} s",
        "",
        after.source - before.source,
        after.target - before.target,
        after.own - before.own
    );
}
