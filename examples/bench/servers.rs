//! Two servers with the same settings, and the programs of PostgreSQL that fill them.

use std::{env, process::Stdio};

use cutover_sandbox::{PgInstall, PgOptions, Postgres, find_program, postgres, shop};
use tokio::process::Command;

use crate::Result;

/// The versions to measure with.
pub(crate) fn installs() -> Result<(PgInstall, PgInstall)> {
    let chosen = |name: &str| -> Result<Option<PgInstall>> {
        Ok(match env::var(name) {
            Ok(major) => Some(postgres(major.parse()?)?),
            Err(_) => None,
        })
    };
    let usual = shop::old_and_new();
    let pick = |chosen: Option<PgInstall>, usual: Option<&PgInstall>| -> Result<PgInstall> {
        chosen.or(usual.cloned()).ok_or_else(|| "no PostgreSQL here: scripts/setup bench".into())
    };
    Ok((
        pick(chosen("BENCH_BLUE")?, usual.as_ref().map(|u| &u.0))?,
        pick(chosen("BENCH_GREEN")?, usual.as_ref().map(|u| &u.1))?,
    ))
}

/// Blue and green, fsync on, with the settings of somebody who loads much.
pub(crate) async fn both() -> Result<(Postgres, Postgres)> {
    let (blue, _) = installs()?;
    // On green it would make a subscription of 18 log a conflict for every row it did not write.
    let blue = Postgres::start(&blue, options().set("track_commit_timestamp", "on")).await?;
    Ok((blue, green_alone().await?))
}

/// One more green.
pub(crate) async fn green_alone() -> Result<Postgres> {
    Ok(Postgres::start(&installs()?.1, options()).await?)
}

fn options() -> PgOptions {
    PgOptions::new()
        .durable()
        .set("shared_buffers", "1GB")
        .set("maintenance_work_mem", "256MB")
        .set("max_wal_size", "8GB")
        .set("checkpoint_timeout", "30min")
        .set("autovacuum", "off")
        .set("max_connections", "200")
}

/// A configuration for two databases, with superusers and without a switch.
pub(crate) fn yaml(blue: &Postgres, green: &Postgres, target: &str, workers: usize) -> String {
    format!(
        "run: bench\n\
         state_dir: ./state\n\
         blue: {{ url: \"{}\" }}\n\
         green: {{ url: \"{}\" }}\n\
         tables: {{ include: [\"public.*\"] }}\n\
         copy: {{ workers: {workers} }}\n\
         verify: {{ continuous: false }}\n\
         http: {{ listen: \"127.0.0.1:0\" }}\n",
        blue.url("bench"),
        green.url(target),
    )
}

/// Runs a program of PostgreSQL against a database to its end; returns what it printed.
pub(crate) async fn tool(
    name: &str,
    server: &Postgres,
    database: &str,
    arguments: &[&str],
) -> Result<String> {
    let program = find_program(name, Some(server.major()))
        .or_else(|| find_program(name, None))
        .ok_or_else(|| format!("{name} is missing: scripts/setup bench"))?;
    let done = Command::new(program.path)
        .args(arguments)
        .args(["-h", server.host(), "-p", &server.port().to_string(), "-U", server.user()])
        .arg(database)
        .env("PGPASSWORD", server.password())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    Err(format!("{name}: {}", String::from_utf8_lossy(&done.stderr)).into())
}

/// The answer to a question with one.
pub(crate) async fn one(server: &Postgres, database: &str, sql: &str) -> Result<String> {
    Ok(server.query_text(database, sql).await?.unwrap_or_default())
}

/// Fails when a table of `bench` on blue and of `database` on green differ in count or content.
pub(crate) async fn same_rows(
    blue: &Postgres,
    green: &Postgres,
    database: &str,
    tables: &[&str],
) -> Result<()> {
    for table in tables {
        let sums = format!(
            "SELECT count(*) || ' ' || coalesce(sum(hashtext(t::text)::bigint), 0) FROM {table} t"
        );
        let (want, have) = (one(blue, "bench", &sums).await?, one(green, database, &sums).await?);
        if want != have {
            return Err(format!("{table} differs in {database}: {want} and {have}").into());
        }
    }
    Ok(())
}
