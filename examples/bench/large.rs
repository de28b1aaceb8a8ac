//! One large transaction: how long after its COMMIT it is on green, beside CREATE SUBSCRIPTION.

use std::time::{Duration, Instant};

use cutover_sandbox::Postgres;

use crate::{
    Result, argument,
    cpu::{Cpu, peak_mib},
    drain::{arrives, subscribe},
    figures::{load, machine},
    program::Program,
    servers::{both, same_rows, yaml},
};

const WITHIN: Duration = Duration::from_secs(600);

pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let rows: u64 = argument(arguments, 0, 2_000_000)?;
    let seconds = Duration::from_secs(argument(arguments, 1, 0)?);
    let (blue, green) = both().await?;
    println!("{}", machine(&blue, &green));
    blue.create_database("bench").await?;
    blue.execute(
        "bench",
        "CREATE TABLE big (id bigint PRIMARY KEY, a int NOT NULL, note text NOT NULL);
         CREATE TABLE last (id int PRIMARY KEY)",
    )
    .await?;
    for database in ["ours", "native"] {
        green.create_database(database).await?;
    }
    let program = Program::new(&yaml(&blue, &green, "ours", 2), &[])?;
    let running = program.start()?;
    let streaming = |s: &serde_json::Value| s["phase"] == "streaming" && s["lag"]["bytes"].is_u64();
    program.until("streaming", WITHIN, streaming).await?;
    let before = Cpu::now(&blue, &green, running.id());
    let took = transaction(&blue, &green, "ours", 0, rows, seconds).await?;
    let cpu = Cpu::now(&blue, &green, running.id()).since(before);
    println!(
        "cutover: {rows} rows in {:.1} s, on green {:.2} s after COMMIT; processor: blue {:.1} s, \
         green {:.1}, itself {:.1}; memory at most {:.0} MiB",
        took.0.as_secs_f64(),
        took.1.as_secs_f64(),
        cpu.blue,
        cpu.green,
        cpu.program,
        peak_mib(running.id())?
    );
    same_rows(&blue, &green, "ours", &["big"]).await?;
    program.command(&["abort", "--yes"]).await?;
    drop(running);

    subscribe(&blue, &green).await?;
    let modes = if green.major() >= 16 { &["on", "parallel"][..] } else { &["on"] };
    for (i, mode) in (1..).zip(modes) {
        let set = format!("ALTER SUBSCRIPTION native SET (streaming = {mode})");
        green.execute("native", &set).await?;
        green.execute("native", "ALTER SUBSCRIPTION native ENABLE").await?;
        let before = Cpu::now(&blue, &green, None);
        let took = transaction(&blue, &green, "native", i * rows, rows, seconds).await?;
        let cpu = Cpu::now(&blue, &green, None).since(before);
        println!(
            "subscription, streaming = {mode}: {rows} rows in {:.1} s, on green {:.2} s after \
             COMMIT; processor: blue {:.1} s, green {:.1}",
            took.0.as_secs_f64(),
            took.1.as_secs_f64(),
            cpu.blue,
            cpu.green
        );
        green.execute("native", "ALTER SUBSCRIPTION native DISABLE").await?;
    }
    same_rows(&blue, &green, "native", &["big"]).await?;
    println!("load {}", load());
    Ok(())
}

/// Statements of a client that takes its time.
const STATEMENTS: u64 = 200;

/// Writes the rows behind `from` in one transaction that takes at least `lasting`: how long it took, and how long after its
/// COMMIT the last one was seen in `database` on green.
async fn transaction(
    blue: &Postgres,
    green: &Postgres,
    database: &str,
    from: u64,
    rows: u64,
    lasting: Duration,
) -> Result<(Duration, Duration)> {
    for server in [blue, green] {
        server.execute("postgres", "CHECKPOINT").await?;
    }
    let last = from + rows;
    let seen = format!("SELECT EXISTS (SELECT 1 FROM big WHERE id = {last})");
    let client = blue.connect("bench").await?;
    let began = Instant::now();
    let statements = if lasting.is_zero() { 1 } else { STATEMENTS };
    client.batch_execute("BEGIN").await?;
    for n in 0..statements {
        let part = |n| from + rows * n / statements;
        let (first, end) = (part(n) + 1, part(n + 1));
        client
            .batch_execute(&format!(
                "INSERT INTO big SELECT i, i % 1000, 'note ' || i
                 FROM generate_series({first}::bigint, {end}) i"
            ))
            .await?;
        let due = lasting.mul_f64((n + 1) as f64 / statements as f64);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    client.batch_execute("COMMIT").await?;
    let committed = Instant::now();
    let there = arrives(green, database, &seen).await?;
    Ok((committed - began, there.saturating_duration_since(committed)))
}
