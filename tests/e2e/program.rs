//! The program as a user has it: commands, a `cutover run` in the background, its journals.
#![allow(clippy::print_stderr, reason = "a failed story shows what the program said")]

use std::{
    ffi::CStr,
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use cutover::run::{command::Request, socket};
use cutover_sandbox::wait_for;
use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_cutover");
/// How long a command may take on a machine that has other things to do.
pub(crate) const COMMAND_WITHIN: Duration = Duration::from_secs(180);
/// How long a copy and the first comparison of a small shop may take.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(240);
/// The pause budget of stories that hold a transaction open.
pub(crate) const LONG_BUDGET: Duration = Duration::from_secs(20);

/// A folder with a configuration, from which commands are given. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk(Arc<Inner>);

struct Inner {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- cutover.yaml\n{}", read(&self.folder.path().join("cutover.yaml")));
            eprintln!(
                "--- the log of `cutover run`\n{}",
                read(&self.folder.path().join("run.log"))
            );
            let moves = read(&self.folder.path().join("state/moves.journal"));
            eprintln!("--- the journal of moves\n{}", moves.trim_end_matches('\0'));
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// Its exit status.
    pub(crate) exit: i32,
    /// What it printed with `--json`.
    pub(crate) value: Value,
    /// Both its outputs.
    pub(crate) said: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn exits(&self, wanted: i32) -> &Self {
        assert_eq!(self.exit, wanted, "{}", self.said);
        self
    }

    #[track_caller]
    pub(crate) fn says(&self, wanted: &str) -> &Self {
        assert!(self.said.contains(wanted), "{wanted:?} is not in: {}", self.said);
        self
    }

    #[track_caller]
    pub(crate) fn says_not(&self, unwanted: &str) -> &Self {
        assert!(!self.said.contains(unwanted), "{unwanted:?} is in: {}", self.said);
        self
    }

    /// Why a move was not made passes by itself: too far behind, an estimate or a pause over the
    /// budget, no answer in time, or the run prepares itself again.
    fn may_pass(&self) -> bool {
        let busy = ["close enough", "estimated", "budget", "within", "elapsed"];
        // Both are said after definitions that changed.
        let anew = ["looked at anew", "no full comparison", "before both streams have begun"];
        let why = self.value["why"].as_str().unwrap_or_default();
        self.said.contains("not possible yet") || busy.iter().chain(&anew).any(|b| why.contains(b))
    }
}

impl Desk {
    /// A new folder with `yaml` as its configuration. Commands see `environment`; its values are
    /// secrets, and a command that prints one fails the story.
    pub(crate) fn new(yaml: &str, environment: Vec<(String, String)>) -> Self {
        let folder = tempfile::Builder::new().prefix("cutover-e2e-").tempdir().expect("a folder");
        let desk = Self(Arc::new(Inner { folder, environment }));
        desk.configure(yaml);
        desk
    }

    /// Replaces the configuration; `FOLDER` in it becomes this folder.
    pub(crate) fn configure(&self, yaml: &str) {
        let yaml = yaml.replace("FOLDER", &self.folder().display().to_string());
        fs::write(self.folder().join("cutover.yaml"), yaml).expect("cutover.yaml is written");
    }

    /// A transaction that is held open on purpose, for however long that takes on a busy machine, is
    /// part of the estimate of a pause, and no reason to refuse the move.
    pub(crate) fn waits_for_open_transactions(&self) {
        let long = format!("pause_budget: {}s", LONG_BUDGET.as_secs());
        self.reconfigure(|yaml| yaml.replace("pause_budget: 3s", &long));
    }

    /// Changes the configuration.
    pub(crate) fn reconfigure(&self, change: impl FnOnce(&str) -> String) {
        let path = self.folder().join("cutover.yaml");
        let yaml = read(&path);
        let changed = change(&yaml);
        assert_ne!(yaml, changed, "nothing to change");
        fs::write(&path, changed).expect("cutover.yaml is written");
    }

    /// Moves the state of a run that is over away, as `CUT0506` says, so that a new one can begin.
    pub(crate) fn put_state_away(&self) {
        let state = self.folder().join("state");
        fs::rename(&state, self.folder().join("state.old")).expect("the state folder moves");
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.folder.path()
    }

    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.folder().join("state").join(name)
    }

    /// The log of every `cutover run` so far, and of their guards.
    pub(crate) fn log(&self) -> String {
        read(&self.folder().join("run.log"))
    }

    fn ours(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("-c")
            .arg(self.folder().join("cutover.yaml"))
            .envs(self.0.environment.iter().cloned())
            .env_remove("CUTOVER_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Gives a command with `--json` and waits for its end.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Ended {
        let mut command = tokio::process::Command::from(self.ours());
        command.args(arguments).arg("--json").kill_on_drop(true);
        let output = tokio::time::timeout(COMMAND_WITHIN, command.output())
            .await
            .unwrap_or_else(|_| panic!("`cutover {}` does not end", arguments.join(" ")))
            .expect("the program starts");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = format!("{out}\n{}", String::from_utf8_lossy(&output.stderr));
        self.keeps_secrets(&arguments.join(" "), &said);
        Ended {
            exit: output.status.code().unwrap_or(-1),
            value: serde_json::from_str(&out).unwrap_or_default(),
            said,
        }
    }

    /// What `cutover status --json` prints, over the same socket and without a process for each
    /// look; nothing when nobody answers.
    pub(crate) async fn status(&self) -> Option<Value> {
        let state = self.folder().join("state");
        let within = Some(Duration::from_secs(10));
        let answer = socket::ask(&state, &Request::Status, within, |_| ()).await.ok()?;
        self.keeps_secrets("status", &answer.value.to_string());
        (answer.exit == 0).then_some(answer.value)
    }

    /// Makes a move. On a machine that has other things to do it may be refused, or taken back with
    /// the traffic where it was; both are fair, and it is asked for again.
    pub(crate) async fn moves(&self, command: &str) -> Ended {
        let deadline = Instant::now() + COMMAND_WITHIN;
        loop {
            let ended = self.ask(&[command]).await;
            if ended.exit == 0 || Instant::now() > deadline {
                return ended;
            }
            assert!(ended.exit == 1 && ended.may_pass(), "{}", ended.said);
        }
    }

    /// Asks for a move that is refused, and goes on until the refusal has this word: a machine that
    /// has other things to do may refuse it for that before it comes to the reason.
    pub(crate) async fn refuses(&self, command: &str, word: &str) -> Ended {
        let deadline = Instant::now() + COMMAND_WITHIN;
        loop {
            let ended = self.ask(&[command]).await;
            ended.exits(1);
            if ended.said.contains(word) || !ended.may_pass() || Instant::now() > deadline {
                ended.says(word);
                return ended;
            }
        }
    }

    /// Waits until the move that was `asked` for, whose facts come behind the first `since` bytes of
    /// their journal, has begun `step`. `false` when it ended without.
    pub(crate) async fn reaches(
        &self,
        since: usize,
        step: &str,
        asked: &tokio::task::JoinHandle<Ended>,
    ) -> bool {
        let mut begun = false;
        wait_for(step, COMMAND_WITHIN, async || {
            // Asked first: what has ended writes no more.
            let over = asked.is_finished();
            let facts = self.facts_since("moves.journal", since);
            begun = facts.iter().any(|f| f["fact"] == "step" && f["step"] == step);
            (begun || over).then_some(())
        })
        .await
        .expect("the move comes to the step, or ends");
        begun
    }

    /// Rehearses, so that the fence is awake and a client that writes is met in the pause, and not
    /// before it.
    pub(crate) async fn wakes_the_fence(&self, run: &mut Run) {
        self.moves("rehearse").await.exits(0);
        run.ready().await;
    }

    /// Gives a command that others are waited for meanwhile.
    pub(crate) fn begin(
        &self,
        arguments: &'static [&'static str],
    ) -> tokio::task::JoinHandle<Ended> {
        let desk = self.clone();
        tokio::spawn(async move { desk.ask(arguments).await })
    }

    /// The same with a move, which is asked for again when a busy machine refuses it before
    /// anybody waits.
    pub(crate) fn begin_move(&self, command: &'static str) -> tokio::task::JoinHandle<Ended> {
        let desk = self.clone();
        tokio::spawn(async move {
            let deadline = Instant::now() + COMMAND_WITHIN;
            loop {
                let ended = desk.ask(&[command]).await;
                let unfelt = ended.exit == 1 && ended.value["pause_ms"].is_null();
                if !(unfelt && ended.may_pass()) || Instant::now() > deadline {
                    return ended;
                }
            }
        })
    }

    pub(crate) fn begin_switch(&self) -> tokio::task::JoinHandle<Ended> {
        self.begin_move("switch")
    }

    /// Starts `cutover run` in the background.
    pub(crate) fn run(&self) -> Run {
        self.run_with(&[])
    }

    pub(crate) fn run_with(&self, arguments: &[&str]) -> Run {
        self.run_of(Path::new(PROGRAM), arguments)
    }

    /// The same with a program of its own, a copy of ours.
    pub(crate) fn run_of(&self, program: &Path, arguments: &[&str]) -> Run {
        let path = self.folder().join("run.log");
        let open = || OpenOptions::new().create(true).append(true).open(&path).expect("a log");
        let (log, out): (File, File) = (open(), open());
        let ours = self.ours();
        // A file that may not grow is an error to be told of, as a full disk is, and no signal.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
        command.arg(program).args(ours.get_args()).stdin(Stdio::null());
        for (name, value) in ours.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(["run", "--yes"]).args(arguments).stdout(out).stderr(log);
        Run { desk: self.clone(), child: command.spawn().expect("the program starts") }
    }

    /// Looks at the facts that a journal gained since it had `since` bytes, in a blocking thread, until `enough` says so or time is over; whether it did.
    pub(crate) async fn watch(
        &self,
        journal: &'static str,
        since: usize,
        within: Duration,
        enough: impl Fn(&[Value]) -> bool + Send + 'static,
    ) -> bool {
        let desk = self.clone();
        let watching = tokio::task::spawn_blocking(move || {
            let (began, mut seen) = (Instant::now(), since);
            while began.elapsed() < within {
                let now = desk.length_from(journal, seen);
                if now != seen && enough(&desk.facts_since(journal, since)) {
                    return true;
                }
                seen = now;
                std::thread::park_timeout(Duration::from_micros(500));
            }
            false
        });
        watching.await.expect("the watch does not panic")
    }

    /// Facts of a journal in the state folder, oldest first; a line that is just being written is
    /// left out.
    pub(crate) fn facts(&self, journal: &str) -> Vec<Value> {
        self.facts_since(journal, 0)
    }

    /// The same without the first `bytes` of the file.
    pub(crate) fn facts_since(&self, journal: &str, bytes: usize) -> Vec<Value> {
        let text = self.journal(journal, bytes);
        let text = String::from_utf8_lossy(&text);
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            // A checksum comes first; the header is no array.
            .filter_map(|line| serde_json::from_str::<Vec<Value>>(line.get(9..)?).ok())
            .flatten()
            .collect()
    }

    /// Bytes of a journal so far.
    pub(crate) fn length(&self, journal: &str) -> usize {
        self.length_from(journal, 0)
    }

    /// The same when it has at least `known` bytes.
    fn length_from(&self, journal: &str, known: usize) -> usize {
        let text = self.journal(journal, known);
        known + text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
    }

    /// What is written in a journal from byte `from` on. Zeros behind it are reserved space.
    fn journal(&self, journal: &str, from: usize) -> Vec<u8> {
        let mut text = Vec::new();
        let Ok(file) = File::open(self.state(journal)) else { return text };
        let mut piece = [0; 4096];
        while let Ok(read) = file.read_at(&mut piece, (from + text.len()) as u64) {
            let written = CStr::from_bytes_until_nul(&piece[..read]);
            let reserved = written.is_ok();
            text.extend_from_slice(written.map_or(&piece[..read], CStr::to_bytes));
            if read == 0 || reserved {
                break;
            }
        }
        text
    }

    /// Everything the program has written or said is free of secrets.
    #[track_caller]
    pub(crate) fn keeps_secrets(&self, what: &str, text: &str) {
        for (name, secret) in &self.0.environment {
            assert!(!text.contains(secret.as_str()), "the secret of {name} is in: {what}");
        }
    }

    /// No file below the folder holds a secret.
    #[track_caller]
    pub(crate) fn files_keep_secrets(&self) {
        let mut folders = vec![self.folder().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a readable folder").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.is_file() {
                    self.keeps_secrets(&path.display().to_string(), &read(&path));
                }
            }
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// A `cutover run` in the background; killed when it is dropped.
pub(crate) struct Run {
    desk: Desk,
    child: Child,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.kill9();
    }
}

impl Run {
    /// `kill -9`. Harmless when it has ended.
    pub(crate) fn kill9(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Number of the process.
    #[allow(dead_code, reason = "the campaign of faults asks")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What a service manager does to stop it; returns how it ended.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        send("TERM", u64::from(self.child.id()));
        self.ended(COMMAND_WITHIN).await
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        wait_for("`cutover run` to end", within, async || self.exit()).await.expect("it ends")
    }

    pub(crate) fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    /// Waits until `good` says yes to the status; fails at once when the run ends before.
    pub(crate) async fn status(
        &mut self,
        what: &str,
        within: Duration,
        good: impl Fn(&Value) -> bool,
    ) -> Value {
        let desk = self.desk.clone();
        let mut last = None;
        let found = wait_for(what, within, async || {
            if let Some(status) = self.exit() {
                panic!("`cutover run` ended ({status}) instead of: {what}");
            }
            last = desk.status().await;
            last.clone().filter(&good)
        })
        .await;
        found.unwrap_or_else(|e| panic!("{e}; the last status: {last:?}"))
    }

    /// Waits until a move would be accepted.
    pub(crate) async fn ready(&mut self) -> Value {
        self.status("the run to be ready for a move", READY_WITHIN, |s| {
            s["ready"]["state"] == "ready"
        })
        .await
    }

    /// Waits until the run is in `phase`.
    pub(crate) async fn phase(&mut self, phase: &str) -> Value {
        self.status(&format!("phase {phase}"), READY_WITHIN, |s| s["phase"] == phase).await
    }

    /// Waits until both streams are there, in whatever health.
    pub(crate) async fn streams(&mut self) -> Value {
        self.status("the streams", READY_WITHIN, |s| s["streams"].is_object()).await
    }

    /// The same, or how it ended before.
    pub(crate) async fn ended_or_streams(&mut self) -> Option<ExitStatus> {
        let desk = self.desk.clone();
        wait_for("the streams, or the end", READY_WITHIN, async || {
            if let Some(ended) = self.exit() {
                return Some(Some(ended));
            }
            desk.status().await.is_some_and(|s| s["streams"].is_object()).then_some(None)
        })
        .await
        .expect("either")
    }

    /// `kill -9` as soon as `now` says yes to the facts that `journal` gained since this call.
    /// Looks at it much more often than a step of a move takes. Returns those facts.
    pub(crate) async fn kill_when(
        self,
        journal: &'static str,
        what: &str,
        now: impl Fn(&[Value]) -> bool + Send + 'static,
    ) -> Vec<Value> {
        self.signal_when("KILL", journal, what, now).await.1
    }

    /// The same with another signal; gives itself back.
    pub(crate) async fn signal_when(
        mut self,
        signal: &'static str,
        journal: &'static str,
        what: &str,
        now: impl Fn(&[Value]) -> bool + Send + 'static,
    ) -> (Self, Vec<Value>) {
        let since = self.desk.length(journal);
        let watching = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            while began.elapsed() < READY_WITHIN && self.exit().is_none() {
                if now(&self.desk.facts_since(journal, since)) {
                    match signal {
                        "KILL" => self.kill9(),
                        signal => send(signal, u64::from(self.child.id())),
                    }
                    let facts = self.desk.facts_since(journal, since);
                    return Some((self, facts));
                }
                std::thread::park_timeout(Duration::from_micros(200));
            }
            None
        });
        let seen = watching.await.expect("the watch does not panic");
        seen.unwrap_or_else(|| panic!("never seen in {journal}, or the run ended: {what}"))
    }
}

/// Sends a signal to a process that this story started.
#[track_caller]
pub(crate) fn send(signal: &str, process: u64) {
    let kill = format!("kill -{signal} {process}");
    let sent = Command::new("/bin/sh").args(["-c", &kill]).status().expect("a shell");
    assert!(sent.success(), "{kill}");
}

/// Processes whose command line names the desk's folder: number, and whether it is the guard.
pub(crate) fn processes(desk: &Desk) -> Vec<(u32, bool)> {
    let found = processes_of(desk.folder()).into_iter();
    found.map(|(pid, line)| (pid, line.split('\0').any(|word| word == "guard"))).collect()
}

/// Processes whose command line names a folder, with that line.
pub(crate) fn processes_of(folder: &Path) -> Vec<(u32, String)> {
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains(&folder) {
            found.push((pid, line));
        }
    }
    found
}

/// Sends a signal to a process that may be gone.
#[allow(dead_code, reason = "the campaign of faults sends it")]
pub(crate) fn signal(name: &str, pid: u32) {
    let kill = format!("kill -{name} {pid} 2>/dev/null");
    Command::new("/bin/sh").args(["-c", &kill]).status().expect("a shell");
}

/// Whether files of a process can be kept from being written here.
pub(crate) fn can_fill_disks() -> bool {
    let status = Command::new("prlimit")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// From here on every write to a file fails in this process, or is possible again.
pub(crate) fn limit_files(pid: u32, bytes: &str) {
    // The hard limit stays, so that no rights are needed to lift it. It may be gone.
    Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:unlimited")])
        .stderr(Stdio::null())
        .status()
        .expect("prlimit");
}
