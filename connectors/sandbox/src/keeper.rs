//! The process between us and a server, so that nothing we started outlives us.
//!
//! A small shell in a process group of its own starts the server and listens to a pipe. When the
//! other end closes, because we are done, were killed or crashed, it stops the server and removes
//! its folder. Ctrl-C in a terminal does not reach it. It does not know when a server is ready.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use crate::{SandboxError, owner::Owner, process};

/// Reads one order per line: `start`, or `kill SIGNAL PID...`. At the end of input it cleans up.
const SCRIPT: &str = r#"
folder=$1 signal=$2; shift 2
pid=
clean() {
    trap '' HUP INT TERM EXIT
    parent=
    [ -z "$pid" ] || read -r _ _ _ parent _ 2>/dev/null <"/proc/$pid/stat"
    if [ "$parent" = $$ ]; then
        below=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null)
        kill -s "$signal" "$pid" 2>/dev/null
        kill -s CONT "$pid" $below 2>/dev/null
        tries=0
        while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 400 ]; do
            tries=$((tries + 1)); sleep 0.02
        done
        [ "$tries" -lt 400 ] || kill -s KILL "$pid" $below 2>/dev/null
    fi
    tries=0
    until rm -rf "$folder" 2>/dev/null || [ "$tries" -ge 50 ]; do
        tries=$((tries + 1)); sleep 0.1
    done
    exit 0
}
trap clean HUP INT TERM EXIT
cd /
while read -r order rest; do
    case $order in
    start)
        [ -z "$pid" ] || wait "$pid" 2>/dev/null
        "$@" >>"$folder/log" 2>&1 </dev/null &
        pid=$!
        echo "$pid" ;;
    kill)
        set -f
        if kill -s $rest 2>/dev/null; then echo yes; else echo no; fi ;;
    esac
done
"#;

/// A folder and at most one running server, both gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
    shell: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pid: Option<u32>,
}

impl Keeper {
    /// Creates the folder and the shell; `server` is what [`Keeper::start`] will start, given the
    /// folder. `signal` is the one that ends it for good.
    pub(crate) fn new(
        owner: Owner,
        signal: &str,
        server: impl FnOnce(&Path) -> Vec<String>,
    ) -> Result<Self, SandboxError> {
        let folder = owner.temporary_folder("cutover-")?;
        let mut command: Command = owner.command("/bin/sh", &folder);
        command.args(["-c", SCRIPT, "cutover-keeper"]).arg(&folder).arg(signal);
        command.args(server(&folder));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.process_group(0);
        let mut shell = command.spawn().map_err(SandboxError::io("run /bin/sh"))?;
        let orders = shell.stdin.take();
        let answers = shell.stdout.take().map(BufReader::new).ok_or_else(|| SandboxError::Io {
            what: "read from /bin/sh".to_owned(),
            source: std::io::ErrorKind::BrokenPipe.into(),
        })?;
        Ok(Self { folder, shell, orders, answers, pid: None })
    }

    /// The temporary folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the server has printed so far.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Empties the log, so that the next start is judged by its own words.
    pub(crate) fn forget_log(&self) -> Result<(), SandboxError> {
        let path = self.folder.join("log");
        match File::options().write(true).truncate(true).open(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(SandboxError::io(format!("empty {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Starts the server; nothing is known yet about whether it answers.
    pub(crate) fn start(&mut self) -> Result<(), SandboxError> {
        let answer = self.ask("start")?;
        let pid = answer.parse().map_err(|_| SandboxError::Io {
            what: format!("start a server: the shell answered {answer:?}"),
            source: std::io::ErrorKind::InvalidData.into(),
        })?;
        self.pid = Some(pid);
        Ok(())
    }

    /// The server's process, when it is alive.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid.filter(|pid| process::is_alive(*pid))
    }

    /// Sends a signal to the server alone; does nothing when it has ended.
    pub(crate) fn signal(&mut self, signal: &str) -> Result<(), SandboxError> {
        match self.pid() {
            Some(pid) => self.signal_all(signal, &[pid]),
            None => Ok(()),
        }
    }

    /// Ends the server and everything below it at once, as a power cut would.
    pub(crate) async fn kill9(&mut self, limit: Duration) -> Result<(), SandboxError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // Stopped first, so that it starts no more; once it is dead its children cannot be found.
        self.signal_all("STOP", &[pid])?;
        let mut all = process::descendants(pid);
        all.push(pid);
        self.signal_all("KILL", &all)?;
        process::wait_gone("a killed server to be gone", &all, limit).await
    }

    /// Freezes the server and everything below it.
    pub(crate) fn pause(&mut self) -> Result<(), SandboxError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        self.signal_all("STOP", &[pid])?;
        match process::descendants(pid) {
            below if below.is_empty() => Ok(()),
            below => self.signal_all("STOP", &below),
        }
    }

    /// Thaws what [`Keeper::pause`] froze.
    pub(crate) fn resume(&mut self) -> Result<(), SandboxError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let mut all = process::descendants(pid);
        all.push(pid);
        self.signal_all("CONT", &all)
    }

    /// Waits until the server and everything below it has ended by itself.
    pub(crate) async fn wait_end(
        &self,
        what: &str,
        below: &[u32],
        limit: Duration,
    ) -> Result<(), SandboxError> {
        let mut all = below.to_vec();
        all.extend(self.pid());
        process::wait_gone(what, &all, limit).await
    }

    /// A process that ended in between is no error.
    fn signal_all(&mut self, signal: &str, pids: &[u32]) -> Result<(), SandboxError> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        self.ask(&format!("kill {signal} {}", pids.join(" "))).map(drop)
    }

    fn ask(&mut self, order: &str) -> Result<String, SandboxError> {
        let Some(orders) = self.orders.as_mut() else { return Ok(String::new()) };
        let mut answer = String::new();
        writeln!(orders, "{order}")
            .and_then(|()| self.answers.read_line(&mut answer))
            .map_err(SandboxError::io("talk to the shell that keeps a server"))?;
        Ok(answer.trim().to_owned())
    }
}

impl Drop for Keeper {
    /// Takes as long as the server takes to end (about 0.1 s).
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Err(error) = self.shell.wait() {
            tracing::warn!(%error, folder = %self.folder.display(), "the keeper was not reaped");
        }
    }
}
