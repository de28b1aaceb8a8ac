//! The program as a user runs it: a configuration, `cutover run`, and commands.

use std::{
    env, fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::Result;

/// A configuration in a folder of its own, which is removed in the end.
pub(crate) struct Program {
    path: PathBuf,
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

/// `cutover run` in the background; killed when it is dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn id(&self) -> Option<u32> {
        self.0.id()
    }

    /// Ends it as Ctrl-C does.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.id() {
            Command::new("kill").args(["-INT", &pid.to_string()]).status().await?;
        }
        tokio::time::timeout(Duration::from_secs(30), self.0.wait())
            .await
            .map_err(|_| "`cutover run` did not stop")??;
        Ok(())
    }
}

impl Program {
    /// `yaml` is everything but `state_dir`, which is in the folder.
    pub(crate) fn new(yaml: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let path = match env::var_os("CUTOVER") {
            Some(path) => PathBuf::from(path),
            None => env::current_exe()?
                .parent()
                .and_then(|examples| examples.parent())
                .map(|release| release.join("cutover"))
                .unwrap_or_default(),
        };
        if !path.is_file() {
            return Err(format!("{} is missing: cargo build --release", path.display()).into());
        }
        let folder = tempfile::Builder::new().prefix("cutover-bench-").tempdir()?;
        fs::write(folder.path().join("cutover.yaml"), yaml)?;
        let environment =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Ok(Self { path, folder, environment })
    }

    fn ours(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .arg("-c")
            .arg(self.folder.path().join("cutover.yaml"))
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts `cutover run`.
    pub(crate) fn start(&self) -> Result<Running> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let child = self.ours().args(["run", "--yes"]).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Running(child))
    }

    /// Runs a command with `--json`: its exit status, its data, and what it said.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Result<(i32, Value, String)> {
        let output = self.ours().args(arguments).arg("--json").output().await?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok((output.status.code().unwrap_or(-1), value, said))
    }

    /// The same, when it must succeed.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Result<Value> {
        match self.ask(arguments).await? {
            (0, value, _) => Ok(value),
            (exit, _, said) => Err(self
                .broken(&format!("`cutover {}` ended with {exit}: {said}", arguments.join(" ")))),
        }
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn until(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let began = Instant::now();
        let mut last = Value::Null;
        while began.elapsed() < within {
            if let Ok((0, status, _)) = self.ask(&["status"]).await {
                if wanted(&status) {
                    return Ok(());
                }
                last = status;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(self.broken(&format!("not {what} within {within:?}: {last}")))
    }

    /// Waits until the run's journal holds this kind of fact; returns when it was seen.
    pub(crate) async fn noted(&self, fact: &str, within: Duration) -> Result<Instant> {
        let path = self.folder.path().join("state/run.journal");
        let line = format!("\"fact\":\"{fact}\"");
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let journal = fs::read(&path).unwrap_or_default();
            if String::from_utf8_lossy(&journal).contains(&line) {
                return Ok(Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(self.broken(&format!("no fact {fact} within {within:?}")))
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("run.log")
    }

    /// An error with the end of the log.
    pub(crate) fn broken(&self, what: &str) -> Box<dyn std::error::Error> {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{what}\n{}", lines[lines.len().saturating_sub(20)..].join("\n")).into()
    }
}
