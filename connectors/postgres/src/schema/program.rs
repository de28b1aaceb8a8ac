//! Which `pg_dump`, and running it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use cutover_core::port::{Result, error::PortError};
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};

use super::script::Section;
use crate::{
    connect::{Session, port_error},
    database::Database,
};

/// No `pg_dump` fits.
const NO_PROGRAM: &str = "CUT0303";
/// `pg_dump` failed.
const FAILED: &str = "CUT0304";

/// How long clients may keep us from reading the definitions of their tables.
const LOCKED_WITHIN: Duration = Duration::from_secs(60);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// How long `pg_dump --version` may take.
const VERSION_PATIENCE: Duration = Duration::from_secs(10);

/// A `pg_dump` on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PgDump {
    pub(super) path: PathBuf,
    pub(super) version: String,
    major: u32,
}

/// The best `pg_dump` for both servers.
pub(super) async fn find(folder: Option<&Path>, blue: u32, green: u32) -> Result<PgDump> {
    let mut found = Vec::new();
    for path in candidates(folder) {
        found.extend(examine(path).await);
    }
    let seen: BTreeSet<u32> = found.iter().map(|p| p.major).collect();
    choose(found, blue, green).ok_or_else(|| {
        let seen: Vec<String> = seen.iter().map(ToString::to_string).collect();
        let has = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
        PortError::definite(
            NO_PROGRAM,
            "looking for pg_dump",
            format!("blue is PostgreSQL {blue}, and an older pg_dump cannot read it; found: {has}"),
            format!(
                "install the client programs of PostgreSQL {green} (Debian: apt-get install \
                 postgresql-client-{green}), set CUTOVER_PG_BIN to their folder, or use \
                 `schema: provided`"
            ),
        )
    })
}

/// Not older than blue, or it refuses. Of those the newest that is not newer than green, since a
/// newer one may write what green does not know; else the oldest.
fn choose(found: Vec<PgDump>, blue: u32, green: u32) -> Option<PgDump> {
    let fits = |p: &&PgDump| p.major >= blue;
    let known = found.iter().filter(fits).filter(|p| p.major <= green).max_by_key(|p| p.major);
    known.or_else(|| found.iter().filter(fits).min_by_key(|p| p.major)).cloned()
}

fn candidates(folder: Option<&Path>) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let named = env::var_os("CUTOVER_PG_BIN").map(PathBuf::from);
    match folder.map(Path::to_owned).or(named) {
        Some(folder) => folders.push(folder),
        None => {
            // Filled by the project's own set-up of throwaway servers.
            let cache = env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
            let servers = [
                env::var_os("CUTOVER_SERVERS").map(PathBuf::from),
                cache.map(|cache| cache.join("cutover/servers")),
                Some("/var/cache/cutover/servers".into()),
                // Debian and Ubuntu, then Red Hat.
                Some("/usr/lib/postgresql".into()),
                Some("/usr".into()),
            ];
            for parent in servers.into_iter().flatten() {
                let only = if parent == Path::new("/usr") { "pgsql-" } else { "" };
                folders.extend(children(&parent, only).into_iter().map(|c| c.join("bin")));
            }
            let path = env::var_os("PATH").unwrap_or_default();
            folders.extend(env::split_paths(&path).filter(|p| p.is_absolute()));
        }
    }
    let mut programs = Vec::new();
    for program in folders.iter().filter_map(|f| f.join("pg_dump").canonicalize().ok()) {
        // Debian's wrapper of that name picks a version by rules of its own.
        if program.ends_with("pg_dump") && !programs.contains(&program) {
            programs.push(program);
        }
    }
    programs
}

fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|e| e.file_name().to_string_lossy().starts_with(prefix))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

async fn examine(path: PathBuf) -> Option<PgDump> {
    let asked = Command::new(&path)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(VERSION_PATIENCE, asked).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (version, major) = version_of(&text)?;
    Some(PgDump { path, version, major })
}

/// `pg_dump (PostgreSQL) 17.11 (Debian ...)` → `17.11` and 17.
fn version_of(text: &str) -> Option<(String, u32)> {
    let version = text.split("(PostgreSQL)").nth(1)?.split_whitespace().next()?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((version.to_owned(), digits.parse().ok()?))
}

impl PgDump {
    /// Sections of the definitions as a script, read beside clients that change them.
    ///
    /// `pg_dump` locks all its tables, and may wait for one that a client holds, who then waits for
    /// another. It gives up before the server looks for a deadlock in the client's session, which
    /// would be the one to lose; then it is tried again. Its own limit is for its `LOCK TABLE` only,
    /// so we look as well: what it reads later waits for tables too.
    pub(super) async fn dump(
        &self,
        blue: &Database,
        session: &Session,
        sections: &[Section],
        arguments: &[String],
    ) -> Result<String> {
        let half = "SELECT greatest(setting::int8 / 2, 1) FROM pg_settings \
                    WHERE name = 'deadlock_timeout'";
        let row = session.query_one(half, &[]).await;
        let row = row.map_err(|e| port_error("reading deadlock_timeout of blue", e))?;
        let half: i64 = row.get(0);
        let wait = format!("--lock-wait-timeout={half}");
        let deadline = Instant::now() + LOCKED_WITHIN;
        loop {
            let once = self.once(blue, &wait, sections, arguments);
            let once = tokio::select! {
                once = once => once?,
                never = hurry(blue, session, half) => return Err(never),
            };
            match once {
                Ok(script) => return Ok(script),
                Err(held) if Instant::now() >= deadline => return Err(held),
                Err(held) => tracing::debug!("{held}; trying again"),
            }
            sleep(PAUSE).await;
        }
    }

    /// One try. The credentials travel in the environment only. The inner error is that somebody
    /// holds a table.
    async fn once(
        &self,
        blue: &Database,
        wait: &str,
        sections: &[Section],
        arguments: &[String],
    ) -> Result<Result<String>> {
        let doing =
            format!("reading the definitions of {} with pg_dump {}", blue.side, self.version);
        let mut command = Command::new(&self.path);
        for (name, _) in env::vars_os() {
            // A password file or service of the user must not decide where we connect.
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        let output = command
            .args(["--format=plain", "--encoding=UTF8", "--schema-only", "--no-tablespaces"])
            .args(["--no-publications", "--no-subscriptions", "--no-password"])
            .arg(wait)
            .args(sections.iter().map(|section| format!("--section={}", section.word())))
            .args(arguments)
            .envs(blue.config.child_env())
            .env("PGAPPNAME", blue.application(DUMPS))
            .env("PGOPTIONS", blue.startup_options())
            // What it says is read.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|e| {
                let what = format!("{} could not be started", self.path.display());
                PortError::definite(NO_PROGRAM, doing.as_str(), what, "install it again")
                    .caused_by(e)
            })?;
        if output.status.success() {
            let script = String::from_utf8(output.stdout).map_err(|e| {
                let what = "its output is not UTF-8";
                PortError::definite(FAILED, doing, what, "report this").caused_by(e)
            })?;
            return Ok(Ok(script));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let failure = failure(&doing, &said);
        if is_held(&said) { Ok(Err(failure)) } else { Err(failure) }
    }
}

/// What a `pg_dump` of ours calls itself.
const DUMPS: &str = "dump";

/// Cancels what a `pg_dump` of ours does while it waits for a lock for so many milliseconds. Ends
/// only with an error.
async fn hurry(blue: &Database, session: &Session, within: i64) -> PortError {
    // It holds a lock on every table, so locks are listed only while it waits for one.
    let cancel = "SELECT pg_cancel_backend(a.pid) FROM pg_stat_activity a \
                  WHERE a.wait_event_type = 'Lock' AND a.application_name = left($1, 63) \
                    AND a.usename = current_user AND a.datname = current_database() \
                    AND (SELECT min(l.waitstart) FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted) \
                        < clock_timestamp() - $2::int8 * interval '1 ms'";
    let name = blue.application(DUMPS);
    let pause = Duration::from_millis(u64::try_from(within / 5).unwrap_or_default().max(10));
    loop {
        sleep(pause).await;
        if let Err(e) = session.query(cancel, &[&name, &within]).await {
            return port_error("watching what pg_dump waits for on blue", e);
        }
    }
}

/// What the server says to a `pg_dump` that waits for a table, if it speaks English.
const HELD: [&str; 4] = [
    "canceling statement due to user request",
    "canceling statement due to statement timeout",
    "canceling statement due to lock timeout",
    "deadlock detected",
];

/// Whether somebody held a table. A server may speak another language: then whatever keeps us from
/// locking may pass.
fn is_held(said: &str) -> bool {
    let locking = said.contains("LOCK TABLE") && !said.contains("permission denied");
    locking || HELD.iter().any(|held| said.contains(held))
}

fn failure(doing: &str, said: &str) -> PortError {
    let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(4)..].join(" / ");
    // The last: they were dropped since their names were read.
    let passing = [
        "connection to server",
        "could not connect",
        "server closed the connection",
        "no matching tables were found",
    ];
    // A connection that only this program cannot make: it will not make the next one either.
    let never = ["certificate", "private key file", "does not support SSL"];
    let never = never.iter().any(|word| tail.contains(word));
    let passes = passing.iter().chain(&HELD).any(|p| tail.contains(p));
    if passes && !never && !tail.contains("FATAL") {
        return PortError::transient(doing, tail);
    }
    let remedy = if passes && never {
        "make certificate and key such that `psql` of this machine connects with them: a file for \
         sslrootcert (`system` is known from 16 on), a key that only its owner may read"
    } else {
        "grant what is missing (docs/GRANTS.md lists the grants), or exclude the object"
    };
    PortError::definite(FAILED, doing, tail, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_older_than_blue_and_rather_not_newer_than_green() {
        let found = |majors: &[u32]| -> Vec<PgDump> {
            let one = |m: &u32| PgDump { path: "p".into(), version: m.to_string(), major: *m };
            majors.iter().map(one).collect()
        };
        for (majors, blue, green, want) in [
            (&[14, 15, 16, 17, 18][..], 14, 17, Some(17)),
            (&[15, 18][..], 14, 17, Some(15)),
            (&[18][..], 14, 17, Some(18)),
            (&[16, 18][..], 17, 17, Some(18)),
            (&[18, 17][..], 14, 15, Some(17)),
            (&[14, 15][..], 16, 17, None),
            (&[][..], 16, 17, None),
        ] {
            let chosen = choose(found(majors), blue, green).map(|p| p.major);
            assert_eq!(chosen, want, "{majors:?} for {blue} to {green}");
        }
    }

    #[test]
    fn versions() {
        let said = "pg_dump (PostgreSQL) 17.11 (Debian 17.11-0+deb13u1)\n";
        assert_eq!(version_of(said), Some(("17.11".into(), 17)));
        assert_eq!(version_of("pg_dump (PostgreSQL) 19beta1"), Some(("19beta1".into(), 19)));
        assert_eq!(version_of("nonsense"), None);
    }

    #[test]
    fn a_lost_connection_is_worth_another_try() {
        let lost = "pg_dump: error: connection to server at \"x\", port 1 failed: refused";
        assert!(failure("x", lost).is_transient());
        for never in [
            "connection to server at \"h\" failed: root certificate file \"system\" does not exist",
            "connection to server at \"h\" failed: private key file \"k\" has group or world access",
        ] {
            let error = failure("x", never);
            assert_eq!(error.code(), Some(FAILED));
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("psql")), "{error}");
        }
        let login = "pg_dump: error: connection to server failed: FATAL:  no such role";
        assert_eq!(failure("x", login).code(), Some(FAILED));
        let grant = "pg_dump: error: query failed: ERROR:  permission denied for table t\n\
                     pg_dump: detail: Query was: LOCK TABLE public.t IN ACCESS SHARE MODE";
        assert_eq!(failure("x", grant).code(), Some(FAILED));
        assert!(!is_held(grant));
        let held = grant.replace("permission denied for table t", HELD[0]);
        assert!(is_held(&held) && failure("x", &held).is_transient());
        assert!(is_held(&grant.replace("permission denied for", "Verklemmung bei")));
    }
}
