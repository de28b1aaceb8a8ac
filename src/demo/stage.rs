//! Two servers, a pooler, a shop and a configuration, all in temporary folders.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use cutover::error::Failure;
use cutover_sandbox::{
    find_pgbouncer,
    shop::{self, Books, CUTOVER_PASSWORD, LoadView, ShopSize, StageOptions},
};
use serde_json::Value;
use tokio::process::{Child, Command};

/// Everything the demo stands on. Dropping it stops and removes it.
pub(super) struct Stage {
    program: PathBuf,
    folder: tempfile::TempDir,
    pub(super) shop: shop::Stage,
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

impl Stage {
    pub(super) async fn set(program: PathBuf, size: ShopSize) -> Result<Self, Failure> {
        let missing = |what: &str| {
            Failure::new(format!("{what} is not installed"))
                .remedy("run `make demo` as root once, or `sudo scripts/setup demo`")
        };
        if find_pgbouncer().is_none() {
            return Err(missing("PgBouncer"));
        }
        let (blue, green) =
            shop::old_and_new().ok_or_else(|| missing("a second version of PostgreSQL"))?;
        let options =
            StageOptions { blue, green, size, durable: true, databases: Default::default() };
        let shop = shop::Stage::set(&options)
            .await
            .map_err(|e| Failure::new("the servers cannot be started").caused_by(&e))?;
        let folder = tempfile::Builder::new()
            .prefix("cutover-demo-")
            .tempdir()
            .map_err(|e| Failure::new("a temporary folder cannot be made").caused_by(&e))?;
        let stage = Self { program, folder, shop };
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
            self.shop.blue.port(),
            self.shop.green.port(),
            self.shop.pooler.admin_url(),
            self.shop.pooler.config_path().display(),
        )
    }

    fn ours(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("-c")
            .arg(self.config())
            .env("CUTOVER_DEMO", CUTOVER_PASSWORD)
            .env("CUTOVER_DEMO_POOLER", self.shop.pooler.admin_password())
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
        super::books(&self.shop.green, view).await
    }
}
