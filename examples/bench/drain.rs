//! A backlog of small transactions, beside PostgreSQL's own subscription.

use std::time::{Duration, Instant};

use cutover_sandbox::Postgres;

use crate::{
    Result, argument,
    cpu::Cpu,
    figures::{load, machine},
    program::Program,
    servers::{both, green_alone, one, same_rows, tool, yaml},
};

const WITHIN: Duration = Duration::from_secs(600);
const SCALE: u32 = 10;

/// A workload: name, tables, pgbench's script; `None` is TPC-B.
struct Workload {
    name: &'static str,
    tables: &'static [&'static str],
    /// Whether a row of the backlog is there.
    first: &'static str,
    script: Option<&'static str>,
}

const WORKLOADS: [Workload; 2] = [
    Workload {
        name: "tpcb",
        tables: &["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"],
        first: "SELECT EXISTS (SELECT 1 FROM pgbench_history)",
        script: None,
    },
    Workload {
        name: "mixed",
        tables: &["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"],
        first: "SELECT EXISTS (SELECT 1 FROM t0 WHERE id > 50000)",
        script: Some(
            "\\set n random(1, 1000000000)
             \\set insert random(0, 9)
             \\set update random(0, 9)
             \\set delete random(0, 9)
             \\set one random(1, 50000)
             \\set two random(1, 50000)
             \\set kind random(1, 10)
             BEGIN;
             INSERT INTO t:insert (amount, note) VALUES (:kind + 0.5, 'note ' || :n);
             UPDATE t:update SET amount = amount + 1, changed_at = now() WHERE id = :one;
             \\if :kind <= 3
             DELETE FROM t:delete WHERE id = :two;
             \\else
             UPDATE t:delete SET note = 'changed ' || :n, body = jsonb_build_object('n', :n)
                 WHERE id = :two;
             \\endif
             COMMIT;",
        ),
    },
];

pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let transactions: u32 = argument(arguments, 0, 100_000)?;
    let which: String = argument(arguments, 1, "both".into())?;
    let mut first = true;
    for workload in WORKLOADS.iter().filter(|w| which == "both" || which == w.name) {
        let (blue, green) = both().await?;
        // A server of its own: with another origin on green our watcher has to read what we write.
        let native = green_alone().await?;
        if std::mem::take(&mut first) {
            println!("{}", machine(&blue, &green));
        }
        measure(&blue, &green, &native, workload, transactions).await?;
    }
    if first {
        return Err(format!("there is no workload {which}").into());
    }
    Ok(())
}

async fn fill(blue: &Postgres, workload: &Workload) -> Result<()> {
    blue.create_database("bench").await?;
    if workload.script.is_none() {
        tool("pgbench", blue, "bench", &["-i", "-q", "-s", &SCALE.to_string()]).await?;
        // It has no key.
        blue.execute("bench", "ALTER TABLE pgbench_history REPLICA IDENTITY FULL").await?;
    } else {
        for table in workload.tables {
            blue.execute(
                "bench",
                &format!(
                    "CREATE TABLE {table} (id bigserial PRIMARY KEY, amount numeric NOT NULL,
                         note text NOT NULL, changed_at timestamptz, body jsonb);
                     INSERT INTO {table} (amount, note)
                         SELECT 1.5, 'note ' || i FROM generate_series(1, 50000) i"
                ),
            )
            .await?;
        }
    }
    blue.execute("bench", "CREATE TABLE last (id int PRIMARY KEY)").await?;
    blue.execute("bench", "VACUUM (ANALYZE)").await?;
    Ok(())
}

async fn measure(
    blue: &Postgres,
    green: &Postgres,
    other: &Postgres,
    workload: &Workload,
    transactions: u32,
) -> Result<()> {
    fill(blue, workload).await?;
    green.create_database("ours").await?;
    other.create_database("native").await?;
    subscribe(blue, other).await?;
    let program = Program::new(&yaml(blue, green, "ours", 2), &[])?;
    let running = program.start()?;
    program
        .until("streaming", WITHIN, |s| s["phase"] == "streaming" && s["lag"]["bytes"].is_u64())
        .await?;
    running.stop().await?;

    let before: u64 = one(blue, "bench", "SELECT pg_current_wal_lsn() - '0/0'").await?.parse()?;
    let each = (transactions / 8).to_string();
    let mut options = vec!["-n", "-c", "8", "-j", "2", "-t", &each];
    let file = tempfile::NamedTempFile::new()?;
    if let Some(script) = workload.script {
        std::fs::write(file.path(), script)?;
        options.extend(["-f", file.path().to_str().ok_or("no path")?]);
    }
    tool("pgbench", blue, "bench", &options).await?;
    blue.execute("bench", "INSERT INTO last VALUES (1)").await?;
    let after: u64 = one(blue, "bench", "SELECT pg_current_wal_lsn() - '0/0'").await?.parse()?;
    let transactions = transactions / 8 * 8;
    println!(
        "{}: {transactions} transactions, {} MiB of log",
        workload.name,
        (after - before) >> 20
    );
    for server in [blue, green, other] {
        server.execute("postgres", "CHECKPOINT").await?;
    }

    let cpu = Cpu::now(blue, green, None);
    let began = Instant::now();
    let running = program.start()?;
    let first = arrives(green, "ours", workload.first).await? - began;
    let ours = arrives(green, "ours", LAST).await? - began;
    let cpu = Cpu::now(blue, green, running.id()).since(cpu);
    report("cutover", transactions, first, ours, cpu);
    running.stop().await?;

    let cpu = Cpu::now(blue, other, None);
    let began = Instant::now();
    other.execute("native", "ALTER SUBSCRIPTION native ENABLE").await?;
    let first = arrives(other, "native", workload.first).await? - began;
    let native = arrives(other, "native", LAST).await? - began;
    report("subscription", transactions, first, native, Cpu::now(blue, other, None).since(cpu));
    for (server, database) in [(green, "ours"), (other, "native")] {
        same_rows(blue, server, database, workload.tables).await?;
    }
    println!(
        "{:>14}{:.2} times as fast; load {}",
        "",
        native.as_secs_f64() / ours.as_secs_f64(),
        load()
    );
    Ok(())
}

/// The subscription with its first rows, disabled.
pub(crate) async fn subscribe(blue: &Postgres, green: &Postgres) -> Result<()> {
    let schema = tool("pg_dump", blue, "bench", &["--schema-only", "--no-owner"]).await?;
    // Newer versions of pg_dump write commands of psql around.
    let schema: String =
        schema.lines().filter(|l| !l.starts_with('\\')).map(|l| format!("{l}\n")).collect();
    green.execute("native", &schema).await?;
    blue.execute("bench", "CREATE PUBLICATION native FOR TABLES IN SCHEMA public").await?;
    green
        .execute(
            "native",
            &format!(
                "CREATE SUBSCRIPTION native CONNECTION
                 'host={} port={} user={} password={} dbname=bench' PUBLICATION native",
                blue.host(),
                blue.port(),
                blue.user(),
                blue.password()
            ),
        )
        .await?;
    let open = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
    let deadline = Instant::now() + WITHIN;
    while one(green, "native", open).await? != "0" {
        if Instant::now() > deadline {
            return Err("the subscription does not get its first rows".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    green.execute("native", "ALTER SUBSCRIPTION native DISABLE").await?;
    Ok(())
}

/// The row written after the backlog is there.
const LAST: &str = "SELECT EXISTS (SELECT 1 FROM last)";

/// When this was true.
pub(crate) async fn arrives(green: &Postgres, database: &str, sql: &str) -> Result<Instant> {
    let client = green.connect(database).await?;
    let deadline = Instant::now() + WITHIN;
    loop {
        let row = client.query_one(sql, &[]).await?;
        if row.get(0) {
            return Ok(Instant::now());
        }
        if Instant::now() > deadline {
            return Err(format!("the backlog does not arrive in {database}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn report(who: &str, transactions: u32, first: Duration, took: Duration, cpu: Cpu) {
    println!(
        "{who:>12}: {:.2} s (first change after {:.2} s), {:.0} transactions/s; processor: source \
         {:.2} s, target {:.2} s, itself {:.2} s",
        took.as_secs_f64(),
        first.as_secs_f64(),
        f64::from(transactions) / took.as_secs_f64(),
        cpu.blue,
        cpu.green,
        cpu.program
    );
}
