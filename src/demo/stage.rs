//! Two servers, a pooler, a shop and a configuration, all in temporary folders.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use cutover::error::Failure;
use cutover_sandbox::{
    PgBouncer, PgBouncerOptions, PgInstall, PgOptions, Postgres, SandboxError, find_pgbouncer,
    find_postgres, find_program,
    shop::{self, Books, LoadView, ShopSize},
};
use serde_json::Value;
use tokio::process::{Child, Command};

/// Passwords of throwaway servers on loopback that live for a minute.
const SHOP: &str = "shop-password";
const CUTOVER: &str = "cutover-password";

/// Everything the demo stands on. Dropping it stops and removes it.
pub(super) struct Stage {
    program: PathBuf,
    folder: tempfile::TempDir,
    pub(super) blue: Postgres,
    pub(super) green: Postgres,
    pooler: PgBouncer,
}

/// How one of our commands ended.
pub(super) struct Ended {
    pub(super) exit: i32,
    pub(super) value: Value,
    said: String,
}

impl Ended {
    pub(super) fn expect_done(&self, name: &str) -> Result<(), Failure> {
        if self.exit == 0 {
            return Ok(());
        }
        Err(Failure::new(format!("`cutover {name}` ended with {}: {}", self.exit, self.said)))
    }
}

fn failed(what: &str) -> impl Fn(SandboxError) -> Failure {
    let what = what.to_owned();
    move |e| Failure::new(what.clone()).caused_by(&e)
}

impl Stage {
    pub(super) async fn set(program: PathBuf, size: ShopSize) -> Result<Self, Failure> {
        let (old, new) = versions()?;
        let start = async |install: &PgInstall| {
            let options = PgOptions::new().durable().set("max_connections", "200");
            Postgres::start(install, options).await.map_err(failed("starting PostgreSQL failed"))
        };
        let (blue, green) = (start(&old).await?, start(&new).await?);
        for server in [&blue, &green] {
            roles(server).await.map_err(failed("creating roles failed"))?;
        }
        let shop = connect(&blue.url_as("shop", SHOP, "shop")).await?;
        shop::fill(&shop, size).await.map_err(failed("filling the shop failed"))?;
        let options = PgBouncerOptions::new()
            .database("shop", "127.0.0.1", blue.port(), "shop")
            .user("shop", SHOP);
        let pooler =
            PgBouncer::start(options).await.map_err(failed("starting PgBouncer failed"))?;
        let folder = tempfile::Builder::new()
            .prefix("cutover-demo-")
            .tempdir()
            .map_err(|e| Failure::new("a temporary folder cannot be made").caused_by(&e))?;
        let stage = Self { program, folder, blue, green, pooler };
        std::fs::write(stage.config(), stage.yaml())
            .map_err(|e| Failure::new("the configuration cannot be written").caused_by(&e))?;
        Ok(stage)
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("cutover.yaml")
    }

    fn yaml(&self) -> String {
        format!(
            "run: demo\n\
             state_dir: ./state\n\
             blue: {{ url: \"postgres://cutover@127.0.0.1:{}/shop\", password: {{env: CUTOVER_DEMO}} }}\n\
             green: {{ url: \"postgres://cutover@127.0.0.1:{}/shop\", password: {{env: CUTOVER_DEMO}} }}\n\
             tables: {{ include: [\"public.*\"] }}\n\
             copy: {{ workers: 2 }}\n\
             switch:\n\
             \x20 - pgbouncer:\n\
             \x20     admin: \"{}\"\n\
             \x20     password: {{env: CUTOVER_DEMO_POOLER}}\n\
             \x20     database: shop\n\
             \x20     config: \"{}\"\n\
             http: {{ listen: \"127.0.0.1:0\" }}\n",
            self.blue.port(),
            self.green.port(),
            self.pooler.admin_url(),
            self.pooler.config_path().display(),
        )
    }

    pub(super) fn pooler_url(&self) -> String {
        self.pooler.url_as("shop", SHOP, "shop")
    }

    fn ours(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("-c")
            .arg(self.config())
            .env("CUTOVER_DEMO", CUTOVER)
            .env("CUTOVER_DEMO_POOLER", self.pooler.admin_password())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs one of our commands to its end.
    pub(super) async fn command(&self, arguments: &[&str]) -> Result<Ended, Failure> {
        let output = self
            .ours()
            .args(arguments)
            .output()
            .await
            .map_err(|e| Failure::new("this program cannot start itself").caused_by(&e))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok(Ended {
            exit: output.status.code().unwrap_or(-1),
            value: serde_json::from_slice(&output.stdout).unwrap_or_default(),
            said,
        })
    }

    /// Starts `cutover run` in the background.
    pub(super) fn start_run(&self) -> Result<Child, Failure> {
        let open = || std::fs::File::create(self.log_path());
        let log = open().map_err(|e| Failure::new("the log cannot be written").caused_by(&e))?;
        self.ours()
            .args(["run", "--yes"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| Failure::new("this program cannot start itself").caused_by(&e))
    }

    fn log_path(&self) -> PathBuf {
        Path::new(self.folder.path()).join("run.log")
    }

    /// The end of the run's log.
    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    pub(super) async fn check(&self, view: &LoadView) -> Result<Books, Failure> {
        super::books(&self.green, view).await
    }
}

/// The oldest and the newest PostgreSQL here, with a `pg_dump` that can read the older one.
fn versions() -> Result<(PgInstall, PgInstall), Failure> {
    let remedy = "run `make demo` as root once, or `sudo scripts/setup demo`";
    if find_pgbouncer().is_none() {
        return Err(Failure::new("PgBouncer is not installed").remedy(remedy));
    }
    let all = find_postgres();
    // Complete installations first: they are the ones people run.
    let mut complete: Vec<_> =
        all.iter().filter(|i| i.program("pg_dump").is_some()).cloned().collect();
    if complete.len() < 2 {
        complete = all;
    }
    complete.sort_by_key(|i| i.major);
    complete.dedup_by_key(|i| i.major);
    match (complete.first(), complete.last()) {
        (Some(old), Some(new)) if find_program("pg_dump", Some(old.major)).is_some() => {
            Ok((old.clone(), new.clone()))
        }
        _ => Err(Failure::new("PostgreSQL is not installed").remedy(remedy)),
    }
}

/// The application's role and ours, with no more rights than docs/GRANTS.md names.
async fn roles(server: &Postgres) -> Result<(), SandboxError> {
    server.create_role("shop", SHOP, "").await?;
    server.create_role("cutover", CUTOVER, "REPLICATION").await?;
    server.execute("postgres", "CREATE DATABASE shop OWNER shop").await?;
    let origin = if server.major() >= 15 {
        "GRANT SET ON PARAMETER session_replication_role TO cutover;"
    } else {
        "ALTER ROLE cutover SUPERUSER;"
    };
    server
        .execute(
            "shop",
            &format!(
                "GRANT shop, pg_monitor TO cutover;
                 GRANT CREATE ON DATABASE shop TO cutover;
                 GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text),
                     pg_replication_origin_drop(text), pg_replication_origin_oid(text),
                     pg_replication_origin_session_setup(text),
                     pg_replication_origin_session_reset(),
                     pg_replication_origin_session_is_setup(),
                     pg_replication_origin_progress(text, boolean),
                     pg_replication_origin_xact_setup(pg_lsn, timestamptz),
                     pg_replication_origin_xact_reset() TO cutover;
                 {origin}"
            ),
        )
        .await
}

async fn connect(url: &str) -> Result<tokio_postgres::Client, Failure> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .map_err(|e| Failure::new("connecting to the shop failed").caused_by(&e))?;
    tokio::spawn(async move {
        // The client's next statement says what happened.
        connection.await.ok();
    });
    Ok(client)
}
