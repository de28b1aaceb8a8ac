//! The first copy with indexes and constraints, beside `pgcopydb clone`.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use cutover_sandbox::Postgres;
use tokio::process::Command;

use crate::{
    Result, argument,
    cpu::Cpu,
    figures::{load, machine, quantile},
    program::Program,
    servers::{both, one, same_rows, tool, yaml},
};

const WITHIN: Duration = Duration::from_secs(900);
/// A table of more than this is copied in several ranges by raw COPY.
const LARGE: u64 = 64 << 20;
/// pgbench's tables, a wide one with large values, and many rows with several indexes.
const TABLES: [&str; 6] = [
    "pgbench_accounts",
    "pgbench_branches",
    "pgbench_tellers",
    "pgbench_history",
    "wide",
    "narrow",
];

const ONE: [&str; 1] = ["one"];

/// Fills `bench` on blue: about 21 MiB per unit of scale.
pub(crate) async fn fill(blue: &Postgres, scale: u32) -> Result<u64> {
    blue.create_database("bench").await?;
    tool("pgbench", blue, "bench", &["-i", "-q", "-s", &scale.to_string()]).await?;
    let (wide, narrow) = (scale * 1000, scale * 20_000);
    blue.execute(
        "bench",
        &format!(
            "CREATE TABLE wide (id bigint PRIMARY KEY, a int, b bigint, c numeric(20, 4), d text,
                 e timestamptz, f jsonb, g uuid, h boolean, i double precision, j date, k text[],
                 l bytea, m text, large text);
             INSERT INTO wide SELECT i, i % 1000, i * 7, i * 1.25, 'name ' || i,
                 '2026-01-01'::timestamptz + i * interval '1 second',
                 jsonb_build_object('n', i, 'tags', jsonb_build_array('a', 'b', i % 10)),
                 md5(i::text)::uuid, i % 2 = 0, i / 3.0, '2026-01-01'::date + i % 365,
                 ARRAY['x', 'y' || i], decode(md5(i::text), 'hex'), repeat(md5(i::text), 8),
                 CASE WHEN i % 20 = 0 THEN (SELECT string_agg(md5(i::text || j), '')
                     FROM generate_series(1, 600) j) END
             FROM generate_series(1, {wide}) i;
             CREATE INDEX ON wide (a);
             CREATE INDEX ON wide (e);
             CREATE INDEX ON wide USING gin (f);
             CREATE TABLE narrow (id bigint PRIMARY KEY, wide bigint NOT NULL REFERENCES wide,
                 amount numeric NOT NULL, code text NOT NULL UNIQUE);
             INSERT INTO narrow SELECT i, 1 + i % {wide}, i % 977 + 0.5, 'code-' || i
                 FROM generate_series(1, {narrow}) i;
             CREATE INDEX ON narrow (wide);
             INSERT INTO pgbench_history SELECT 1 + i % 10, 1, i, i % 100, now(), ''
                 FROM generate_series(1, {narrow}) i;
             ALTER TABLE pgbench_history REPLICA IDENTITY FULL;"
        ),
    )
    .await?;
    blue.execute("bench", "VACUUM (ANALYZE)").await?;
    bytes(blue, "pg_table_size").await
}

/// One table of about 21 MiB per unit of scale, with its primary key.
async fn fill_one(blue: &Postgres, scale: u32) -> Result<u64> {
    blue.create_database("bench").await?;
    let rows = scale * 100_000;
    blue.execute(
        "bench",
        &format!(
            "CREATE TABLE one (id bigint PRIMARY KEY, a int, b numeric, c timestamptz, d text);
             INSERT INTO one SELECT i, i % 1000, i * 1.25,
                 '2026-01-01'::timestamptz + i * interval '1 second', repeat(md5(i::text), 4)
             FROM generate_series(1, {rows}) i"
        ),
    )
    .await?;
    blue.execute("bench", "VACUUM (ANALYZE)").await?;
    bytes(blue, "pg_table_size").await
}

/// Rows alone: COPY to COPY by psql, ranges of large tables beside each other, no index.
async fn raw(blue: &Postgres, green: &Postgres, tables: &[&str], workers: usize) -> Result<()> {
    green.create_database("raw").await?;
    let mut jobs = Vec::new();
    for table in tables {
        let columns = "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), \
                       ', ') FROM pg_attribute WHERE attnum > 0 AND attrelid = ";
        let columns = one(blue, "bench", &format!("{columns} '{table}'::regclass")).await?;
        green.execute("raw", &format!("CREATE TABLE {table} ({columns})")).await?;
        let asked = format!(
            "SELECT pg_relation_size('{table}'), relpages FROM pg_class WHERE oid = '{table}'::regclass"
        );
        let row = blue.connect("bench").await?.query_one(&asked, &[]).await?;
        let (size, pages): (i64, i32) = (row.get(0), row.get(1));
        let parts = if size as u64 > LARGE { 2 * workers as u64 } else { 1 };
        let each = u64::from(pages.unsigned_abs()).div_ceil(parts);
        for part in 0..parts {
            let from = part * each;
            let to = if part + 1 == parts { u64::from(u32::MAX) } else { from + each };
            jobs.push(format!(
                "psql -qX '{}' -c \"COPY (SELECT * FROM {table} WHERE ctid >= '({from},0)' AND ctid \
                 < '({to},0)') TO STDOUT (FORMAT binary)\" | psql -qX '{}' -c \"COPY {table} FROM \
                 STDIN (FORMAT binary)\"",
                blue.url("bench"),
                green.url("raw"),
            ));
        }
    }
    for server in [blue, green] {
        server.execute("postgres", "CHECKPOINT").await?;
    }
    let began = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for job in jobs {
        while running.len() >= workers {
            running.join_next().await.ok_or("no job")???;
        }
        running.spawn(shell(job));
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    println!("raw COPY  {:>6.1} s: rows alone", began.elapsed().as_secs_f64());
    same_rows(blue, green, "raw", tables).await?;
    green.execute("postgres", "DROP DATABASE raw").await?;
    Ok(())
}

async fn shell(command: String) -> std::result::Result<(), String> {
    let done = Command::new("bash")
        .args(["-o", "pipefail", "-c", &command])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| e.to_string())?;
    if done.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

/// Everything: `pg_dump -j` into a folder, then `pg_restore -j` from it.
async fn dump_and_restore(
    blue: &Postgres,
    green: &Postgres,
    tables: &[&str],
    workers: usize,
) -> Result<()> {
    green.create_database("restored").await?;
    let folder = tempfile::tempdir()?;
    let dump = folder.path().join("dump");
    let path = dump.to_str().ok_or("no path")?;
    let jobs = workers.to_string();
    for server in [blue, green] {
        server.execute("postgres", "CHECKPOINT").await?;
    }
    let began = Instant::now();
    tool("pg_dump", blue, "bench", &["-Fd", "-Z0", "-j", &jobs, "-f", path]).await?;
    let dumped = began.elapsed();
    let target = format!("-d{}", green.url("restored"));
    tool("pg_restore", green, path, &["--no-owner", "-j", &jobs, &target]).await?;
    tool("vacuumdb", green, "restored", &["--analyze-only", "-q", "-j", &jobs]).await?;
    println!(
        "pg_dump, pg_restore, analyze {:.1} s: dump {:.1}",
        began.elapsed().as_secs_f64(),
        dumped.as_secs_f64()
    );
    same_rows(blue, green, "restored", tables).await?;
    green.execute("postgres", "DROP DATABASE restored").await?;
    Ok(())
}

/// Bytes of all tables by this function.
pub(crate) async fn bytes(blue: &Postgres, function: &str) -> Result<u64> {
    let sql = format!(
        "SELECT sum({function}(oid))::bigint FROM pg_class
          WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    );
    Ok(one(blue, "bench", &sql).await?.parse()?)
}

pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let scale: u32 = argument(arguments, 0, 50)?;
    let workers: usize = argument(arguments, 1, 2)?;
    let rounds: usize = argument(arguments, 2, 2)?;
    let which: String = argument(arguments, 3, "several".into())?;
    let (blue, green) = both().await?;
    let (bytes_of_tables, names): (u64, &[&str]) = match which.as_str() {
        "several" => (fill(&blue, scale).await?, &TABLES),
        "one" => (fill_one(&blue, scale).await?, &ONE),
        _ => return Err("several or one?".into()),
    };
    let tables = bytes_of_tables >> 20;
    let indexes = bytes(&blue, "pg_indexes_size").await? >> 20;
    let peer = pgcopydb().ok_or("pgcopydb is missing: scripts/setup bench")?;
    println!("{}", machine(&blue, &green));
    println!("{tables} MiB of tables, {indexes} MiB of indexes, {workers} workers; {}", peer.1);
    raw(&blue, &green, names, workers).await?;
    dump_and_restore(&blue, &green, names, workers).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Whoever is second finds the pages of blue warm: both are warm, and they take turns.
        for turn in 0..2 {
            let database = format!("copy{round}{turn}");
            green.create_database(&database).await?;
            for server in [&blue, &green] {
                server.execute("postgres", "CHECKPOINT").await?;
            }
            if (round + turn) % 2 == 0 {
                ours.push(cutover(&blue, &green, &database, workers).await?);
            } else {
                theirs.push(clone(&peer.0, &blue, &green, &database, workers).await?);
            }
            same_rows(&blue, &green, &database, names).await?;
            let counted = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'";
            let made = one(&green, &database, counted).await?;
            if made != one(&blue, "bench", counted).await? {
                return Err(format!("{database} has {made} indexes").into());
            }
            green.execute("postgres", &format!("DROP DATABASE {database}")).await?;
        }
    }
    let (a, b) = (quantile(&ours, 0.5), quantile(&theirs, 0.5));
    println!(
        "cutover {a:.1} s ({:.0} MiB/s), pgcopydb {b:.1} s ({:.0} MiB/s): {:.2} times as fast; \
         load {}",
        tables as f64 / a,
        tables as f64 / b,
        b / a,
        load()
    );
    Ok(())
}

/// Seconds from the start of the process until rows, indexes, constraints and statistics are
/// there.
async fn cutover(blue: &Postgres, green: &Postgres, target: &str, workers: usize) -> Result<f64> {
    let program = Program::new(&yaml(blue, green, target, workers), &[])?;
    let before = Cpu::now(blue, green, None);
    let began = Instant::now();
    let running = program.start()?;
    let copying = program.noted("copy_began", WITHIN).await?;
    let copied = program.noted("copy_ended", WITHIN).await?;
    let done = program.noted("definitions_after_rows", WITHIN).await?;
    let cpu = Cpu::now(blue, green, running.id()).since(before);
    let seconds = |a: Instant, b: Instant| (b - a).as_secs_f64();
    println!(
        "cutover   {:>6.1} s: before the rows {:.1}, rows {:.1}, indexes and the rest {:.1}; \
         processor: blue {:.1}, green {:.1}, itself {:.1}",
        seconds(began, done),
        seconds(began, copying),
        seconds(copying, copied),
        seconds(copied, done),
        cpu.blue,
        cpu.green,
        cpu.program
    );
    program.noted("way_back_armed", WITHIN).await?;
    let streaming = |s: &serde_json::Value| s["phase"] == "streaming";
    program.until("streaming", WITHIN, streaming).await?;
    program.command(&["abort", "--yes"]).await?;
    drop(running);
    Ok(seconds(began, done))
}

/// Seconds of `pgcopydb clone`.
async fn clone(
    program: &PathBuf,
    blue: &Postgres,
    green: &Postgres,
    target: &str,
    workers: usize,
) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let jobs = workers.to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let own = program.parent().map(|p| p.display().to_string()).unwrap_or_default();
    let before = Cpu::now(blue, green, None);
    let began = Instant::now();
    let mut child = Command::new(program)
        .args(["clone", "--table-jobs", &jobs, "--index-jobs", &jobs, "--restart", "--no-owner"])
        .args(["--source", &blue.url("bench"), "--target", &green.url(target)])
        .arg("--dir")
        .arg(folder.path())
        .env("PATH", format!("{own}:{path}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.path().with_extension("log"))?)
        .kill_on_drop(true)
        .spawn()?;
    let status = child.wait().await?;
    let took = began.elapsed().as_secs_f64();
    let cpu = Cpu::now(blue, green, None).since(before);
    let log = folder.path().with_extension("log");
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    std::fs::remove_file(log)?;
    if !status.success() {
        return Err(format!("pgcopydb: {status}\n{said}").into());
    }
    println!("pgcopydb  {took:>6.1} s; processor: blue {:.1}, green {:.1}", cpu.blue, cpu.green);
    Ok(took)
}

/// The newest pgcopydb here, and its version.
fn pgcopydb() -> Option<(PathBuf, String)> {
    let mut places: Vec<PathBuf> = cutover_sandbox::servers_folders()
        .into_iter()
        .map(|folder| folder.join("pgcopydb/bin/pgcopydb"))
        .collect();
    places.push("/usr/bin/pgcopydb".into());
    places.into_iter().find_map(|path| {
        let output = std::process::Command::new(&path).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find(|l| l.starts_with("pgcopydb version"))?.to_owned();
        Some((path, version))
    })
}
